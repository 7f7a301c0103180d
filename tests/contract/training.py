"""Checks of the training itself: what a method does to numbers, and what it must not do."""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import tether
from tether.catalogue import KINDS, MethodInfo, list_methods, method_info
from tether.engine.order import arrange
from tether.errors import TetherError
from tether.method import Method

from .cases import (
    LONG,
    Case,
    NotApplicable,
    Run,
    cases,
    check_finite,
    compare,
    compare_course,
    count_items,
    kinds_of,
    make_data,
    names_of,
    plain_loss,
    refused,
    refused_kinds,
    some,
    train_plain,
)


def neutral(info: MethodInfo) -> None:
    """Under the neutral options training is bit-identical to a loop without tether."""
    for case in some(info):
        run = Run(case, case.neutral()).train()
        compare(dict(run.reg.finish().state_dict()), dict(train_plain(case.kind)))


def acts(info: MethodInfo) -> None:
    """Under the options of the example it changes the weights within three epochs."""
    case = cases(info)[0]
    found, plain = Run(case).train().reg.finish().state_dict(), train_plain(case.kind)
    assert set(found) == set(plain), "finish leaves other names in the state dict"
    assert any(not torch.equal(found[name], plain[name]) for name in plain), (
        "nothing differs from plain training, so that no other check says anything: give the "
        f"record an example that acts within 3 epochs of 4 batches, not {dict(info.example)}"
    )


def losses(info: MethodInfo) -> None:
    """It trains with every loss of its record; others are refused and leave nothing behind."""
    for case in cases(info):
        check_finite(Run(case, epochs=2).train(), case.kind)
    for kind in refused_kinds(info):
        model, method = Run(Case(info, kind), []).reg.finish(), Case(info, kind).method()
        with refused(f"the loss {kind}, which its record leaves out", names_of(method)):
            tether.attach(model, method, loss=kind, train_data=[], epochs=1)
        tether.attach(model, [], loss=kind).detach()


def edges(info: MethodInfo) -> None:
    """Batches of one row, of one class, short last ones, rows that do not count: all finite."""
    for case in some(info)[: None if LONG else 1]:
        check_finite(Run(case, still=True, size=1, rows=9).train(), f"{case.kind}, one row")
        check_finite(Run(case, size=8, rows=18).train(), f"{case.kind}, last batch of two")
    case = cases(info)[0]
    targets = make_data(case.kind, 26).tensors[1]
    if case.kind == "cross_entropy":
        by_class = [torch.nonzero(targets == k).flatten().tolist() for k in targets.unique()]
        check_finite(Run(case, batches=by_class).train(), "batches of one class")
        run = Run(case, batches=[list(range(8)), list(range(8, 16))])
        hidden = iter([torch.full((8,), -100), torch.tensor([-100, 1, -100, 0, 2, -100, 3, 3])])
        run.train_mode()
        for (x, _), y in zip(run.reg.batches(run.loader), hidden, strict=True):
            run.backward(x, y.repeat(2)[: len(x)])  # a method may have added rows
            check_finite(run, "rows that do not count")
            run.update()
        check_finite(run, "rows that do not count")


# -- resuming ------------------------------------------------------------------------------------


def snapshot(run: Run) -> dict[str, Any]:
    """What the user's own checkpoint holds: gradients of an open window, too."""
    grads = {n: p.grad for n, p in run.model.named_parameters() if p.grad is not None}
    return {
        "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(),
        "grads": grads, "micro": run.micro,
    }  # fmt: skip


def restore(run: Run, rest: dict[str, Any]) -> None:
    """Put a snapshot into fresh objects."""
    run.model.load_state_dict(rest["model"])
    run.optimizer.load_state_dict(rest["optimizer"])
    for name, parameter in run.model.named_parameters():
        parameter.grad = rest["grads"].get(name)
    run.micro = rest["micro"]


def save(run: Run, folder: Path) -> None:
    """All that the rest of a run needs."""
    folder.mkdir()
    torch.save(snapshot(run), folder / "rest.pt")
    run.reg.save(folder / "tether.safetensors")


def load(run: Run, folder: Path) -> Run:
    """Put into fresh objects what ``save`` wrote."""
    restore(run, torch.load(folder / "rest.pt", weights_only=True))
    run.reg.load(folder / "tether.safetensors")
    return run


