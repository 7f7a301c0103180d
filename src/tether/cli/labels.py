"""``tether labels``: find wrong labels, review them, apply what was decided."""

# Without postponed annotations: see tether.cli.app.

from typing import TYPE_CHECKING, Any

from tether.cli import labels_apply, labels_export, labels_find, labels_review

if TYPE_CHECKING:
    from typer import Typer

#: One module a subcommand.
SUBCOMMANDS = (labels_find, labels_review, labels_apply, labels_export)


def add(app: "Typer", cls: Any) -> None:
    """Enter the group and its commands."""
    from typer import Typer
    from typer.core import TyperGroup

    from tether.cli.panels import PanelHelp

    group = Typer(
        name="labels",
        cls=type("Group", (PanelHelp, TyperGroup), {}),
        help="Find wrong labels, review them in the browser, apply the corrections.",
        no_args_is_help=True,
    )
    for module in SUBCOMMANDS:
        module.add(group, cls)
    app.add_typer(group)
