from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tether
from tests.methods.mixing_digits import fit, perceptron
from tests.methods.noisy_digits import upright
from tests.reference import mixing_twins as twins
from tether import CutMix, DecoupledMixup, Mixup, TetherError, attach
from tether.engine.order import arrange
from tether.functional import cutmix, mixup, mixup_cross_entropy
from tether.methods.inputs.mixing import (
    cutmix_box,
    mix_rows,
    mixable,
    mixed_targets,
    mixing_ratio,
    partners,
    sample_beta,
)
from tether.schedule import Schedule


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# -- formulas --------------------------------------------------------------------------------------


def test_mixed_rows_and_their_loss_agree_with_the_twins() -> None:
    x, z = normal(6, 3, 2), normal(6, 4, seed=1)
    rows, lam = torch.tensor([3, 0, 2, 5, 1, 4]), torch.rand(6, generator=seeded()).double()
    found = mix_rows(x, rows, lam)
    np.testing.assert_allclose(found, twins.mixed(x.numpy(), rows.tolist(), lam.numpy()), 1e-6)
    a = torch.tensor([0, 3, 1, 1, 2, 0])
    b = a[rows]
    wanted = twins.mixed_cross_entropy(z.numpy(), a.tolist(), b.tolist(), lam.numpy())
    target = tether.methods.inputs.mixed_batches.MixedTarget(a, b, lam)
    assert float(mixup_cross_entropy(z, target)) == pytest.approx(wanted, abs=1e-9)
    soft = mixed_targets(a, rows, lam, num_classes=4)
    assert float(nn.functional.cross_entropy(z, soft)) == pytest.approx(wanted, abs=1e-9)
    assert torch.autograd.gradcheck(lambda v, s: mix_rows(v, rows, s), [
        x.requires_grad_(), lam.requires_grad_()
    ])  # fmt: skip


def test_ratios_follow_the_beta_distribution_and_stay_numbers() -> None:
    stats = pytest.importorskip("scipy.stats")
    draws = mixing_ratio(0.4, (20_000,), generator=seeded())
    assert stats.kstest(draws.numpy(), stats.beta(0.4, 0.4).cdf).pvalue > 0.01
    two = sample_beta(torch.tensor(2.0), torch.full((20_000,), 5.0), seeded(1))
    assert stats.kstest(two.numpy(), stats.beta(2, 5).cdf).pvalue > 0.01
    assert bool(torch.isfinite(mixing_ratio(0.001, (1000,), generator=seeded())).all())


def test_partners_are_a_permutation_and_others_where_asked() -> None:
    for seed in range(20):
        for others in (False, True):
            rows = partners(7, generator=seeded(seed), others=others)
            assert sorted(rows.tolist()) == list(range(7))
        assert not (rows == torch.arange(7)).any()


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.9, 1.0])
def test_boxes_are_clipped_and_their_share_is_counted(lam: float) -> None:
    boxes = [cutmix_box(7, 9, lam, generator=seeded(seed)) for seed in range(20)]
    wanted = [
        twins.box(7, 9, lam, (y, x)) for y in range(7) for x in range(9)
    ]  # every centre  # fmt: skip
    for box, kept in boxes:
        assert float(kept) == pytest.approx(1 - float(box.float().mean()))
        assert any(np.array_equal(box.numpy(), one) for one, _ in wanted)
    if 0 < lam < 1:
        assert len({tuple(box.flatten().tolist()) for box, _ in boxes}) > 3
    if lam == 1.0:
        assert all(float(kept) == 1.0 for _, kept in boxes)


def test_cutmix_keeps_the_share_of_pixels_that_it_says() -> None:
    x = torch.arange(4.0)[:, None, None, None].expand(4, 2, 8, 8)
    pasted, target = cutmix(x, torch.arange(4), 1.0, generator=seeded(3))
    for i in range(4):
        assert float((pasted[i] == i).float().mean()) == pytest.approx(float(target.lam))
        assert set(pasted[i].unique().tolist()) <= {float(i), float(target.y_b[i])}
    blended, target = mixup(x, torch.arange(4), 1.0, generator=seeded(3))
    lam, other = float(target.lam), target.y_b.float()
    torch.testing.assert_close(blended[:, 0, 0, 0], lam * torch.arange(4.0) + (1 - lam) * other)


def test_rows_that_do_not_count_stay_whole_with_their_partners() -> None:
    y, rows = torch.tensor([1, -100, 0, 2]), torch.tensor([1, 2, 3, 0])
    share = mixable(y, rows, 0.6)
    assert share.tolist() == pytest.approx([1.0, 1.0, 0.6, 0.6])
    soft = mixed_targets(y, rows, share, num_classes=3)
    assert soft[0].tolist() == [0, 1, 0] and not soft[1].any()
    assert soft[2].tolist() == pytest.approx([0.6, 0, 0.4])


