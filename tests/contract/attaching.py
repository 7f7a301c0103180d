"""Checks of attaching: the record, refusals, hooks, compiled graphs."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import torch
from torch import nn
from torch.utils.data import DataLoader

import tether
from tether.catalogue import COSTS, MethodInfo, create_method, list_methods, method_info
from tether.engine.checks import batch_entries
from tether.engine.order import arrange
from tether.errors import TetherError
from tether.method import Method
from tether.schedule import Schedule

from .cases import LONG, Case, NotApplicable, Run, cases, compare, make_network, names_of, refused

SECTIONS = ("Args:", "References:", "Example:")


# -- the record ----------------------------------------------------------------------------------


def record(info: MethodInfo) -> None:
    """Docstring, options, record and schedules are whole and true."""
    doc = inspect.getdoc(info.cls) or ""
    missing = [s for s in SECTIONS if s not in doc and not (s == "Args:" and not info.options)]
    assert not missing, f"the docstring lacks {', '.join(missing)}"
    assert ">>>" in doc, "the Example of the docstring does not run"
    assert info.summary.endswith("."), "the docstring's first line is no sentence"
    assert info.paper, "the record names no paper"
    assert info.cost in COSTS
    for field in ("neutral", "example", "search_space"):
        unknown = set(getattr(info, field)) - set(info.options)
        assert not unknown, f"{field} names options that do not exist: {sorted(unknown)}"
    if info.name in list_methods():
        assert method_info(info.name) is info
        unknown = set(info.conflicts) - set(list_methods())
        assert not unknown, f"conflicts names unknown methods: {sorted(unknown)}"
    _options(info)
    _schedule(info)


def _options(info: MethodInfo) -> None:
    options = info.options
    for name, parameter in options.items():
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD, f"{name} has no name of its own"
        assert name == "weight" or f"{name}:" in (inspect.getdoc(info.cls) or ""), (
            f"the docstring does not explain {name}"
        )
    for given in (dict(info.example), {**info.example, **info.neutral}):
        method = info.cls(**given)
        whole = {n: given.get(n, p.default) for n, p in options.items()}
        compare(method.options(), whole, path="options()")
        scope = {info.cls.__name__: info.cls, "inf": math.inf, "nan": math.nan}
        rebuilt = eval(repr(method), scope)
        compare(rebuilt.options(), whole, path="repr")
        if info.name in list_methods():
            compare(create_method(info.name, **method.options()).options(), whole, path="create")
    for name, (scale, *values) in info.search_space.items():
        assert scale in ("log", "linear", "uniform", "int", "choice"), f"{name}: scale {scale!r}"
        if scale != "choice":
            assert len(values) == 2 and values[0] < values[1], f"{name}: no range {values}"
        for value in values:
            info.cls(**{**info.example, name: value})


def _schedule(info: MethodInfo) -> None:
    """A scheduled weight is taken, and refused without the length of training."""
    if not schedulable(info):
        return
    case = cases(info)[0]
    method = case.method(weight="cosine(1, 0)")
    assert isinstance(method.schedules()["weight"], Schedule)
    run = Run(case, method)
    assert method.value("weight") == 1.0
    run.train()
    assert method.value("weight") < 1e-6
    missing = ("epochs", "total_steps")
    _must_refuse(case, missing, lambda: case.method(weight="cosine(1, 0)"), epochs=None)


def schedulable(info: MethodInfo) -> bool:
    return "weight" in info.options and "weight" in info.cls(**info.example).schedules()


# -- what is missing is said ---------------------------------------------------------------------


def refusals(info: MethodInfo) -> None:
    """What its needs name and the user did not give is asked for; nothing stays attached."""
    case = cases(info)[0]
    asked = {
        "train_data": (("train_data",), {"train_data": None}),
        "valid_data": (("valid_data",), {"valid_data": None}),
        "source_head": (("source_head",), {"source_head": None}),
        "horizon": (("epochs", "total_steps"), {"epochs": None}),
        "index": (("train_data",), {"train_data": None}),
    }
    for need, (remedy, without) in asked.items():
        if need in info.needs:
            _must_refuse(case, remedy, case.method, **without)
    if {"features", "class_labels"} & set(info.needs):
        _must_refuse_model_without_head(case)
    if {"index", "epochs"} & set(info.needs):
        _must_refuse_plain_loop(case)
    if "features" in info.needs:
        _must_refuse_second_loss(case)
    for name in batch_entries(arrange([case.method()])):
        _must_refuse_batch_without(case, name)


def _must_refuse(
    case: Case, remedy: tuple[str, ...], make: Callable[[], Method], **without: Any
) -> None:
    run = Run(case, [])
    run.reg.detach()
    method = make()
    if _prepares(case):
        tether.prepare(run.model, method)
    before = traces(run.model, run.optimizer)
    with refused(f"without {', '.join(without)}", names_of(method), *remedy):
        tether.attach(run.model, method, run.optimizer, **{**run.arguments, **without})
    compare(traces(run.model, run.optimizer), before, path=f"without {', '.join(without)}")
    # the same object serves once everything is there
    tether.attach(run.model, method, run.optimizer, **run.arguments).detach()


def _must_refuse_model_without_head(case: Case) -> None:
    """A method of features needs the head; one of classes their number, if it asks for it."""
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(108))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments, before = Run(case, []).arguments, traces(model, optimizer)

    def attach() -> None:
        method = case.method()
        if _prepares(case):
            tether.prepare(model, method)
        tether.attach(model, method, optimizer, **arguments).detach()

    try:
        attach()
    except TetherError:
        with refused("without a head", "head|num_classes"):
            attach()
        compare(traces(model, optimizer), before, path="without a head")
        tether.attach(model, []).detach()
    else:
        assert "features" not in case.info.needs, "attached to a model without a head"


def _must_refuse_plain_loop(case: Case) -> None:
    """A loop that does not use ``batches`` must be told."""
    run = Run(case)
    run.train_mode()
    state = run.states()
    with refused("a loop without batches()", "batches"):
        run.backward(*run.data[:8])
    if not run.case.info.needs.count("train_data"):  # its pass may have run
        compare(run.states(), state, path="a refused loss")


def _must_refuse_second_loss(case: Case) -> None:
    """Features are never stale: a loss without a forward before it raises."""
    run = Run(case)
    run.train_mode()
    x, y = next(run.reg.batches(run.loader))
    logits = run.model(x)
    run.reg.loss(logits, y, **run.entries(x))
    with refused("a second loss of one forward", "head|once for each of its batches"):
        run.reg.loss(logits, y, **run.entries(x))


def _must_refuse_batch_without(case: Case, name: str) -> None:
    """What comes with each batch is asked for by name, in train mode only; nothing has changed."""
    run = Run(case)
    run.train_mode()
    x, y = next(run.reg.batches(run.loader))
    state = run.states()
    with refused(f"a loss without {name}", names_of(case.method()), f"{name}="):
        run.backward(x, y, **{name: None})
    compare(run.states(), state, path=f"a loss without {name}")
    run.model.eval()
    run.reg.loss(run.model(x), y)


# -- hooks ---------------------------------------------------------------------------------------


def traces(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Hook tables, classes, attributes and parameter groups, as plain values."""
    modules = {
        name: {
            "class": type(module).__name__,
            "attributes": sorted(vars(module)),
            "hooks": {key: len(table) for key, table in _hook_tables(module).items()},
        }
        for name, module in model.named_modules()
    }
    parameters = {
        name: (id(p), p.requires_grad, p._backward_hooks, len(p._post_accumulate_grad_hooks or ()))
        for name, p in model.named_parameters()
    }
    return {
        "modules": modules,
        "parameters": parameters,
        "state": list(model.state_dict()),
        "optimizer": {key: len(table) for key, table in _hook_tables(optimizer).items()},
        "groups": [len(group["params"]) for group in optimizer.param_groups],
    }


