from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from tests.methods.noisy_digits import images, pretrained_body, small_net
from tests.reference import representation_twins as twins
from tether import FeatureAlignment, TetherError, attach
from tether.functional import alignment_loss
from tether.methods.features.alignment import alignment_losses, make_head, paired_tokens
from tether.methods.features.tokens import as_tokens, grid_of, match_grids


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# -- the formula -----------------------------------------------------------------------------------


def test_the_loss_and_the_head_agree_with_their_twins() -> None:
    h, t = normal(3, 5, 4), normal(3, 5, 6, seed=1)
    head = make_head("mlp3", 4, 6).double()
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in head[::2]]
    slow = np.stack([[twins.mlp3(token, layers) for token in row] for row in h.numpy()])
    np.testing.assert_allclose(head(h).detach().numpy(), slow, atol=1e-12)
    mask = normal(3, 5, seed=2) > -0.5
    for given in (None, mask):
        told = None if given is None else given.numpy()
        found = float(alignment_loss(head(h), t, given).detach())
        assert found == pytest.approx(twins.alignment(slow, t.numpy(), told), rel=1e-9)


def test_only_directions_matter_and_the_teacher_gets_no_gradient() -> None:
    h, t = normal(2, 3, 4).requires_grad_(), normal(2, 3, 4, seed=1).requires_grad_()
    alignment_loss(h, t).backward()
    assert t.grad is None and h.grad is not None
    torch.testing.assert_close(alignment_loss(3 * h, 0.2 * t), alignment_loss(h, t))
    assert float(alignment_loss(2 * t, t).detach()) == pytest.approx(-1.0)
    assert torch.autograd.gradcheck(lambda x: alignment_loss(x, t.detach()), [h])
    for loss in ("l2", "smooth_l1"):
        assert float(alignment_losses(t, t, loss=loss).sum()) == 0.0
        assert torch.autograd.gradcheck(lambda x, k=loss: alignment_losses(x, t, loss=k), [h])


# -- tokens ----------------------------------------------------------------------------------------


def test_layers_of_every_form_become_tokens() -> None:
    maps = normal(2, 3, 4, 4)
    assert as_tokens(normal(2, 3)).shape == (2, 1, 3)
    torch.testing.assert_close(as_tokens(maps)[:, 5], maps[:, :, 1, 1])
    last = maps.permute(0, 2, 3, 1)  # as a swin gives them
    torch.testing.assert_close(as_tokens((last, None), 3), as_tokens(maps, 3))
    assert as_tokens(torch.ones(2, 3, dtype=torch.bfloat16)).dtype is torch.float32
    with pytest.raises(TetherError, match="neither rows nor tokens"):
        as_tokens(normal(3))


@pytest.mark.parametrize(("count", "side"), [(16, 4), (17, 4), (18, 4), (21, 4), (1, 1), (7, None)])
def test_a_grid_is_found_behind_class_tokens(count: int, side: int | None) -> None:
    tokens = normal(2, count, 3)
    found = grid_of(tokens)
    if side is None:
        assert found is None
    else:
        assert found is not None and found[1] == side
        assert torch.equal(found[0], tokens[:, count - side * side :])


def test_grids_of_other_sizes_are_matched() -> None:
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 1, 4, 4)
    tokens = as_tokens(ramp)
    assert match_grids(tokens, 2).flatten().tolist() == [0.5, 0.5, 2.5, 2.5]
    assert match_grids(tokens, 8).view(8, 8)[:, 0].diff().min() >= 0
    student, teacher, whole = paired_tokens(
        normal(2, 16, 3), normal(2, 5, 7), maps=True, grid=16
    )  # 4 x 4 with 2 x 2 behind a class token
    assert student.shape == (2, 16, 3) and teacher.shape == (2, 16, 7) and not whole
    student, teacher, _ = paired_tokens(normal(2, 16, 3), normal(2, 16, 7), maps=True, grid=2)
    assert student.shape[1] == teacher.shape[1] == 4
    student, teacher, _ = paired_tokens(normal(2, 6, 3), normal(2, 1, 7), maps=False, grid=16)
    assert student.shape == (2, 1, 3) and teacher.shape == (2, 1, 7)
    assert paired_tokens(normal(2, 6, 3), normal(2, 6, 3), maps=False, grid=2)[2]


# -- attached --------------------------------------------------------------------------------------


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


X, Y = normal(6, 3, 16, 16).float(), torch.arange(6) % 3


def aligned(model: nn.Module, steps: int = 40, **options: object) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = attach(model, FeatureAlignment(weight=1.0, **options), optimizer)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        reg.loss(model(X), Y).backward()
        optimizer.step()
        found.append(float(reg.parts["feature_alignment"]))
    reg.detach()
    return found


def test_the_pretrained_network_is_the_teacher_by_default() -> None:
    torch.testing.assert_close(aligned(net(), 1, head="none"), [-1.0])
    found = aligned(net(), layer="0", teacher_layer="2")
    assert found[-1] < found[0] - 0.3
    assert all(-1.0 <= part <= 1.0 for part in found)


def test_the_gradient_reaches_the_layers_below_and_not_those_above() -> None:
    model = net()
    reg = attach(
        model,
        FeatureAlignment(layer="0", teacher_layer="2", head="linear"),
        torch.optim.SGD(model.parameters(), lr=0.1),
    )
    reg.loss(model(X), Y)
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg.detach()
    reg = attach(model, FeatureAlignment(1e6, layer="0", teacher_layer="2"), optimizer)
    reg.loss(model(X), torch.full((6,), -100)).backward()  # no task loss
    assert model[2].weight.grad is None or float(model[2].weight.grad.abs().max()) == 0.0
    before = model[0].weight.grad
    reg.loss(model(X), Y).backward()
    assert before is not None and float(model[0].weight.grad.abs().max()) > 1.0