# -- attached --------------------------------------------------------------------------------------


class Seen(nn.Module):
    """A network that keeps what it is given."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(12, 8), nn.Linear(8, outputs)

    def forward(self, x):
        self.got = x
        return self.head(self.body(x.flatten(1)).relu())


X = torch.randn(16, 3, 2, 2, generator=seeded(1))
Y = torch.randint(0, 3, (16,), generator=seeded(2))


def attached(method, model=None, y=Y, x=X, **options):
    model = Seen() if model is None else model
    data = TensorDataset(x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = attach(model, method, optimizer, train_data=data, epochs=1, **options)
    return model, reg, DataLoader(data, batch_size=8)


@pytest.mark.parametrize("method", [Mixup(1.0), CutMix(1.0)])
def test_the_loss_is_that_of_the_mixed_rows(method) -> None:
    model, reg, loader = attached(method)
    for at, (x, y) in enumerate(reg.batches(loader)):
        assert torch.equal(y, Y[8 * at : 8 * at + 8])  # labels stay as they are
        logits = model(x)
        rows, lam = reg.maker._carried["mix"]
        original = X[8 * at : 8 * at + 8]
        assert torch.equal(reg.maker._carried["unmixed"][0][0], original)
        if isinstance(method, Mixup):
            assert 0.5 <= float(lam[0]) <= 1
            torch.testing.assert_close(x, mix_rows(original, rows, lam))
        else:
            kept = (x == original).flatten(1).float().mean(1)
            torch.testing.assert_close(kept, lam)
        wanted = twins.mixed_cross_entropy(
            logits.detach().double().numpy(), y.tolist(), y[rows].tolist(), lam.double().numpy()
        )
        assert float(reg.loss(logits, y).detach()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("loss", "outputs"), [("mse", 1), ("binary_cross_entropy", 3)])
def test_numbers_and_multi_label_targets_are_mixed(loss: str, outputs: int) -> None:
    y = torch.rand(16, generator=seeded(4)) if outputs == 1 else (normal(16, 3) > 0).float()
    model, reg, loader = attached(Mixup(1.0), Seen(outputs), y, loss=loss)
    x, targets = next(reg.batches(loader))
    logits = model(x)
    rows, lam = reg.maker._carried["mix"]
    mixed = mix_rows(targets, rows, lam).view_as(logits)
    kernel = nn.functional.mse_loss
    kernel = kernel if outputs == 1 else nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(reg.loss(logits, targets), kernel(logits, mixed))


def test_a_falling_alpha_ends_the_mixing() -> None:
    method = Mixup("step(0.4, 0, 0.5)")
    assert method.schedules()["alpha"](0.9) == 0.0 and isinstance(
        Schedule("step(1, 0, 0.5)"), Schedule
    )
    model, reg, loader = attached(method)
    seen = []
    for x, y in reg.batches(loader):
        seen.append(torch.equal(x, X[:8]) or torch.equal(x, X[8:]))
        reg.loss(model(x), y).backward()
        reg.seam.optimizer.step()
    assert seen == [False, True]


def test_in_evaluation_mode_batches_are_handed_through() -> None:
    model, reg, loader = attached(Mixup(1.0))
    model.eval()
    x, y = next(reg.batches(loader))
    assert torch.equal(x, X[:8])
    torch.testing.assert_close(reg.loss(model(x), y), nn.functional.cross_entropy(model(x), y))


def test_what_cannot_be_mixed_is_said() -> None:
    for make in (lambda: Mixup(-1), lambda: CutMix(-0.1), lambda: DecoupledMixup(alpha=-1)):
        with pytest.raises(ValueError, match="alpha must be >= 0"):
            make()
    with pytest.raises(TetherError, match="works with the loss"):
        attached(Mixup(), loss="token_cross_entropy")
    model, reg, _ = attached(Mixup(1.0))
    with pytest.raises(TetherError, match=r"'mixup' changes the batches.*reg\.batches\(loader\)"):
        reg.loss(model(X), Y)
    model, reg, loader = attached(Mixup(1.0))
    x, y = next(reg.batches(loader))
    with pytest.raises(TetherError, match="8 rows were mixed and there are 4"):
        reg.loss(model(x[:4]), y[:4])
    reg.loss(model(x), y)
    with pytest.raises(TetherError, match="once for each of its batches"):
        reg.loss(model(x), y)
    model, reg, loader = attached(CutMix(1.0), x=X.flatten(1))
    with pytest.raises(TetherError, match=r"'cutmix' cuts boxes out of images.*\(8, 12\)"):
        next(reg.batches(loader))
    model, reg, loader = attached(Mixup(1.0), x=X.long())
    with pytest.raises(TetherError, match="'mixup' blends numbers.*no embedding layer"):
        next(reg.batches(loader))


def test_who_may_stand_beside_mixed_rows() -> None:
    from tether import ProgressiveSelfDistillation, RegSL, SelfLabelCorrection

    with pytest.raises(TetherError, match="'cutmix' and 'mixup' cannot be combined: both mix"):
        arrange([Mixup(), CutMix()])
    for other in (SelfLabelCorrection(), ProgressiveSelfDistillation(), RegSL()):
        with pytest.raises(TetherError, match="mixup.*goes by the sample of each row"):
            arrange([Mixup(), other])
    arrange([Mixup(), tether.LabelSmoothing(), tether.AdaRand(), tether.L2SP()])


# -- texts -----------------------------------------------------------------------------------------


def bert(**changes):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, num_labels=3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **changes,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def texts(n: int = 8, longest: int = 6):
    ids = torch.randint(5, 40, (n, longest), generator=seeded(5))
    lengths = torch.randint(2, longest + 1, (n,), generator=seeded(6))
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, torch.arange(n) % 3


def mixed_by_hand(model, inputs, rows, lam):
    mask = inputs["attention_mask"]
    vectors = model.get_input_embeddings()(inputs["input_ids"]) * mask[..., None]
    vectors = mix_rows(vectors, rows, lam)
    return model(inputs_embeds=vectors, attention_mask=torch.maximum(mask, mask[rows])).logits


@pytest.mark.parametrize("compiled", [False, True])
def test_texts_are_mixed_behind_the_embedding_layer(compiled: bool) -> None:
    model = bert().train()
    inputs, y = texts()
    batch = [{**inputs, "labels": y}]
    method = Mixup(1.0)
    called = torch.compile(model, backend="eager") if compiled else model
    reg = attach(called, method, torch.optim.SGD(model.parameters(), lr=0.1))
    for step in range(2):
        given = dict(next(reg.batches(batch)))
        labels = given.pop("labels")
        assert torch.equal(given["input_ids"], inputs["input_ids"])
        rows, lam = reg.maker._carried["mix"]
        logits = called(**given).logits
        wanted = given["attention_mask"]
        assert torch.equal(wanted, torch.maximum(inputs["attention_mask"],
                                                 inputs["attention_mask"][rows]))  # fmt: skip
        reg.loss(logits, labels).backward()
        reg.detach() if step else None
        method._words = None
        torch.testing.assert_close(
            logits, mixed_by_hand(model, inputs, rows, lam), rtol=1e-4, atol=1e-5
        )
        assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    torch.testing.assert_close(model(**inputs).logits, model(**inputs).logits)


def test_the_teacher_sees_the_same_mixed_texts_and_other_forwards_do_not() -> None:
    from tests.engine.test_context import Probe

    model = bert().train()
    inputs, y = texts()
    look = {}

    def ask(ctx, batch):
        look["teacher"] = ctx.teacher().logits
        look["other"] = ctx.forward(**inputs, grad=False).logits
        return None

    class Looking(Probe):
        def penalty(self, batch):
            self.look(self.ctx, batch)
            return batch.logits.sum() * 0.0

    reg = attach(model, [Mixup(1.0), Looking(ask)], torch.optim.SGD(model.parameters(), lr=0.1))
    given = dict(next(reg.batches([{**inputs, "labels": y}])))
    labels = given.pop("labels")
    logits = model(**given).logits
    reg.loss(logits, labels)
    torch.testing.assert_close(look["teacher"], logits.detach())
    reg.detach()
    torch.testing.assert_close(look["other"], model(**inputs).logits.detach())
    assert not torch.allclose(look["other"], look["teacher"], atol=1e-5)


def test_an_embedding_layer_that_is_not_called_is_said() -> None:
    model = bert().train()
    inputs, y = texts()
    reg = attach(model, Mixup(1.0), torch.optim.SGD(model.parameters(), lr=0.1))
    given = dict(next(reg.batches([{**inputs, "labels": y}])))
    vectors = model.get_input_embeddings().weight[given["input_ids"]]
    with pytest.raises(TetherError, match="mixes behind the layer.*word_embeddings.*nothing was"):
        reg.loss(model(inputs_embeds=vectors).logits, y)


# -- what it is for --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mixup_does_not_memorise_wrong_labels(seed: int) -> None:
    data, found = upright(0.4, seed), {}
    for name, methods in (("plain", []), ("mixup", [Mixup(8.0)])):
        net = perceptron(seed)
        fit(net, data.x, data.given, methods, epochs=40, batch_size=100, lr=0.1, seed=seed)
        found[name] = data.accuracy(net), data.memorised(net)
    assert found["mixup"][0] > found["plain"][0] + 0.05
    assert found["mixup"][1] < 0.5 * found["plain"][1]
