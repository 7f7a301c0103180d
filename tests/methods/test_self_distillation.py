"""Self-distillation and the objective of further pretraining that it goes with."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn

from tests.methods.noisy_digits import images
from tests.reference import representation_twins as twins
from tether import MaskedPrediction, Method, SelfDistillation, TetherError, attach
from tether.functional import hidden_state_distillation
from tether.methods.features.masking import (
    hide_patches,
    masked_number_losses,
    masked_patch_losses,
    masked_word_losses,
    patches_of,
    random_mask,
)
from tether.methods.features.tokens import on_grid


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# -- the formulas ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_hidden_states_agree_with_their_twin(reduction: str) -> None:
    h, t, mask = normal(3, 4, 5), normal(3, 4, 5, seed=1), normal(3, 4, seed=2) > -0.8
    for given in (None, mask):
        found = hidden_state_distillation(h, t, given, reduction=reduction)
        told = None if given is None else given.numpy()
        wanted = twins.hidden_states(h.numpy(), t.numpy(), told, reduction)
        assert float(found) == pytest.approx(wanted, rel=1e-9)
    h.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: hidden_state_distillation(x, t), [h])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("patch", [2, 3])  # 3 leaves a border
def test_masked_pixels_agree_with_their_twin(patch: int, normalize: bool) -> None:
    x = normal(3, 2, 4, 4)
    count = (-(-4 // patch)) ** 2
    draw = torch.Generator().manual_seed(0)
    mask = random_mask(torch.ones(3, count, dtype=torch.bool), 0.6, draw)
    guess = normal(3, count, 2 * patch**2, seed=1).requires_grad_()
    found = masked_patch_losses(guess, x, mask, patch, normalize=normalize).mean()
    wanted = twins.masked_pixels(guess.detach().numpy(), x.numpy(), mask.numpy(), patch, normalize)
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-6)
    assert torch.autograd.gradcheck(
        lambda g: masked_patch_losses(g, x, mask, patch, normalize=normalize), [guess]
    )
    hidden = patches_of(hide_patches(x, mask, patch), patch)
    assert not hidden[mask].any()
    assert torch.equal(hidden[~mask], patches_of(x, patch)[~mask])


def test_masked_words_and_numbers_agree_with_their_twins() -> None:
    logits, words = 4 * normal(3, 5, 7), torch.randint(7, (3, 5))
    counts = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]).bool()
    found = masked_word_losses(logits, words, counts).mean()
    assert float(found) == pytest.approx(
        twins.masked_words(logits.numpy(), words.numpy(), counts.numpy()), rel=1e-9
    )
    guess, rows, mask = normal(3, 5), normal(3, 5, seed=1), counts
    each = [((guess[i] - rows[i])[mask[i]] ** 2).mean() for i in range(3)]
    torch.testing.assert_close(masked_number_losses(guess, rows, mask), torch.stack(each))


def test_a_share_of_what_may_be_hidden_is() -> None:
    allowed = torch.ones(200, 20, dtype=torch.bool)
    allowed[:, :4] = False
    allowed[0, 1:] = False
    draw = torch.Generator().manual_seed(0)
    mask = random_mask(allowed, 0.25, draw)
    assert not mask[~allowed].any()
    assert mask.sum(1)[1:].tolist() == [4] * 199 and not mask[0].any()
    assert (mask[1:].float().mean(0)[4:] - 0.25).abs().max() < 0.1  # any place


def test_tokens_are_brought_to_the_grid_of_the_patches() -> None:
    tokens = normal(2, 7, 3)
    assert torch.equal(on_grid(tokens, 2, 3), tokens[:, 1:])  # behind a class token
    assert on_grid(normal(2, 16, 3), 2, 2).shape == (2, 4, 3)
    row = on_grid(normal(2, 1, 3), 2, 2)
    assert torch.equal(row[:, 0], row[:, 3])


# -- attached --------------------------------------------------------------------------------------


class Patches(nn.Module):
    """A transformer of two layers on the 16 patches of a digit."""

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, 2, 2)
        self.place = nn.Parameter(0.1 * torch.randn(16, width))
        layer = functools.partial(
            nn.TransformerEncoderLayer, width, 4, 64, 0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.ModuleList([layer(), layer()])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        h = self.patch_embed(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            h = block(h)
        return self.norm(h)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.tokens(x).mean(1))


def digits(first: int, count: int, classes: range) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = images()
    rows = [i for i in range(first, len(y)) if int(y[i]) in classes][:count]
    return (x[rows] - 0.3).view(-1, 1, 8, 8) / 0.38, y[rows]


def pretrain(
    model: nn.Module, x: torch.Tensor, methods: list[Method], steps: int, seed: int
) -> dict[str, float]:
    """Train without labels; the last part of each method."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    reg = attach(model, methods, optimizer, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    nothing = torch.zeros(48, dtype=torch.long)
    for _ in range(steps):
        rows = torch.randint(len(x), (48,), generator=draw)
        optimizer.zero_grad()
        reg.loss(model(x[rows]), nothing).backward()
        optimizer.step()
    parts = {name: float(part) for name, part in reg.parts.items()}
    reg.finish()
    return parts