def outcome(run: Run) -> dict[str, Any]:
    return {
        "model": dict(run.model.state_dict()),
        "optimizer": run.optimizer.state_dict()["state"],
        "tether": run.reg.state_dict(),
    }


def interruptible(case: Case, epochs: int = 3) -> Run:
    """7 micro-steps an epoch: windows of two lie across the ends of epochs."""
    return Run(case, size=4, rows=26, epochs=epochs)


def resume(info: MethodInfo) -> None:
    """Interrupted anywhere, and rebuilt from disk by fresh objects: bit-identical at the end."""
    case = cases(info)[0]
    draw = random.Random(info.name)
    places = [(7, "step"), (7, "epoch"), (14, "epoch")]
    places += [(at, "step") for at in draw.sample([m for m in range(1, 21) if m != 7], 7)]
    places = places if LONG else places[:2] + places[-1:]
    with tempfile.TemporaryDirectory() as folder:

        def after(run: Run, where: str) -> None:
            if (run.micro, where) in places:
                save(run, Path(folder) / f"{run.micro}-{where}")

        whole = outcome(interruptible(case).train(accumulate=2, after=after))
        for micro, where in places:
            torch.manual_seed(micro)  # a new process has other random numbers
            run = load(interruptible(case), Path(folder) / f"{micro}-{where}")
            compare(outcome(run.train(accumulate=2)), whole, path=f"after {where} {micro}")


# -- batches in parts ----------------------------------------------------------------------------


def accumulation(info: MethodInfo) -> None:
    """Two micro-batches of 4 come to one batch of 8, with ``loss / 2`` and with ``num_items``.

    Compared are the weights, modules of the method, and its state but for ``sync="mean"`` (a
    mean over the last micro-batch). A method that draws numbers runs under its neutral options.
    """
    syncs = ("replicated", "sum", "per_sample")
    found = some(info)
    pairs = [(case, rows) for case in found for rows in (24, 22)]
    for case, rows in pairs if LONG else [(found[0], 24), (found[-1], 22)]:
        whole = Run(case, case.noiseless(), still=True, rows=rows).train()
        parts = Run(case, case.noiseless(), still=True, rows=rows, size=4)
        if rows == 24:
            parts.train(accumulate=2)
        else:
            _train_by_items(parts)
        compare(parts.weights(), whole.weights(), 1e-5, f"{case.kind}, {rows} rows")
        compare(parts.states(*syncs), whole.states(*syncs), 1e-5, f"{case.kind}, {rows} rows")


