"""The folder of a study: what stands in it, and who may write to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tether.errors import ConfigError
from tether.files import append_row, finite, read_json, read_rows, write_json, write_text
from tether.tuning.run_folder import LOCK_FILE, in_use, locked

STUDY_FILE, META_FILE, ROWS_FILE, DATABASE = "study.yaml", "meta.json", "results.jsonl", "study.db"
RUNS, LOGS, CACHE = "runs", "logs", "cache"


class StudyFolder:
    """A folder that holds one study.

    Args:
        path: the folder.

    Raises:
        ConfigError: it is not empty and holds no study.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise ConfigError(f"output folder {path}: there is a file of this name")
        if path.is_dir() and not self.is_study():
            others = [one.name for one in path.iterdir() if one.name != LOCK_FILE]
            if others:
                raise ConfigError(
                    f"output folder {path} is not empty and holds no study ({STUDY_FILE}): name "
                    "another one"
                )

    def is_study(self) -> bool:
        """Whether a study was begun in it."""
        return (self.path / STUDY_FILE).is_file()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have it alone.

        Raises:
            ConfigError: another comparison is working in it.
        """
        if in_use(self.path):
            raise ConfigError(f"study {self.path}: another comparison is working in this folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output folder {self.path}: {error.strerror}") from None
        with open(self.path / LOCK_FILE, "a") as lock:
            if not locked(lock):
                raise ConfigError(
                    f"study {self.path}: another comparison is working in this folder"
                )
            yield

    def write_study(self, text: str, meta: Mapping[str, Any]) -> None:
        """Say what is compared."""
        write_text(self.path / STUDY_FILE, text)
        self.write_meta(meta)

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """What the report needs beside the rows."""
        write_json(self.path / META_FILE, dict(meta))

    def add_row(self, row: Mapping[str, Any]) -> None:
        """A run that ended, at the end of the rows."""
        append_row(self.path / ROWS_FILE, dict(row))

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """All rows, in order."""
        lines = (json.dumps(finite(dict(row)), ensure_ascii=False) for row in rows)
        write_text(self.path / ROWS_FILE, "".join(f"{line}\n" for line in lines))

    def read(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Rows and what goes with them.

        Raises:
            ConfigError: there is no study, or it cannot be read.
        """
        if not self.is_study() or not (self.path / META_FILE).is_file():
            raise ConfigError(f"{self.path} holds no study ({STUDY_FILE}, {META_FILE})")
        return read_rows(self.path / ROWS_FILE), read_json(self.path / META_FILE)