def _hook_tables(owner: object) -> dict[str, Mapping[Any, Any]]:
    return {k: v for k, v in vars(owner).items() if "hooks" in k and isinstance(v, Mapping)}


def trace(info: MethodInfo) -> None:
    """Attaching and detaching leave an ordinary model; a second attach is refused in between."""
    case = cases(info)[0]
    run = Run(case, [])
    if _prepares(case):
        raise NotApplicable("changes the model: see finish")
    run.reg.detach()
    clean = traces(run.model, run.optimizer)
    for _ in range(2):  # fresh objects may be attached again
        reg = run.reg = tether.attach(run.model, case.method(), run.optimizer, **run.arguments)
        during = traces(run.model, run.optimizer)
        _refuse_second_attach(run, case)
        compare(traces(run.model, run.optimizer), during, path="a second attach")
        copy.deepcopy(run.model)(run.data[:2][0])  # touches no tap of the original
        run.train()
        reg.detach()
        compare(traces(run.model, run.optimizer), clean, path="detached")
    _ordinary(run)
    with refused("a loss of a detached handle"):
        reg.loss(torch.zeros(2, 2), torch.zeros(2))
    later, now = Run(case, bind_later=True).train(), Run(case).train()
    compare(later.weights(), now.weights(), path="an optimiser that was bound later")