def test_no_label_is_read_where_the_objective_stands_alone() -> None:
    x, y = digits(0, 32, range(10))
    ends = []
    for labels in (y, (y + 3) % 10, torch.full_like(y, -100)):
        torch.manual_seed(0)
        model = Patches()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        reg = attach(model, MaskedPrediction(), optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            reg.loss(model(x), labels).backward()
            optimizer.step()
        ends.append(reg.finish().state_dict())
    for other in ends[1:]:
        for name, tensor in ends[0].items():
            torch.testing.assert_close(tensor, other[name], msg=name)
    torch.manual_seed(0)
    fresh = Patches().state_dict()
    assert torch.equal(fresh["head.weight"], ends[0]["head.weight"])
    assert not torch.equal(fresh["blocks.0.linear1.weight"], ends[0]["blocks.0.linear1.weight"])


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 16)
        self.mix = nn.GRU(16, 8, batch_first=True, bidirectional=True)
        self.out = nn.LayerNorm(16)
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.out(self.mix(self.words(input_ids))[0]).mean(1))


def test_words_are_hidden_but_for_padding_and_special_ones() -> None:
    torch.manual_seed(0)
    model, seen = Reader(), []
    method = MaskedPrediction(layer="out", ratio=0.5, mask_token=11, keep=[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    reg = attach(model, method, optimizer)
    hook = model.words.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    ids = torch.tensor([[1, 2, 3, 4, 5, 1, 0, 0], [1, 6, 7, 8, 9, 2, 3, 1]])
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        reg.loss(model(ids, attention_mask=ids != 0), torch.tensor([0, 1])).backward()
        optimizer.step()
        losses.append(float(reg.parts["masked_prediction"]))
    hook.remove()
    hidden = torch.stack(seen[1::2])
    assert torch.equal(seen[0], ids)
    changed = hidden != ids
    assert (hidden[changed] == 11).all() and not changed[:, (ids < 2)].any()
    assert changed.sum(2)[:, 0].tolist() == [2] * 60  # half of 4, and half of 6
    assert changed.sum(2)[:, 1].tolist() == [3] * 60
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_rows_of_numbers_are_predicted_too() -> None:
    x = images()[0][:64]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    reg = attach(model, MaskedPrediction(), optimizer)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        reg.loss(model(x), torch.zeros(64, dtype=torch.long)).backward()
        optimizer.step()
        losses.append(float(reg.parts["masked_prediction"]))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("make", [MaskedPrediction, SelfDistillation])
def test_unlabelled_inputs_are_asked_for_and_used(make) -> None:
    x, y = digits(0, 16, range(10))
    torch.manual_seed(0)
    model = Patches()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.norm.bias.add_(1.0)
    options = {"teacher": other} if make is SelfDistillation else {}
    reg = attach(
        model, make(source="unlabelled", **options), torch.optim.SGD(model.parameters(), lr=0.1)
    )
    with pytest.raises(TetherError, match="a batch of inputs without labels.*unlabelled="):
        reg.loss(model(x), y)
    name = make.info.name
    parts = []
    for extra in (x[:5], {"x": x[:5]}):
        reg.loss(model(x), y, unlabelled=extra)
        parts.append(float(reg.parts[name]))
    if make is SelfDistillation:  # the tokens are 1 apart in every coordinate
        assert parts == pytest.approx([1.0, 1.0])
    else:
        assert min(parts) > 0


def test_the_distance_to_the_teacher_is_positive_at_first_and_falls(tmp_path) -> None:
    from safetensors.torch import save_file

    x, y = digits(0, 64, range(10))
    torch.manual_seed(0)
    start = Patches()
    teacher = copy.deepcopy(start)
    pretrain(teacher, x, [MaskedPrediction()], 10, 0)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    kept = copy.deepcopy(teacher.state_dict())
    firsts = []
    for given in (teacher, str(tmp_path / "teacher.safetensors")):
        model = copy.deepcopy(start)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        reg = attach(model, SelfDistillation(100.0, teacher=given), optimizer)
        parts = []
        for _ in range(12):
            optimizer.zero_grad()
            reg.loss(model(x), y).backward()
            optimizer.step()
            parts.append(float(reg.parts["self_distillation"]))
        state = reg.state_dict()
        reg.detach()
        firsts.append(parts[0])
        assert parts[0] > 1e-3 and parts[-1] < 0.6 * parts[0]
        held = state["auxiliaries"]["self_distillation.teacher"]["module"]
        for name, tensor in kept.items():
            assert torch.equal(held[name], tensor), name
            assert torch.equal(teacher.state_dict()[name], tensor)
    assert firsts[0] == pytest.approx(firsts[1])
    wanted = hidden_state_distillation(start.tokens(x), teacher.tokens(x))
    assert firsts[0] == pytest.approx(100 * float(wanted.detach()), rel=1e-5)


def test_bad_input_is_refused(tmp_path) -> None:
    for make, options in (
        (MaskedPrediction, {"ratio": 1.0}), (MaskedPrediction, {"patch": 0}),
        (MaskedPrediction, {"source": "test"}), (SelfDistillation, {"reduction": "max"}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            make(**options)
    model = Patches()
    for method, message in (
        (SelfDistillation(teacher="previous"), "stage of tether tune"),
        (SelfDistillation(teacher=str(tmp_path / "no.safetensors")), "no such file"),
        (SelfDistillation(teacher=Patches(width=16)),
         r"another model: for 'place' of shape \(16, 32\) it has the shape \(16, 16\)"),
        (SelfDistillation(teacher=nn.Linear(2, 2)), "no such tensor"),
        (SelfDistillation(layer="blocks.7"), "no layer 'blocks.7' in the model; near: blocks"),
        (MaskedPrediction(layer="norms"), "near: norm"),
    ):  # fmt: skip
        with pytest.raises(TetherError, match=message):
            attach(model, method)
    reg = attach(model, SelfDistillation(teacher=Patches(classes=3)))  # another head will do
    reg.detach()


# -- the claim -------------------------------------------------------------------------------------


def _distance(model: nn.Module, start: nn.Module) -> float:
    pairs = zip(model.parameters(), start.parameters(), strict=True)
    return float(torch.stack([(p - q).square().sum() for p, q in pairs]).sum().sqrt().detach())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_distilled_student_stays_nearer_to_the_start_than_its_teacher(seed: int) -> None:
    """Pretrained on digits 0 to 4, further on few of 5 to 9."""
    torch.manual_seed(seed)
    start = Patches()
    pretrain(start, digits(0, 300, range(5))[0], [MaskedPrediction(ratio=0.5)], 30, seed)
    x, _ = digits(0, 100, range(5, 10))
    teacher, student = copy.deepcopy(start), copy.deepcopy(start)
    objective = functools.partial(MaskedPrediction, ratio=0.5)
    pretrain(teacher, x, [objective()], 40, seed)
    pretrain(student, x, [objective(), SelfDistillation(1.0, teacher=teacher)], 40, seed)
    far = {name: _distance(m, start) for name, m in (("A", teacher), ("B", student))}
    assert far["B"] < 0.97 * far["A"]
    with torch.no_grad():
        apart = hidden_state_distillation(student.tokens(x), teacher.tokens(x))
        before = hidden_state_distillation(start.tokens(x), teacher.tokens(x))
    print(far, float(apart), float(before))
    assert float(apart) < 0.5 * float(before)
