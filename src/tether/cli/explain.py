"""A method explained on a terminal, from its record and its docstring."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, Any

from tether.tuning.docstrings import option_texts, plain, sections
from tether.tuning.method_spec import method_text

if TYPE_CHECKING:
    from rich.text import Text

    from tether.catalogue import MethodInfo

COSTS = {
    "free": "no work in the step",
    "light": "at most 5-10 % of a step",
    "forward": "further forwards or backwards",
    "heavy": "more than a few further forwards",
}
NEEDS = {
    "features": "the input of the head",
    "class_labels": "class labels",
    "index": "the rows of the samples",
    "reference": "the pretrained weights",
    "train_data": "a pass over the training data before the first step",
    "valid_data": "validation data",
    "epochs": "to know the epoch",
    "horizon": "to know the length of training",
    "source_head": "the head that the pretrained model came with (--weights of a whole model)",
    "inputs": "the arguments of the model's call",
    "views": "several augmented views of each sample",
    "domains": "where each sample comes from (--domain-column NAME)",
    "unlabelled": "inputs without labels (--unlabelled PATH)",
    "pairs": "preference pairs (--pairs PATH)",
}
#: What the docstring tells beside description and options, in this order.
PARTS = ("Formula", "When it helps", "When it hurts", "Shape", "State", "Cost", "References")


def as_record(info: MethodInfo) -> dict[str, Any]:
    """Options and texts, for JSON."""
    texts = option_texts(info.cls)
    return {
        "description": description(info),
        "options": [
            {
                "name": name,
                "required": parameter.default is inspect.Parameter.empty,
                "default": None if parameter.default is parameter.empty else parameter.default,
                "search": list(info.search_space.get(name, ())),
                "text": texts.get(name, ""),
            }
            for name, parameter in info.options.items()
        ],
        "example": example(info),
        **{
            key.lower().replace(" ", "_"): plain(text)
            for key, text in sections(info.cls).items()
            if key in PARTS
        },
    }


def description(info: MethodInfo) -> str:
    """What stands between the summary and the first heading of the docstring."""
    return plain(sections(info.cls)[""].partition("\n")[2].strip())


def example(info: MethodInfo) -> str:
    """A command line that runs it."""
    options = dict(info.example)
    if not options and "weight" in info.options:
        options["weight"] = info.options["weight"].default
    spec = method_text(info.name, options)
    quoted = f"'{spec}'" if any(sign in spec for sign in " ([{") else spec
    return f"tether tune --model timm:resnet18 --data photos/ --method {quoted}"


def blocks(info: MethodInfo, width: int) -> list[Text]:
    """Everything about a method, ready to print at this width."""
    from rich.text import Text

    shown = [Text.assemble((info.name, "bold cyan"), f"  {info.cls.__name__}")]
    shown += [Text(wrapped(plain(info.summary), width)), Text()]
    if description(info):
        shown += [Text(wrapped(description(info), width)), Text()]
    shown += _facts(info, width)
    shown += [Text(), Text("Options", style="bold")]
    texts = option_texts(info.cls)
    for name, parameter in info.options.items():
        required = parameter.default is parameter.empty
        default = "must be given" if required else f"default {parameter.default!r}"
        shown.append(Text.assemble("  ", (name, "bold cyan"), f"  {default}"))
        if name in texts:
            shown.append(Text(wrapped(texts[name], width, "      ")))
    for heading, text in sections(info.cls).items():
        if heading in PARTS:
            shown += [Text(), Text(heading, style="bold")]
            shown.append(Text(wrapped(plain(text), width, "  ")))
    return [*shown, Text(), Text("Example", style="bold"), Text(f"  {example(info)}")]


def _facts(info: MethodInfo, width: int) -> list[Text]:
    from rich.text import Text

    ranges = ", ".join(f"{key} {_range(found)}" for key, found in info.search_space.items())
    facts = {
        "acts on": info.kind,
        "cost": f"{info.cost}: {COSTS[info.cost]}",
        "needs": "; ".join(NEEDS.get(need, need) for need in info.needs) or "nothing",
        "losses": ", ".join(info.losses) or "all",
        "not with": ", ".join(info.conflicts),
        "search": ranges,
        "paper": info.paper or "none: folklore, or ours",
    }
    shown = []
    for name, text in facts.items():
        if text:
            lines = textwrap.wrap(text, max(width - 12, 20), break_on_hyphens=False)
            body = ("\n" + " " * 12).join(lines)
            shown.append(Text.assemble((f"  {name:<10}", "dim"), body))
    return shown


def _range(found: tuple[Any, ...]) -> str:
    kind, *values = found
    if kind == "choice":
        return " or ".join(map(str, values))
    return f"{values[0]:g} to {values[1]:g}" + (" (log)" if kind == "log" else "")


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Paragraphs filled to a width; indented blocks (formulas) and lists stay as they are."""
    shown = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if any(line.startswith((" ", "-", "*")) for line in lines):
            shown.append("\n".join(indent + line for line in lines))
        else:
            joined = " ".join(line.strip() for line in lines)
            shown.append(
                textwrap.fill(
                    joined,
                    max(width, 40),
                    initial_indent=indent,
                    subsequent_indent=indent,
                    break_on_hyphens=False,
                    break_long_words=False,
                )
            )
    return "\n\n".join(shown)
