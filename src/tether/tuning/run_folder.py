"""The run folder: who may write to it, and what stands in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import weakref
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from tether.continual.items import name_of
from tether.errors import ConfigError
from tether.files import write_json, write_text
from tether.tuning.config import CONFIG_NAME, differences, dump_config, load_config
from tether.tuning.method_spec import resolve_methods
from tether.tuning.options import TuneConfig
from tether.tuning.result import RESULT_FILE

LOCK_FILE = ".lock"
DONE, FAILED = "DONE", "FAILED"
#: All that a run writes into its folder, the lock left out.
OURS = (
    CONFIG_NAME, RESULT_FILE, DONE, FAILED, "environment.json", "progress.json", "run.log",
    "metrics.jsonl", "checkpoints", "model", "predictions-*.csv", "labels",
    "diagnosis.json", "report.html", "encode", "average",
)  # fmt: skip


def folder_of(config: TuneConfig) -> Path:
    """The run folder: ``output_dir``, or ``runs/MODEL-DATA-METHODS`` where none was named."""
    if config.output_dir:
        return Path(config.output_dir)
    methods = [name for name, _ in resolve_methods(config)]
    model = Path(config.model.rpartition(":")[2]).name
    data = name_of(config.sequence) if config.sequence else Path(config.data).stem
    name = "-".join([model, data, "+".join(methods) or "plain"])
    return Path("runs") / re.sub(r"[^A-Za-z0-9._+-]+", "_", name)


class RunFolder:
    """A folder that one run owns while it is open.

    Args:
        path: the folder.
        config: the settings of this run.
        resume: go on with the run that is in it.
        overwrite: remove what is in it.

    Raises:
        ConfigError: it is not empty, in use, or holds a run with other settings.
    """

    def __init__(self, path: Path, config: TuneConfig, *, resume: bool, overwrite: bool) -> None:
        self.path = path
        self.config = config
        self.resume = resume
        self.overwrite = overwrite
        self._lock: IO[str] | None = None

    def check(self) -> None:
        """Raise early, before anything slow; nothing is written."""
        if self.resume and self.overwrite:
            raise ConfigError("--resume and --overwrite contradict each other: give one of them")
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"output folder {self.path}: there is a file of this name")
        if self._lock is None and in_use(self.path):
            raise ConfigError(f"output folder {self.path}: another run is writing to it")
        if not self.resume and not self.overwrite and self._contents():
            raise ConfigError(
                f"output folder {self.path} is not empty: go on with --resume, begin anew with "
                "--overwrite, or name another --output-dir"
            )
        a_run = all((self.path / name).is_file() for name in (CONFIG_NAME, LOCK_FILE))
        if self._contents() and not a_run:
            raise ConfigError(
                f"output folder {self.path} is not empty and holds no run (a run has "
                f"{CONFIG_NAME} and {LOCK_FILE}): name another --output-dir"
            )
        if self.resume and a_run:
            before = load_config(self.path / CONFIG_NAME)
            changed = differences(before, self.config)
            if changed:
                raise ConfigError(
                    f"cannot resume {self.path}, its settings differ: {'; '.join(changed)}. Give "
                    "the same settings, or begin anew with --overwrite"
                )

    def open(self) -> None:
        """Take the folder: lock it, empty it where asked, write the settings."""
        self.check()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output folder {self.path}: {error.strerror}") from None
        self._take_lock()
        if self.overwrite:
            self._remove_run()
        (self.path / FAILED).unlink(missing_ok=True)
        write_text(self.path / CONFIG_NAME, dump_config(self.config))

    def close(self) -> None:
        """Let others have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def opened(self) -> bool:
        """Whether this run owns the folder."""
        return self._lock is not None

    @property
    def finished(self) -> bool:
        """Whether the run in it is complete."""
        return (self.path / DONE).is_file() and (self.path / RESULT_FILE).is_file()

    def mark_done(self, result: dict[str, Any]) -> None:
        """Write the result, then say that the run is complete."""
        write_json(self.path / RESULT_FILE, result)
        write_text(self.path / DONE, "")

    def mark_failed(self, message: str) -> None:
        """Leave the error's text, where the disk lets us."""
        with contextlib.suppress(OSError):
            write_text(self.path / FAILED, message + "\n")

    # -- the lock --------------------------------------------------------------------------------

    def _contents(self) -> list[str]:
        return [n for n in os.listdir(self.path) if n != LOCK_FILE] if self.path.is_dir() else []

    def _take_lock(self) -> None:
        self._lock = open(self.path / LOCK_FILE, "a")  # noqa: SIM115  (held until close)
        if not locked(self._lock):
            self.close()
            raise ConfigError(f"output folder {self.path}: another run is writing to it")
        _HELD.add(self._lock)

    def _remove_run(self) -> None:
        """Remove what a run writes; what else is in the folder stays."""
        for name in self._contents():
            if not any(fnmatchcase(name, pattern) for pattern in OURS):
                continue
            inside = self.path / name
            if inside.is_dir() and not inside.is_symlink():
                shutil.rmtree(inside)
            else:
                inside.unlink()


#: Locks of this process. A lock is held as long as any process has its file open, so that a
#: worker of a data loader would keep it after its parent was killed: a forked child lets go.
_HELD: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def _let_go() -> None:
    for file in list(_HELD):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def in_use(path: Path) -> bool:
    """Whether a process has a folder's lock."""
    if not (path / LOCK_FILE).exists():
        return False
    with open(path / LOCK_FILE, "a") as file:
        return not locked(file)


def locked(file: IO[str]) -> bool:
    """Take the lock of an open file for as long as it is open; False where another has it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def read_progress(path: Path) -> dict[str, Any]:
    """What ``progress.json`` says of the stages that are complete."""
    file = path / "progress.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"stages": []}