def _train_by_items(run: Run) -> None:
    """Windows of 8 rows in micro-batches of 4, the last window of 6 rows as 4 and 2."""
    targets = run.data.tensors[1]
    for _ in range(run.epochs):
        run.train_mode()
        for at, (x, y) in enumerate(run.reg.batches(run.loader)):
            window = targets[at // 2 * 8 : at // 2 * 8 + 8]
            run.backward(x, y, num_items=count_items(run.case.kind, window))
            if at % 2 == 1:
                run.update()


# -- precision -----------------------------------------------------------------------------------


def bf16(info: MethodInfo) -> None:
    """It trains under bfloat16 autocast; penalties are float32."""

    def after(run: Run, where: str) -> None:
        for name, part in run.reg.parts.items():
            assert part.dtype is torch.float32, f"{name} is {part.dtype}"
        check_finite(run, "bfloat16")

    for case in some(info)[: None if LONG else 1]:
        run = Run(case)
        start = run.weights()
        run.train(half=torch.bfloat16, after=after)
        compare_course(run.weights(), Run(case).train().weights(), start, 0.25)


def scaler(info: MethodInfo) -> None:
    """A loss scaler changes nothing, also with a fused optimiser that sees scaled gradients.

    In float32 a scale is a power of two and must leave no trace; in float16 both kinds of
    optimiser must agree, and stay near the float32 run.
    """
    case = cases(info)[0]
    exact = Run(case).train().weights()
    halves = []
    for fused in (False, True):
        found = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        run = Run(case, fused=fused, scaler=found).train(scaler=found)
        compare(run.weights(), exact, 1e-5, f"float32, fused={fused}")
        found = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        run = Run(case, fused=fused, scaler=found).train(scaler=found, half=torch.float16)
        check_finite(run, f"float16, fused={fused}")
        halves.append(run.weights())
    start = Run(case).weights()
    compare_course(halves[1], halves[0], start, 0.02)
    compare_course(halves[0], exact, start, 0.25)


def skipped_step(info: MethodInfo) -> None:
    """A step that the scaler skips changes neither weights nor state.

    State is compared from after the loss (what was seen was seen) to after the skipped update;
    what gathers micro-batches (``pooled``) must start anew with the next loss.
    """
    case = cases(info)[0]
    for fused in (False, True):
        found = torch.amp.GradScaler("cpu", init_scale=2.0**10, backoff_factor=2.0**-30)
        run = Run(case, still=True, fused=fused, scaler=found, batches=[list(range(8))] * 3)
        run.train_mode()
        batches = run.reg.batches(run.loader)
        _half_step(run, batches, found)
        run.update(found)
        found.update(2.0**40)
        first = _half_step(run, batches, found)
        weights, state = run.weights(), _unpooled(run)
        run.update(found)
        assert found.get_scale() < 2.0**40, "the step was not skipped"
        compare(run.weights(), weights, path=f"fused={fused}")
        compare(_unpooled(run), state, path=f"fused={fused}")
        second = _half_step(run, batches, found)
        compare(second, first, 1e-6, f"pooled state, fused={fused}")
        run.update(found)
        moved = run.weights()
        assert any(not torch.equal(moved[n], weights[n]) for n in weights), "never steps again"
        check_finite(run, f"after a skipped step, fused={fused}")


def _half_step(run: Run, batches: Iterator[Any], found: Any) -> dict[str, Any]:
    """Forward and backward in float16; the state that gathers micro-batches."""
    run.backward(*next(batches), half=torch.float16, scaler=found)
    return {n: getattr(m, n).clone() for m in run.reg.methods.values() for n in m.pooled}


def _unpooled(run: Run) -> dict[str, Any]:
    states = run.states()
    for name, method in run.reg.methods.items():
        for key in method.pooled:
            states["methods"][name].pop(key, None)
    return states


def eval_mode(info: MethodInfo) -> None:
    """In evaluation mode model and loss are those without tether, and no state changes."""
    for case in some(info)[: None if LONG else 1]:
        run = Run(case, epochs=2)
        run.train_mode()
        batches = run.reg.batches(run.loader)
        run.backward(*next(batches))
        run.update()
        x, y = run.data[:8]
        before, drawn = outcome(run), torch.get_rng_state()
        run.model.eval()
        logits = run.model(x)
        loss = run.reg.loss(logits, y)
        compare(loss, plain_loss(case.kind, logits, y), path=case.kind)
        compare(torch.get_rng_state(), drawn, path="random numbers")
        compare(outcome(run), before, path=case.kind)
        run.train_mode()
        run.backward(*next(batches))  # training goes on
        run.update()
        run.model.eval()
        attached = run.model(x).detach()
        run.reg.detach()
        compare(run.model(x).detach(), attached, path=f"{case.kind}, detached")


# -- together ------------------------------------------------------------------------------------


def _partners(info: MethodInfo, case: Case) -> list[Case]:
    """One method of every other kind that goes with it and with one another."""
    found: list[Case] = []
    for kind in KINDS:
        for name in list_methods(kind=kind) if kind != info.kind else []:
            other = Case(method_info(name), case.kind)
            parts = arrange([other.method()]).values()
            fits = all(case.kind in kinds_of(part.info) for part in [other.method(), *parts])
            try:
                arrange([case.method(), *(c.method() for c in found), other.method()])
            except TetherError:
                fits = False
            if fits:
                found.append(other)
                break
    return found


def compose(info: MethodInfo) -> None:
    """With one method of every other kind it trains; the order in the list does not matter."""
    case = cases(info)[0]
    partners = _partners(info, case)
    for rival in info.conflicts:
        if rival in list_methods() and case.kind in kinds_of(method_info(rival)):
            with refused(f"together with {rival}", rival):
                arrange([case.method(), Case(method_info(rival), case.kind).method()])
    if not partners:
        raise NotApplicable("no method of another kind goes with it")

    def recipe() -> list[Method]:
        return [c.method() for c in [case, *partners]]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "catastrophic overfitting")  # an alarm, not a slip
        first, second = Run(case, recipe()).train(), Run(case, recipe()[::-1]).train()
    check_finite(first, f"with {', '.join(c.info.name for c in partners)}")
    compare(second.weights(), first.weights(), path="the order of the list")
