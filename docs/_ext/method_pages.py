"""Pages that are written from the code: one a method, their index, and lists of public names.

The pages of the methods come from the register (`tether.catalogue`), so a method that is
registered is documented; nothing is listed by hand.
"""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import tether
from tether.catalogue import ENTRIES, KINDS, list_methods, method_info
from tether.method import Method

if TYPE_CHECKING:
    from sphinx.application import Sphinx

    from tether.catalogue import MethodInfo

#: Written by ``python -m benchmarks.run_studies``.
CARDS = Path(__file__).parent.parent / "results" / "method_cards.json"
KIND_TEXT = {
    "weights": "acts on the weights or their distance from the pretrained ones",
    "features": "acts on the input of the head",
    "targets": "acts on labels, sample losses or sample weights",
    "inputs": "acts on the batch before the forward",
    "gradients": "acts on the gradients before the update",
    "layers": "swaps or wraps layers; baked or removed at the end",
    "adapters": "adds small trainable modules to a frozen network",
}
NEED_TEXT = {
    "features": "the input of the head, tapped by the engine",
    "class_labels": "class labels: indices, probabilities or a 0/1 matrix",
    "index": "the rows of the samples: iterate `reg.batches(loader)` and give `train_data`",
    "reference": "the pretrained weights: attach before a checkpoint is loaded",
    "train_data": "`train_data`, for one pass before the first step",
    "valid_data": "`valid_data`",
    "epochs": "epochs: iterate `reg.batches(loader)`",
    "horizon": "the length of training: `epochs` or `total_steps`",
    "source_head": "`source_head`, the head that the pretrained model came with",
    "inputs": "the arguments of the model's call",
    "views": "further views of each sample, augmented independently, with each batch: `views=`",
    "domains": "a domain index for each sample, with each batch: `domains=`",
    "unlabelled": "a batch of inputs without labels, with each batch: `unlabelled=`",
    "unlabelled_views": "further views of each of them, with each batch: `unlabelled_views=`",
    "pairs": "a batch of preference pairs, with each batch: `pairs=`",
}
COST_TEXT = {
    "free": "no work in the step",
    "light": "at most 5–10 % of a step",
    "forward": "further forwards or backwards",
    "heavy": "more than a few further forwards",
}
#: What a need adds to the call of ``attach``. Training data and the length of training are always
#: given: with some options a method wants them, with others it does not.
NEED_ARGUMENT = {
    "valid_data": "valid_data=valid_set",
    "source_head": "source_head=source_head",
}


def cell(text: object) -> str:
    """Text that may stand in a table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return ["| " + " | ".join(cell(text) for text in line) + " |" for line in lines] + [""]


def paper_link(paper: str) -> str:
    """A link to the paper, where its source is arXiv or an address."""
    source, _, number = paper.partition(":")
    if source.lower() == "arxiv":
        return f"[{paper}](https://arxiv.org/abs/{number})"
    return f"<{paper}>" if source in ("http", "https") else paper


def shown_default(parameter: inspect.Parameter) -> str:
    """The default of an option as code, or the word that it has none."""
    return "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"


def loop_example(info: MethodInfo) -> list[str]:
    """The lines that put the method in a loop, with what its needs add."""
    name = info.cls.__name__
    options = ", ".join(f"{key}={value!r}" for key, value in info.example.items())
    arguments = ["model, methods, optimizer, train_data=train_set, epochs=epochs"]
    arguments += [NEED_ARGUMENT[need] for need in info.needs if need in NEED_ARGUMENT]
    if info.losses and "cross_entropy" not in info.losses:
        arguments.append(f'loss="{info.losses[0]}"')
    call = ", ".join(arguments)
    prepares = info.cls.prepare is not Method.prepare
    public = getattr(tether, name, None) is info.cls
    entries = [need for need in ENTRIES if need in info.needs]
    head, call_of_loss = "x, y", "model(x), y"
    if entries:  # they come in a dict, beside the model's input
        head, call_of_loss = "batch", 'model(batch["x"]), batch["labels"]'
        call_of_loss += "".join(f', {entry}=batch["{entry}"]' for entry in entries)
    return [
        "```python",
        "import tether",
        *([] if public else [f"from {info.cls.__module__} import {name}"]),
        "",
        f"methods = [{'tether.' if public else ''}{name}({options})]",
        *(["tether.prepare(model, methods)  # before the optimiser is made"] if prepares else []),
        f"reg = tether.attach({call})",
        "for epoch in range(epochs):",
        f"    for {head} in reg.batches(loader):",
        f"        loss = reg.loss({call_of_loss})",
        "        loss.backward()",
        "        optimizer.step()",
        "        optimizer.zero_grad()",
        *(["model = reg.finish()  # an ordinary model again"] if prepares else []),
        "```",
        "",
    ]


def formulas(info: MethodInfo) -> list[str]:
    """Names of the public functions in the method's file."""
    module = import_module(info.cls.__module__)
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]


