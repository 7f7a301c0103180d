"""The command ``tether``: one file a command; what is heavy is imported when it runs.

Nothing else of the package imports this one, and none of its files imports typer or rich when it
is itself imported: the package comes whole with torch alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code.

    Args:
        arguments: the words after ``tether``; None: those of this process.
    """
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        text = f'tether: the command line needs {error.name}: pip install "tether[cli]"'
        print(text, file=sys.stderr)
        return 1
    from tether.cli.app import run

    return run(arguments)
