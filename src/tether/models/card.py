"""The model card: what was trained on what, how well it does, and what it is not for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tether.files import replaced_file

_PIPELINES = {
    ("text", "single_label"): "text-classification",
    ("text", "multi_label"): "text-classification",
    ("text", "regression"): "text-classification",  # the hub's name for it, too
    ("image", "single_label"): "image-classification",
    ("image", "multi_label"): "image-classification",
    ("vector", "single_label"): "tabular-classification",
    ("vector", "multi_label"): "tabular-classification",
    ("vector", "regression"): "tabular-regression",
}
_MOST = 50  # class names that are listed
# "hf:" or "option=" perhaps, then what begins as a path does, or has two folders at least. A name
# on the hub has one slash.
_PATH = re.compile(
    r"((?:[\w.]{2,}[:=])*)"
    r"((?:[A-Za-z]:)?(?:[\\/]|~|\.\.?[\\/]).*[^\\/].*|[^\\/]+(?:[\\/][^\\/]+){2,}[\\/]?)",
    re.DOTALL,
)


@dataclass(frozen=True)
class CardMethod:
    """One method of the run.

    Attributes:
        name: its registered name.
        summary: first line of its documentation.
        paper: its source, for example ``"arXiv:2403.10097"``.
        options: as they were given, defaults included.
    """

    name: str
    summary: str = ""
    paper: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class CardFacts:
    """What a card says.

    Attributes:
        name: title of the card.
        base_model: what the run started from.
        library: the library that loads the folder.
        kind: ``"image"``, ``"text"`` or ``"vector"``.
        task: ``"single_label"``, ``"multi_label"`` or ``"regression"``.
        class_names: names of the outputs.
        data: how the data were called for.
        counts: split -> number of samples.
        methods: the methods.
        settings: the settings as YAML text, or by name.
        last: split -> metric -> value, with the weights of the last epoch.
        best: the same with the weights of the best epoch.
        metric: name of the metric that chose the best epoch.
        exported: ``"best"`` or ``"last"``: which weights lie in the folder.
        how_to_load: lines of Python.
        noise: what synthetic noise did, empty without any.
    """

    name: str
    base_model: str
    library: str
    kind: str
    task: str
    class_names: Sequence[str]
    data: str
    counts: Mapping[str, int]
    methods: Sequence[CardMethod]
    settings: str | Mapping[str, Any]
    last: Mapping[str, Mapping[str, float]]
    best: Mapping[str, Mapping[str, float]]
    metric: str
    exported: str
    how_to_load: str
    noise: Mapping[str, Any] = field(default_factory=dict)


def write_card(folder: Path, facts: CardFacts) -> Path:
    """Write ``README.md`` into a model's folder.

    Everything that comes from outside is escaped, so that a label or a path is shown as it is.
    """
    target = Path(folder) / "README.md"
    with replaced_file(target) as fresh:
        fresh.write_text(card(facts), encoding="utf-8")
    return target


def card(facts: CardFacts) -> str:
    """The card's text: YAML front matter and Markdown."""
    parts = [
        _front(facts),
        f"# {escaped(facts.name)}",
        _opening(facts),
        "## Data",
        _data(facts),
        "## Methods",
        _methods(facts),
        "## Results",
        _results(facts),
        "## How to load",
        "`FOLDER` is the folder of this file.",
        _fenced(facts.how_to_load, "python"),
        "## What it is not for",
        _limits(facts),
        "## Settings",
        _fenced(_settings(facts), "yaml"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(value: Any) -> str:
    """Any value as inline Markdown that shows it as it is, also in a cell of a table."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    text = "".join(c for c in text if c.isprintable())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]()#+\-!|~$@])", r"\\\1", text)
    # A bare address would become a link: a space without width keeps it a text.
    return re.sub(r"(?i)\b(https?|ftp|www)(?=[:.])", r"\1&#8203;", text)


def _fenced(text: str, language: str) -> str:
    runs = [len(run) for run in re.findall(r"`+", text)]
    fence = "`" * max(3, 1 + max(runs, default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _front(facts: CardFacts) -> str:
    # JSON texts are YAML as well, and quote whatever could be read as something else.
    tags = ["tether", "fine-tuned", *dict.fromkeys(method.name for method in facts.methods)]
    lines = ["---", f"library_name: {json.dumps(facts.library)}"]
    pipeline = _PIPELINES.get((facts.kind, facts.task))
    if pipeline is not None:
        lines.append(f"pipeline_tag: {pipeline}")
    lines.append("tags:")
    lines.extend(f"- {json.dumps(tag)}" for tag in tags)
    return "\n".join([*lines, "---"])


def _opening(facts: CardFacts) -> str:
    does = {
        "single_label": f"puts {_words(facts.kind)} into one of {len(facts.class_names)} classes",
        "multi_label": f"gives {_words(facts.kind)} any of {len(facts.class_names)} labels",
        "regression": f"predicts {len(facts.class_names)} number(s) for {_words(facts.kind)}",
    }[facts.task]
    names = ", ".join(escaped(name) for name in facts.class_names[:_MOST])
    rest = len(facts.class_names) - _MOST
    more = f", and {rest} more (all of them in the configuration)" if rest > 0 else ""
    word = "Targets" if facts.task == "regression" else "Classes"
    base = escaped(without_folders(facts.base_model))
    return (
        f"This model {does}. It is {base}, fine-tuned with tether; the "
        f"weights are those of the {escaped(facts.exported)} epoch.\n\n{word}: {names}{more}."
    )


def _words(kind: str) -> str:
    return {"image": "images", "text": "texts", "vector": "rows of numbers"}[kind]


def _data(facts: CardFacts) -> str:
    rows = [[escaped(split), f"{count:,}"] for split, count in facts.counts.items()]
    text = f"{escaped(without_folders(facts.data))}\n\n" + _grid(["split", "samples"], rows)
    if facts.noise:
        told = ", ".join(
            f"{escaped(k)}: {escaped(_short(v))}"
            for k, v in facts.noise.items()
            if isinstance(v, (str, int, float))
        )
        text += f"\n\nWrong labels were put into the training data on purpose ({told})."
    return text


def _methods(facts: CardFacts) -> str:
    if not facts.methods:
        return "None: plain fine-tuning."
    lines = []
    for method in facts.methods:
        options = ", ".join(
            f"{escaped(k)} = {escaped(_short(v))}" for k, v in method.options.items()
        )
        source = f" ({_paper(method.paper)})" if method.paper else ""
        told = f": {escaped(method.summary)}" if method.summary else ""
        lines.append(f"- **{escaped(method.name)}**{source}{told}")
        if options:
            lines.append(f"  Options: {options}.")
    return "\n".join(lines)


def _paper(source: str) -> str:
    found = re.fullmatch(r"arXiv:(\d{4}\.\d{4,5})", source)
    return f"[{source}](https://arxiv.org/abs/{found[1]})" if found else escaped(source)


def _results(facts: CardFacts) -> str:
    splits = list(dict.fromkeys([*facts.last, *facts.best]))
    rows = []
    for split in splits:
        last, best = facts.last.get(split, {}), facts.best.get(split, {})
        for metric in dict.fromkeys([*last, *best]):
            rows.append([escaped(split), escaped(metric), _number(last.get(metric)),
                         _number(best.get(metric))])  # fmt: skip
    if not rows:
        return "The model was not evaluated."
    return (
        _grid(["split", "metric", "last epoch", "best epoch"], rows)
        + f"\n\nThe best epoch is the one with the best {escaped(facts.metric)} on the validation "
        "data, so its values there are a little too good; the last epoch's are not."
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _grid(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _short(value: Any, most: int = 120) -> str:
    text = repr(value) if not isinstance(value, str) else without_folders(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _limits(facts: CardFacts) -> str:
    trained = facts.counts.get("train", 0)
    lines = [
        f"- It has seen {trained:,} training samples of one data set; how it does on data from "
        "elsewhere was not measured.",
        "- The faults and biases of the base model, and its licence, come along.",
    ]
    if facts.task == "regression":
        lines.append("- Its numbers come without a statement of how sure they are.")
    else:
        lines.append(
            "- It answers with one of its classes whatever it is shown, and its probabilities are "
            "not calibrated."
            if facts.task == "single_label"
            else "- Its probabilities are not calibrated."
        )
    if "test" not in facts.counts:
        lines.append("- There was no test split: nothing was measured on data kept aside.")
    return "\n".join(lines)


def _settings(facts: CardFacts) -> str:
    if not isinstance(facts.settings, str):
        told = _without_folders(facts.settings)
        return "\n".join(f"{k}: {json.dumps(v, default=str)}" for k, v in told.items())
    import yaml  # what made the text

    try:
        told = yaml.safe_load(facts.settings)
    except yaml.YAMLError:
        return facts.settings
    short = _without_folders(told)
    if short == told:
        return facts.settings
    return str(yaml.safe_dump(short, sort_keys=False, allow_unicode=True, width=100))


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_folders(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(part) for part in value]
    return without_folders(value) if isinstance(value, str) else value


def without_folders(text: str) -> str:
    """A path's last part, any other text as it is: a card travels, and the folders of the machine
    that trained are nobody's business.

    Example:
        >>> without_folders("/home/me/data/pets"), without_folders("hf:~/models/bert/")
        ('pets', 'hf:bert')
        >>> without_folders("hf:google/bert"), without_folders("timm:resnet18")
        ('hf:google/bert', 'timm:resnet18')
    """
    found = _PATH.fullmatch(text)
    if found is None:
        return text
    return found[1] + re.split(r"[\\/]", found[2].rstrip("\\/"))[-1]
