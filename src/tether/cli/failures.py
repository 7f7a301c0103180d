"""What goes wrong becomes one message and an exit code."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tether.cli.output import say
from tether.errors import ConfigError, Interrupted, TetherError

FAILURE, USAGE = 1, 2
LOG_FILE = "run.log"


@contextmanager
def reported(command: str, folder: Callable[[], Path | None] = lambda: None) -> Iterator[None]:
    """Turn every exception of a command into its message on stderr and its exit code.

    2: what was asked for cannot be done. 1: it failed. 128 + signal: it was told to stop. With
    ``TETHER_DEBUG=1`` in the environment the traceback is shown, too.

    Args:
        command: how messages are signed.
        folder: the run folder, asked for when something went wrong.
    """
    try:
        yield
    except BrokenPipeError:
        # Who read our stdout has gone; the interpreter must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILURE) from None
    except KeyboardInterrupt:
        say(command, "interrupted")
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("TETHER_DEBUG"):
            traceback.print_exc()
        message, code = _judge(error, folder)
        say(command, message)
        raise SystemExit(code) from None


def _judge(error: Exception, folder: Callable[[], Path | None]) -> tuple[str, int]:
    if isinstance(error, Interrupted):
        return str(error), 128 + error.signum
    if isinstance(error, ConfigError):
        return str(error), USAGE
    if isinstance(error, (TetherError, OSError)) or _disk_full(error):
        return (_disk_message(error, folder()) if _disk_full(error) else _text(error)), FAILURE
    if isinstance(error, ImportError):
        remedy = _missing_package(error)
        if remedy:
            return remedy, FAILURE
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first} (traceback in {_log(error, folder())})", FAILURE


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fspath(error.filename)!s}: {error.strerror}"
    return str(error)


# -- the disk --------------------------------------------------------------------------------------


def _disk_full(error: Exception) -> bool:
    """Whether the disk is full, also where a library has put that in words of its own."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return True
    return "No space left on device" in str(error) or f"os error {errno.ENOSPC}" in str(error)


def _disk_message(error: Exception, folder: Path | None) -> str:
    named = getattr(error, "filename", None)
    near = Path(named).parent if isinstance(named, (str, Path)) else folder or Path()
    place = near.absolute()
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**20
    then = "then go on with --resume" if folder is not None else "then try again"
    return f"no room on the disk: {place} has {free:.1f} MiB free; make room, {then}"


# -- packages --------------------------------------------------------------------------------------


def _missing_package(error: ImportError) -> str:
    """How to get a package that is not installed; empty where the error is another one."""
    if "pip install" in str(error):
        return str(error)
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    from tether.cli.extras import extra_of

    package = error.name.partition(".")[0]
    extra = extra_of(package)
    return f'this needs {package}: pip install "tether[{extra}]"' if extra else ""


# -- tracebacks ------------------------------------------------------------------------------------


def _log(error: Exception, folder: Path | None) -> Path:
    """The file that holds the traceback: the run's, or else one that is written now."""
    lines = traceback.format_exception(error)
    if folder is not None and (folder / LOG_FILE).is_file():
        end = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")[-100_000:]
        if lines[-1].strip() in end:
            return folder / LOG_FILE
    name = f"tether-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    path = Path(tempfile.gettempdir()) / name
    path.write_text("".join(lines), encoding="utf-8", errors="replace")
    return path