def test_a_named_teacher_sees_the_pixels_under_its_own_normalisation() -> None:
    pytest.importorskip("timm")
    args = {"pretrained": False, "mean": 0.25, "std": 0.5}
    method = FeatureAlignment(
        teacher="timm:test_vit", teacher_args=args, mean=[0.1, 0.2, 0.3], std=2.0, layer="2"
    )
    model = net()
    reg = attach(model, method, torch.optim.SGD(model.parameters(), lr=0.1))
    reg.loss(model(X), Y)
    encoder = method._encoder
    assert encoder is not None and encoder.image is not None
    shown: list[torch.Tensor] = []
    hook = encoder.model.register_forward_pre_hook(lambda m, given: shown.append(given[0]))
    encoder.tell = encoder.model  # whose call the hook sees
    encoder((X,), {})
    hook.remove()
    plain = 2.0 * X + torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    wanted = nn.functional.interpolate(
        plain, encoder.image.size, mode="bicubic", align_corners=False, antialias=True
    )
    torch.testing.assert_close(shown[0], (wanted - 0.25) / 0.5)
    assert not any("teacher" in name for name in reg.state_dict()["auxiliaries"])
    with pytest.raises(TetherError, match="mean= and std="):
        attach(net(), FeatureAlignment(teacher="timm:test_vit", teacher_args=args, layer="2"))
    for given, message in (
        ({"teacher": "timm:test_vitt"}, "no model 'test_vitt'"),
        ({"teacher": "timm:test_vit", "teacher_args": args, "teacher_layer": "blocks.9"},
         "no layer 'blocks.9' in the teacher; near: blocks"),
    ):  # fmt: skip
        with pytest.raises(TetherError, match=message):
            attach(net(), FeatureAlignment(layer="2", mean=0.0, std=1.0, **given))


def test_bad_input_is_refused() -> None:
    for options in ({"head": "mlp9"}, {"loss": "l1"}, {"grid": 0}, {"teacher_weights": "a"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            FeatureAlignment(**options)
    with pytest.raises(TetherError, match=r"no layer '22' in the model; near: .*2"):
        attach(net(), FeatureAlignment(layer="22"))
    with pytest.raises(TetherError, match="head='none' compares 6 coordinates"):
        attach(net(), FeatureAlignment(layer="0", teacher_layer="2", head="none"))
    with pytest.raises(TetherError, match="does not tell how wide"):
        attach(net(), FeatureAlignment(layer="1"))
    frozen = net()
    frozen[:6].requires_grad_(False)
    with pytest.warns(UserWarning, match="feature_alignment can only act through them"):
        attach(frozen, FeatureAlignment(layer="2"))


def test_padded_tokens_do_not_count() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.mix = nn.Embedding(9, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, input_ids, attention_mask=None):
            return self.head(self.mix(self.words(input_ids))[:, 0])

    torch.manual_seed(0)
    model = Reader()
    method = FeatureAlignment(1.0, layer="mix")
    reg = attach(model, method, torch.optim.SGD(model.parameters(), lr=0.1))
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    parts = []
    for filler in (0, 7):
        given = torch.where(ids == 0, filler, ids)
        reg.loss(model(given, attention_mask=ids != 0), torch.tensor([0, 1]))
        parts.append(float(reg.parts["feature_alignment"]))
    assert parts[0] == pytest.approx(parts[1])


# -- the claim -------------------------------------------------------------------------------------


def probe(train: torch.Tensor, y: torch.Tensor, test: torch.Tensor, truth: torch.Tensor) -> float:
    """Accuracy of ridge regression to one-hot labels."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    a, b = (torch.cat([(x - mean) / std, torch.ones(len(x), 1)], 1) for x in (train, test))
    left = a.T @ a + torch.eye(a.shape[1])
    head = torch.linalg.solve(left, a.T @ nn.functional.one_hot(y, 10).float())
    return float(((b @ head).argmax(1) == truth).float().mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bottleneck_learns_what_the_encoder_knows(seed: int) -> None:
    """An autoencoder of digits, aligned with a classifier's hidden layer."""
    x, y = images()
    known = small_net()
    known.load_state_dict(pretrained_body())
    train, test = slice(0, 900), slice(900, None)
    found = {}
    for weight in (0.0, 0.5):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 6), nn.Linear(6, 128), nn.ReLU(),
            nn.Linear(128, 64),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        method = FeatureAlignment(weight, layer="2", teacher=known[:4], head="mlp3")
        reg = attach(model, method, optimizer, loss="mse")
        draw = torch.Generator().manual_seed(seed)
        for _ in range(25):
            for rows in torch.randperm(900, generator=draw).split(60):
                optimizer.zero_grad()
                reg.loss(model(x[rows]), x[rows]).backward()
                optimizer.step()
        body = reg.finish()[:3]
        with torch.no_grad():
            accuracy = probe(body(x[train]), y[train], body(x[test]), y[test])
            error = float((model(x[test]) - x[test]).square().mean())
        found[weight] = (accuracy, error)
    assert found[0.5][0] > found[0.0][0] + 0.03
    assert found[0.5][1] < 1.6 * found[0.0][1]


def test_no_warning_without_need() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(net(), FeatureAlignment(layer="2")).detach()