def method_page(info: MethodInfo, results: list[list[str]]) -> str:
    """The page of one method, with what it did in our comparisons."""
    tokens = f"features pooled by {info.pooling}" if info.pooling else "per sequence"
    if info.pooling is None and "features" in info.needs:
        tokens = "refused: token features are not pooled"
    facts: list[tuple[Any, ...]] = [
        ("kind", f"{info.kind}: {KIND_TEXT[info.kind]}"),
        ("paper", paper_link(info.paper) or "none: folklore, or ours"),
        ("needs", "; ".join(NEED_TEXT[need] for need in info.needs) or "nothing"),
        ("cost", f"{info.cost}: {COST_TEXT[info.cost]}"),
        *(
            [("views", f"{info.views} of a sample, its own among them")]
            if "views" in info.needs
            else []
        ),
        ("losses", ", ".join(info.losses) or "all"),
        ("token losses", tokens),
        ("draws random numbers", "yes" if info.stochastic else "no"),
    ]
    if info.batch_statistics:
        facts.append(("batch statistics", "yes: accumulation and several ranks pool differently"))

    options = [
        (
            f"`{name}`",
            shown_default(parameter),
            f"`{info.neutral[name]!r}`" if name in info.neutral else "",
            f"`{info.search_space[name]}`" if name in info.search_space else "",
        )
        for name, parameter in info.options.items()
    ]
    lines = [f"# {info.cls.__name__}", "", info.summary, ""]
    lines += table(("registered name", f"`{info.name}`"), facts)
    lines += ["## Options", ""]
    lines += (
        table(("option", "default", "neutral", "search space"), options) if options else ["None."]
    )
    if info.neutral:
        lines += ["With the neutral options training is bit-identical to plain fine-tuning.", ""]
    lines += ["## In a loop", "", *loop_example(info)]
    if info.conflicts:
        names = ", ".join(f"`{name}`" for name in info.conflicts)
        lines += ["## Cannot be combined with", "", names, ""]
    if info.exempt:
        lines += ["## Excused from checks", ""]
        lines += table(("contract check", "why"), [(f"`{k}`", v) for k, v in info.exempt.items()])
    lines += results_section(results)
    module = info.cls.__module__
    lines += ["## Reference", "", "```{eval-rst}"]
    lines += [f".. autoclass:: {module}.{info.cls.__qualname__}"]
    lines += ["   :members: measure", ""] if "measure" in vars(info.cls) else [""]
    for name in formulas(info):
        lines += [f".. autofunction:: {module}.{name}", ""]
    return "\n".join([*lines, "```", ""])


def results_section(rows: list[list[str]]) -> list[str]:
    """What a method did in our comparisons, where it hurt as well as where it helped."""
    if not rows:
        return []
    return [
        "## In our comparisons",
        "",
        "Score of the tuned method, and its difference from plain fine-tuning, tuned as long; "
        "below zero it hurt (where higher scores are better). [How they were"
        " run](../results/studies.md).",
        "",
        *table(("study", "case", "score", "difference", "95 % interval", "finding"),
               [tuple(row) for row in rows]),
    ]  # fmt: skip


def index_page(infos: list[MethodInfo]) -> str:
    """The table of all methods, by the room in which they act."""
    lines = [
        "# Methods",
        "",
        "Each method is one class in one file. A recipe is a list of them; their order in the"
        " list does not matter.",
        "",
        *("```{toctree}", ":hidden:", "", *(info.name for info in infos), "```", ""),
    ]
    for kind in KINDS:
        rows = [
            (
                f"[{i.cls.__name__}]({i.name}.md)",
                f"`{i.name}`",
                i.summary,
                i.cost,
                paper_link(i.paper),
            )
            for i in infos
            if i.kind == kind
        ]
        if rows:
            lines += [f"## {kind.capitalize()}", "", f"{KIND_TEXT[kind].capitalize()}.", ""]
            lines += table(("class", "name", "what it does", "cost", "paper"), rows)
    return "\n".join(lines)


def write_pages(folder: Path) -> None:
    """Write the pages of all methods; pages of methods that are gone are removed."""
    infos = [method_info(name) for name in list_methods()]
    cards = json.loads(CARDS.read_text(encoding="utf-8")) if CARDS.is_file() else {}
    pages = {f"{info.name}.md": method_page(info, cards.get(info.name, [])) for info in infos}
    pages["index.md"] = index_page(infos)
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        # An unchanged page keeps its date, so that a second build has nothing to read.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


class PublicNames(SphinxDirective):
    """The public names of a module, documented one by one; methods have pages of their own."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Emit one autodoc directive a name."""
        module: ModuleType = import_module(self.arguments[0])
        lines: list[str] = []
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                if issubclass(value, Method) and value is not Method:
                    continue
                members = [] if issubclass(value, BaseException) else ["   :members:"]
                lines += [f".. autoclass:: {module.__name__}.{name}", *members, ""]
            elif callable(value):
                lines += [f".. autofunction:: {module.__name__}.{name}", ""]
            else:
                # autodata would print the docstring of the builtin type
                lines += [f".. py:data:: {module.__name__}.{name}"]
                lines += [f"   :type: {type(value).__name__}", ""]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and write the pages before the sources are read."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / "methods"))
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True}
