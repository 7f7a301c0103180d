"""Tables of the options of ``tether tune``, from the fields of :class:`tether.TuneConfig`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes
from method_pages import table
from sphinx.util.docutils import SphinxDirective

from tether.cli.tune import METAVARS, NO_FLAG, flag_name
from tether.tuning.config import load_config
from tether.tuning.options import GROUPS
from tether.tuning.table import FIELDS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

BOUNDS = {"above": "above", "low": "from", "high": "to"}


def written(name: str) -> str:
    """An option as it is written on the command line."""
    field = FIELDS[name]
    if name in NO_FLAG:
        return f"`{name}` (YAML)"
    kind = str(field.type)
    flag = f"--{flag_name(name)}"
    if kind == "bool":
        return f"`{flag}`, `--no-{flag_name(name)}`"
    return f"`{flag} {field.metadata['metavar'] or METAVARS[kind]}`"


def default(name: str) -> str:
    """The default as code; empty where nothing is the default."""
    value = getattr(load_config(), name)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in ("", [], {}):
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def allowed(name: str) -> str:
    """The choices, or the range."""
    about = FIELDS[name].metadata
    if about["choices"]:
        return ", ".join(f"`{choice}`" for choice in about["choices"])
    bounds = [f"{word} {about[key]:g}" for key, word in BOUNDS.items() if about[key] is not None]
    return " ".join(bounds)


def meaning(name: str) -> str:
    """The help, and what a table can add to it."""
    about = FIELDS[name].metadata
    text = str(about["help"])
    if about["aliases"]:
        text += f" (also {', '.join(f'`--{alias}`' for alias in about['aliases'])})"
    return text if about["settings"] else f"{text} ↻"


def option_table(group: str) -> str:
    """The options of a panel of the help, as a Markdown table."""
    if group not in GROUPS:
        raise ValueError(f"no group of options {group!r}: {', '.join(GROUPS)}")
    rows: list[tuple[Any, ...]] = [
        (written(name), default(name), allowed(name), meaning(name))
        for name, field in FIELDS.items()
        if field.metadata["group"] == group
    ]
    return "\n".join(table(("option", "default", "allowed", "what it does"), rows))


class TuneOptions(SphinxDirective):
    """The options of one group."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Emit the table."""
        return self.parse_text_to_nodes(option_table(self.arguments[0]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("tune-options", TuneOptions)
    return {"parallel_read_safe": True}
