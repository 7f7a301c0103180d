"""``tether methods``: which there are, and what each one does."""

# Without postponed annotations: see tether.cli.app.

from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import console, print_json
from tether.errors import ConfigError

if TYPE_CHECKING:
    from typer import Typer

    from tether.catalogue import MethodInfo

WILD = "*?["
HEADER = ("name", "acts on", "cost", "what it does")


def add(app: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Argument, Option

    @app.command(cls=cls)
    def methods(
        name: Annotated[
            str | None,
            Argument(metavar="NAME", help="one to explain, or a pattern such as '*rand*'"),
        ] = None,
        kind: Annotated[
            str | None,
            Option(metavar="KIND", help="only those that act on weights, features, targets, ..."),
        ] = None,
        as_json: Annotated[bool, Option("--json", help="print JSON")] = False,
    ) -> None:
        """List the methods, or explain one."""
        with reported("tether methods"):
            if name and not any(sign in name for sign in WILD):
                if kind is not None:
                    raise ConfigError("--kind is for the list: leave it out, or leave out the name")
                _explain(name, as_json)
            else:
                _list(name or "*", kind, as_json)


def _list(pattern: str, kind: str | None, as_json: bool) -> None:
    from tether.catalogue import list_methods, method_info

    try:
        names = list_methods(pattern, kind=kind)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not names:
        raise ConfigError(f"no method matches {pattern!r}{f' of kind {kind}' if kind else ''}")
    infos = [method_info(name) for name in names]
    if as_json:
        print_json([record(info) for info in infos])
    else:
        _print_list([(i.name, i.kind, i.cost, i.summary) for i in infos])


def _print_list(rows: list[tuple[str, str, str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    screen = console()
    if not screen.is_terminal:  # for grep and cut: a line a method, however long
        widths = [max(len(row[i]) for row in [HEADER, *rows]) for i in range(3)]
        for row in [HEADER, *rows]:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            print("  ".join([*cells, row[3]]))
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in HEADER:
        table.add_column(title, no_wrap=title != HEADER[3])
    for name, *middle, summary in rows:
        table.add_row(Text(name, style="bold cyan"), *middle, Text(summary))
    screen.print(table)


def record(info: "MethodInfo") -> dict[str, Any]:
    """A method's record, for JSON."""
    return {
        "name": info.name,
        "class": info.cls.__name__,
        "acts_on": info.kind,
        "cost": info.cost,
        "summary": info.summary,
        "paper": info.paper,
        "needs": list(info.needs),
        "losses": list(info.losses),
        "conflicts": list(info.conflicts),
    }


def _explain(name: str, as_json: bool) -> None:
    from tether.catalogue import method_info
    from tether.cli.explain import as_record, blocks

    try:
        info = method_info(name.replace("-", "_"))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if as_json:
        print_json({**record(info), **as_record(info)})
        return
    screen = console()
    for block in blocks(info, screen.width):
        screen.print(block, soft_wrap=True)
