"""Saving, loading, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tests.engine.toys import Critic, Noise, Pull, Shrink, Table, mlp, samples
from tether import TetherError, attach
from tether.engine.reference import fingerprint, same_fingerprint
from tether.engine.state import load_tree, random_state, save_tree, set_random_state

X, Y = samples(32).tensors


def handle(methods, seed=0, **options):
    model = mlp(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return attach(model, methods, optimizer, train_data=samples(32), **options)


def step(reg):
    reg.loss(reg.model(X[:8]), Y[:8], index=torch.arange(8)).backward()
    reg.seam.optimizer.step()
    reg.seam.optimizer.zero_grad()


def test_trees_of_tensors_and_values_survive_a_file(tmp_path):
    shared = torch.arange(6.0)
    tree = {
        "a": shared,
        "same": shared,
        "view": shared[2:],
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.zeros(0),
        "scalar": torch.tensor(3),
        "none": None,
        "text": "ä",
        "list": [1, 2.5, {"deep": torch.zeros(2, 2)}],
        7: {1: "int keys"},
        "inf": float("inf"),
    }
    path = tmp_path / "deep" / "state.safetensors"
    save_tree(tree, path)
    back = load_tree(path)
    assert list(back) == list(tree)
    for key in ("a", "same", "view", "half", "empty", "scalar"):
        assert torch.equal(back[key], tree[key])
        assert back[key].dtype == tree[key].dtype
    assert back[7] == {1: "int keys"}
    assert torch.equal(back["list"][2]["deep"], torch.zeros(2, 2))
    assert back["inf"] == float("inf")
    assert [p.name for p in path.parent.iterdir()] == ["state.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.safetensors"
    save_tree({"a": 1}, path)
    with pytest.raises(TypeError):
        save_tree({"a": object()}, path)
    assert load_tree(path) == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_files_that_are_not_ours(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(TetherError, match="no state file at"):
        load_tree(tmp_path / "nothing")
    (tmp_path / "torn").write_bytes(b"\x10\x00\x00")
    with pytest.raises(TetherError, match="damaged"):
        load_tree(tmp_path / "torn")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(TetherError, match="not written by tether"):
        load_tree(tmp_path / "other")


def test_random_state_round_trip():
    import random

    import numpy as np

    state = random_state(torch.device("cpu"))
    first = (torch.rand(3).tolist(), random.random(), np.random.rand(2).tolist(), np.random.randn())
    set_random_state(state, torch.device("cpu"))
    again = (torch.rand(3).tolist(), random.random(), np.random.rand(2).tolist(), np.random.randn())
    assert first == again


@pytest.mark.parametrize("stop", range(1, 8))
def test_resume_in_the_middle_of_an_accumulation_window(tmp_path, stop):
    def run(stop_at=None, resume=None):
        recipe = [Pull(), Shrink(), Noise(), Table(), Critic(lambda p: torch.optim.Adam(p, lr=0.1))]
        reg = handle(recipe)
        model, optimizer = reg.model, reg.seam.optimizer
        micro = 0
        if resume:
            model.load_state_dict(resume["model"])
            optimizer.load_state_dict(resume["optimizer"])
            for p, g in zip(model.parameters(), resume["grads"], strict=True):
                p.grad = g
            reg.load(tmp_path / "s")
            micro = reg.micro_step
            if micro % 2 == 0:  # the window was full, its update is still to come
                optimizer.step()
                optimizer.zero_grad()
        while micro < 8:
            rows = torch.arange(4 * micro, 4 * micro + 4)
            (reg.loss(model(X[rows]), Y[rows], index=rows) / 2).backward()
            micro += 1
            if micro == stop_at:
                reg.save(tmp_path / "s")
                return {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "grads": [
                        None if p.grad is None else p.grad.clone() for p in model.parameters()
                    ],
                }
            if micro % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
        return model.state_dict(), reg.state_dict()

    whole, resumed = run(), run(resume=run(stop_at=stop))
    for key, value in whole[0].items():
        assert torch.equal(value, resumed[0][key])
    assert flat(whole[1]["methods"]) == flat(resumed[1]["methods"])
    assert flat(whole[1]["auxiliaries"]) == flat(resumed[1]["auxiliaries"])


def flat(tree):
    if isinstance(tree, torch.Tensor):
        return tree.tolist()
    if isinstance(tree, dict):
        return {str(k): flat(v) for k, v in tree.items()}
    return [flat(v) for v in tree] if isinstance(tree, (list, tuple)) else tree


def test_state_is_a_copy():
    reg = handle([Table()])
    step(reg)
    state = reg.state_dict()
    before = state["methods"]["table"]["rows"].clone()
    step(reg)
    assert torch.equal(before, state["methods"]["table"]["rows"])


def test_another_recipe_is_refused():
    state = handle([Table(), Pull()]).state_dict()
    reg = handle([Table(), Shrink()])
    with pytest.raises(TetherError, match="saved with the methods table, pull"):
        reg.load_state_dict(state)
    other = handle([Table(), Pull(weight=0.3)])
    with pytest.warns(UserWarning, match=r"resuming Pull\(\) as Pull\(weight=0.3\)"):
        other.load_state_dict(state)


def test_another_start_is_refused_and_nothing_changes():
    reg = handle([Pull(), Table()])
    step(reg)
    state = reg.state_dict()
    other = handle([Pull(), Table()], seed=1)
    with pytest.raises(TetherError, match="other weights when tether was attached"):
        other.load_state_dict(state)
    assert not other.methods["table"].rows.any()
    assert other.step == 0
    # a method without w0 does not care
    free = handle([Table()])
    step(free)
    handle([Table()], seed=1).load_state_dict(free.state_dict())


def test_a_newly_drawn_head_may_differ_and_its_start_is_restored():
    reg = handle([Pull()])
    step(reg)
    state = reg.state_dict()
    model = mlp()
    torch.manual_seed(77)
    model[5].reset_parameters()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = attach(model, Pull(), optimizer, train_data=samples(32))
    other.load_state_dict(state)
    assert torch.equal(other.reference["5.weight"], reg.reference["5.weight"])


def test_another_data_set_is_refused():
    state = handle([Table()]).state_dict()
    model = mlp()
    reg = attach(
        model, Table(), torch.optim.SGD(model.parameters(), lr=0.1), train_data=samples(20)
    )
    with pytest.raises(
        TetherError, match=r"state 'rows' of 'table' has shape \(20, 3\), saved was \(32, 3\)"
    ):
        reg.load_state_dict(state)


def test_another_head_is_refused_before_anything_changes():
    reg = handle([Pull(), Table()])
    step(reg)
    model = torch.nn.Sequential(*mlp()[:5], torch.nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = attach(model, [Pull(), Table()], optimizer, train_data=samples(32))
    with pytest.raises(TetherError, match=r"shape \(3, 8\), here it is \(4, 8\)"):
        other.load_state_dict(reg.state_dict())
    assert other.step == 0


def test_another_version_is_refused():
    state = handle([Table()]).state_dict()
    state["format"] = 99
    with pytest.raises(TetherError, match="format 99"):
        handle([Table()]).load_state_dict(state)


def test_fingerprints():
    one = [torch.randn(100), torch.arange(5)]
    assert same_fingerprint(fingerprint(one), fingerprint([t.clone() for t in one]))
    moved = [one[0] + 1e-5, one[1]]
    assert not same_fingerprint(fingerprint(one), fingerprint(moved))
    assert not same_fingerprint(fingerprint(one), fingerprint(one[:1]))
    assert same_fingerprint(fingerprint([]), fingerprint([]))
