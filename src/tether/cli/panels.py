"""Help as panels of two columns, which reads the same at 80 and at 120 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tether.cli.output import console

if TYPE_CHECKING:
    from rich.console import Console

OPTIONS = "Options"


class PanelHelp:
    """Mixed into typer's classes of commands: prints their help.

    Options stand in the panel that their ``rich_help_panel`` names, in the order of their
    definition; the help of an option may end in ``[its default, its range]``, which is dimmed.
    """

    #: Panel of ``--help`` itself.
    help_panel = OPTIONS

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; click's formatter stays empty."""
        from rich.padding import Padding
        from rich.text import Text

        screen = console()
        command: Any = self
        usage = " ".join(command.get_usage(ctx).split()).replace("{", "").replace("}", "")
        screen.print(Text(f"\n {usage}", style="bold"))
        for paragraph in (command.help or "").strip().split("\n\n"):
            screen.print(Padding(Text(" ".join(paragraph.split())), (1, 1, 0, 1)))
        screen.print()
        panels = _rows(command, ctx, self.help_panel)
        width = max(len(left) for rows in panels.values() for left, _, _ in rows)
        for title, rows in panels.items():
            _print_panel(screen, title, rows, width)
        if command.epilog:
            screen.print(Padding(Text(command.epilog, style="dim"), (0, 1, 1, 1)))


def _rows(command: Any, ctx: Any, help_panel: str) -> dict[str, list[tuple[str, str, str]]]:
    """Panel -> (what to write, what it does, default and range)."""
    panels: dict[str, list[tuple[str, str, str]]] = {}
    for name in getattr(command, "commands", {}):
        text = command.commands[name].help or ""
        panels.setdefault("Commands", []).append((name, text.strip().partition("\n")[0], ""))
    for param in command.get_params(ctx):
        if getattr(param, "hidden", False):
            continue
        help_text = getattr(param, "help", None) or ""
        text, bracket, note = help_text.partition(" [")
        if param.param_type_name == "argument":
            row = (param.metavar or str(param.name).upper(), text, bracket[1:] + note)
            panels.setdefault("Arguments", []).append(row)
            continue
        own = help_panel if "--help" in param.opts else OPTIONS
        written = ", ".join(sorted(param.opts, key=len))
        if param.secondary_opts:
            written += "/" + param.secondary_opts[0]
        elif not param.is_flag and param.metavar:
            written += f" {param.metavar}"
        panel = getattr(param, "rich_help_panel", None) or own
        panels.setdefault(panel, []).append((written, text, bracket[1:] + note))
    return panels


def _print_panel(screen: Console, title: str, rows: list[tuple[str, str, str]], width: int) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=width, no_wrap=True)
    table.add_column(ratio=1)
    for left, text, note in rows:
        flag, space, metavar = left.partition(" ")
        table.add_row(
            Text.assemble((flag, "bold cyan"), space, (metavar, "yellow")),
            Text.assemble(text, " " if note else "", (note, "dim")),
        )
    screen.print(Panel(table, title=Text(title), title_align="left", border_style="dim"))