def finish(info: MethodInfo) -> None:
    """``finish`` gives back the model's own classes and names, and the outputs stay."""
    case = cases(info)[0]
    run = Run(case).train()
    run.model.eval()
    x = run.data[:8][0]
    attached = run.model(x).detach()
    model = run.reg.finish()
    compare(model(x).detach(), attached, 1e-5, "outputs")
    fresh = make_network(case.kind, 0.2)
    assert set(model.state_dict()) == set(fresh.state_dict()), "other names in the state dict"
    for (name, module), other in zip(model.named_modules(), fresh.modules(), strict=True):
        assert type(module) is type(other), f"{name} is still a {type(module).__name__}"
        assert not any(_hook_tables(module).values()), f"{name} still has hooks"
    fresh.load_state_dict(model.state_dict())
    _ordinary(run)


def _ordinary(run: Run) -> None:
    """Copies and pickles give the same outputs."""
    model = run.reg.inner.eval()
    x = run.data[:8][0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        compare(other(x).detach(), model(x).detach(), path="a copy of the model")


def _prepares(case: Case) -> bool:
    parts = arrange([case.method()]).values()
    return any(type(m).prepare is not Method.prepare for m in parts)


def _refuse_second_attach(run: Run, case: Case) -> None:
    with refused("a second attach", "attached"):
        tether.attach(run.model, case.method(), run.optimizer, **run.arguments)


# -- compiled graphs -----------------------------------------------------------------------------


class Counter:
    """A backend of ``torch.compile`` that runs what it is given, and counts."""

    def __init__(self) -> None:
        self.graphs: list[bool] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs.append(torch.is_grad_enabled())
        return graph.forward


def graphs(info: MethodInfo) -> None:
    """One graph in train mode, one in evaluation; a scheduled weight compiles nothing anew."""
    case = cases(info)[0]
    options = {"weight": "linear(1, 0)"} if schedulable(info) else {}
    orders = ("attach", "compile")
    for first in orders if LONG else (orders[crc32(info.name.encode()) % 2],):
        torch._dynamo.reset()
        counter = Counter()
        wrap = None if first == "attach" else lambda m, c=counter: torch.compile(m, backend=c)
        run = Run(case, case.method(**options), wrap=wrap, drop_last=True)
        if first == "attach":
            run.model = torch.compile(run.model, backend=counter)

        def after(run: Run, where: str) -> None:
            if where == "epoch":
                run.model.eval()
                with torch.no_grad():
                    run.model(run.data[:8][0])

        run.train(after=after)
        trained = sum(counter.graphs)
        assert trained == 1, f"{first} first: {trained} graphs in train mode, not 1"
        assert len(counter.graphs) == 2, f"{first} first: {len(counter.graphs) - 1} in evaluation"
    torch._dynamo.reset()


def loader_forms(info: MethodInfo) -> None:
    """Training data given as a loader come to the same as the data set."""
    if not {"train_data", "index"} & set(info.needs):
        raise NotApplicable("reads no training data")
    case = cases(info)[0]
    run = Run(case)
    run.reg.detach()
    given = Run(case, train_data=DataLoader(run.data, batch_size=5, shuffle=True))
    compare(given.train().weights(), Run(case).train().weights(), 1e-5)
