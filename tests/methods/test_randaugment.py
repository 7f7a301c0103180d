from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.methods.noisy_digits import images as digits
from tests.reference import layer_input_twins as twins
from tether import RandAugment, TetherError, attach
from tether.data.transforms import image_encoder
from tether.errors import ConfigError
from tether.methods.inputs.augmentation import RandomOperations, change_images
from tether.models.spec import ImagePreprocess

pytest.importorskip("torchvision")
Image = pytest.importorskip("PIL.Image")


def photos(n: int = 6, side: int = 24, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Smooth images, uint8."""
    rough = torch.rand(n, channels, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(rough, size=(side, side), mode="bilinear")
    return (255 * smooth).round().to(torch.uint8)


# -- the operations ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torchvision", "timm"])
def test_nothing_at_strength_zero_without_fixed_operations_nor_with_none(backend: str) -> None:
    still = RandomOperations(0.0, 3, backend, include_fixed_ops=False)
    none = RandomOperations(1.0, 0, backend)
    for change in (still, none):
        assert torch.equal(change_images(photos(), change, 0), photos())


@pytest.mark.parametrize("backend", ["torchvision", "timm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_change_grows_with_the_strength(backend: str, channels: int) -> None:
    x = photos(60, channels=channels)
    moved = []
    for strength in (0.02, 0.2, 0.5, 1.0):
        change = RandomOperations(strength, 2, backend, include_fixed_ops=False)
        out = change_images(x, change, 1)
        assert out.shape == x.shape and out.dtype == x.dtype
        moved.append(float((out.float() - x.float()).abs().mean()))
    assert moved == sorted(moved) and moved[-1] > 2 * moved[0], moved


def test_magnitudes_are_those_of_the_twin_on_either_scale() -> None:
    for strength in (0.0, 0.31, 0.5, 1.0):
        change = RandomOperations(strength, 1, "torchvision")
        change(photos(1)[0])
        assert change._transform.magnitude == twins.torchvision_magnitude(strength)
        change = RandomOperations(strength, 1, "timm")
        change(Image.fromarray(photos(1)[0].permute(1, 2, 0).numpy()))
        assert change._transform.ops[0].magnitude == pytest.approx(twins.timm_magnitude(strength))
        assert all(op.prob == 1.0 and not op.magnitude_std for op in change._transform.ops)


def test_the_same_seed_gives_the_same_images_and_leaves_the_generators_alone() -> None:
    for backend in ("torchvision", "timm"):
        change = RandomOperations(0.5, 2, backend)
        drawn = torch.get_rng_state(), np.random.get_state()[1].copy()
        first, again = (change_images(photos(), change, 3) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, change_images(photos(), change, 4))
        assert torch.equal(torch.get_rng_state(), drawn[0])
        assert (np.random.get_state()[1] == drawn[1]).all()


def test_a_strength_that_changes_reaches_copies_in_workers() -> None:
    change = RandomOperations(0.0, 2, "torchvision", include_fixed_ops=False)
    x = photos(1)[0]
    assert change(x) is x
    copied = pickle.loads(pickle.dumps(change))  # as a worker that is spawned gets it
    assert copied.num_ops == 2 and copied(x) is x
    change.set_strength(7.0)
    assert change.strength == 1.0


# -- batches -------------------------------------------------------------------------------------

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def normalised(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x.float() / 255 - mean) / std


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def seen(method: RandAugment, x: torch.Tensor, **attach_options: object) -> torch.Tensor:
    net = network()
    reg = attach(net, method, **attach_options)
    loader = DataLoader(TensorDataset(x, torch.zeros(len(x)).long()), len(x))
    (batch, _), *_ = list(reg.batches(loader))
    reg.detach()
    return batch


def test_a_batch_is_changed_in_its_pixels() -> None:
    raw = photos()
    method = RandAugment(strength=0.5, mean=MEAN, std=STD)
    found = seen(method, normalised(raw))
    change = RandomOperations(0.5, 2, "torchvision")
    reg = attach(network(), again := RandAugment(strength=0.5, mean=MEAN, std=STD))
    reg.phase = "inputs"
    wanted = change_images(raw, change, again.ctx.generator.initial_seed())
    torch.testing.assert_close(found, normalised(wanted))
    assert not torch.equal(found, normalised(raw))
    same = (wanted == raw).all(dim=(1, 2, 3))
    assert torch.equal(found[same], normalised(raw)[same])
    bytes_in = seen(RandAugment(strength=0.5), raw)
    assert torch.equal(bytes_in, wanted)


def test_evaluation_and_neutral_options_leave_batches_alone() -> None:
    x = normalised(photos())
    assert torch.equal(seen(RandAugment(num_ops=0), x), x)
    net = network().eval()
    reg = attach(net, RandAugment(mean=MEAN, std=STD))
    for batch, _ in reg.batches(DataLoader(TensorDataset(x, torch.zeros(6)), 6)):
        assert torch.equal(batch, x)


def test_the_strength_follows_its_schedule() -> None:
    net = network()
    method = RandAugment(strength="linear(0, 1)", mean=MEAN, std=STD)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    reg = attach(net, method, optimizer, epochs=2)
    data = TensorDataset(normalised(photos(8)), torch.zeros(8).long())
    strengths = []
    for _ in range(2):
        for x, y in reg.batches(DataLoader(data, 4)):
            strengths.append(reg.measure()["randaugment"]["strength"])
            reg.loss(net(x), y).backward()
            optimizer.step()
    assert strengths == [0.0, 0.25, 0.5, 0.75]
    fresh = RandAugment(strength="linear(0, 1)", mean=MEAN, std=STD)
    other = attach(network(), fresh, torch.optim.SGD(net.parameters(), lr=0.0), epochs=2)
    assert fresh.transform.strength == 0.0
    other.load_state_dict(reg.state_dict())
    assert fresh.transform.strength == 0.75  # what workers of a resumed run see


class Photos(Dataset):
    def __init__(self, transform) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int):
        image = Image.fromarray(photos(1, seed=row)[0].permute(1, 2, 0).numpy())
        changed = np.asarray(self.transform(image)).copy()
        return torch.from_numpy(changed).permute(2, 0, 1).float() / 255, row % 3


@pytest.mark.parametrize("backend", ["torchvision", "timm"])
def test_in_the_loader_images_differ_in_every_epoch_and_batches_are_left_alone(backend) -> None:
    method = RandAugment(strength=0.5, backend=backend)
    data = Photos(method.transform)
    plain = Photos(lambda image: image)
    reg = attach(network(), method)
    epochs = []
    for _ in range(2):
        torch.manual_seed(len(epochs))
        epochs.append(torch.cat([x for x, _ in reg.batches(DataLoader(data, 6, num_workers=1))]))
    untouched = torch.stack([plain[row][0] for row in range(12)])
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], untouched)
    torch.manual_seed(1)
    again = torch.cat([x for x, _ in DataLoader(data, 6, num_workers=1)])
    assert torch.equal(again, epochs[1])  # not changed once more on their way


def test_what_does_not_fit_is_refused() -> None:
    for options in (
        {"strength": 1.5}, {"num_ops": -1}, {"num_ops": 1.5}, {"backend": "kornia"}, {"std": 0.0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            RandAugment(**options)
    with pytest.raises(TetherError, match=r"pixels run from -.*mean=\.\.\. and std=\.\.\."):
        seen(RandAugment(), normalised(photos()))
    with pytest.raises(TetherError, match=r"images \[N, 1 or 3, H, W\].*\(6, 5\)"):
        seen(RandAugment(), torch.rand(6, 5))
    with pytest.raises(TetherError, match="holds none"):
        seen(RandAugment(), torch.ones(6, 5).long())
    with pytest.raises(ConfigError, match="the inputs are none"):
        RandAugment().take_facts({"image": None})


def test_the_encoder_of_runs_applies_it_after_the_crop_by_torchs_generator() -> None:
    size = ImagePreprocess(size=(16, 16), mean=MEAN, std=STD)
    image = Image.fromarray(photos(1)[0].permute(1, 2, 0).numpy())
    method = RandAugment(strength=1.0)
    encode = image_encoder(
        size, train=True, augment="none", input_name="x", change=method.transform
    )
    plain = image_encoder(size, train=True, augment="none", input_name="x")
    assert encode.draws and not plain.draws
    outs = []
    for seed in (0, 0, 1, 2):
        torch.manual_seed(seed)
        outs.append(encode(copy.copy(image))["x"])
    assert torch.equal(outs[0], outs[1])
    assert any(not torch.equal(outs[0], out) for out in outs[2:])
    assert any(not torch.equal(plain(image)["x"], out) for out in outs)


# -- digits --------------------------------------------------------------------------------------


def fit(strength: float, seed: int) -> tuple[float, float, float]:
    """Loss on the training images, loss and accuracy on test images, all unchanged."""
    x, y = digits()
    x = x.view(-1, 1, 8, 8)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    method = RandAugment(strength=strength, num_ops=1, include_fixed_ops=False)
    loader = DataLoader(TensorDataset(x[:100], y[:100]), 50, shuffle=True)
    with attach(net, method, optimizer, seed=seed) as reg:
        for _ in range(40):
            for bx, by in reg.batches(loader):
                optimizer.zero_grad()
                reg.loss(net(bx), by).backward()
                optimizer.step()
    with torch.no_grad():
        fitted, test = (F.cross_entropy(net(x[r]), y[r]) for r in (slice(100), slice(1000, None)))
        return (
            float(fitted),
            float(test),
            float((net(x[1000:]).argmax(1) == y[1000:]).float().mean()),
        )


def test_on_few_digits_the_gap_between_training_and_test_shrinks() -> None:
    plain, strong = (np.array([fit(s, seed) for seed in range(3)]) for s in (0.0, 0.5))
    assert (strong[:, 0] > 2.5 * plain[:, 0]).all(), (plain, strong)  # learnt less by heart
    gaps = [found[:, 1] - found[:, 0] for found in (plain, strong)]
    assert (gaps[1] < gaps[0]).all() and gaps[1].mean() < gaps[0].mean() - 0.01, gaps
    assert strong[:, 2].mean() > plain[:, 2].mean() - 0.02, (plain, strong)
