"""``corrections.csv``: decisions about labels, one a line, only ever added to.

The file is the state: what holds for a sample is what is left of its lines once every ``undo`` has
taken back the decision before it. A line is on the disk before anybody is told that it is saved,
and a line that a crash broke off is cut away when the file is opened next.
"""

from __future__ import annotations

import csv
import io
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from tether.errors import ConfigError
from tether.files import sync_file
from tether.words import listed, printable

DECISIONS = ("accept", "keep", "other", "skip", "undo")
FILE_NAME = "corrections.csv"
#: The last column always has this length, so that a whole line is known without its line end.
SESSION_LENGTH = 16
_TEXT = {"encoding": "utf-8", "errors": "surrogatepass"}  # file names may hold any bytes


@dataclass(frozen=True)
class Entry:
    """One line of the journal.

    Attributes:
        time: when it was decided, UTC, ISO 8601.
        id: of the sample, as in ``suspects.csv``.
        split: of the sample.
        given: its label in the data.
        decision: one of ``DECISIONS``.
        label: the label that it should have from now on; empty for ``skip`` and ``undo``.
        sequence: number of the decision in its session.
        session: of the browser tab, 16 signs; session and sequence name a decision, so that one
            that is sent twice is not counted twice.
    """

    time: str
    id: str
    split: str
    given: str
    decision: str
    label: str
    sequence: int
    session: str

    @property
    def key(self) -> tuple[str, int]:
        """What names the decision."""
        return self.session, self.sequence


COLUMNS = tuple(field.name for field in fields(Entry))


def now() -> str:
    """The time as it is written."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Decisions:
    """What holds for each sample, brought up to date line by line."""

    def __init__(self) -> None:
        self._stacks: dict[str, list[Entry]] = {}

    def apply(self, entry: Entry) -> None:
        """Take the next line."""
        stack = self._stacks.pop(entry.id, [])
        if entry.decision == "undo":
            del stack[-1:]
        else:
            stack.append(entry)
        if stack:
            self._stacks[entry.id] = stack  # what was decided last comes last

    def depth(self, name: str) -> int:
        """How many decisions about a sample could be taken back."""
        return len(self._stacks.get(name, ()))

    def state(self) -> dict[str, Entry]:
        """Id -> the decision that holds, oldest first."""
        return {name: stack[-1] for name, stack in self._stacks.items()}


def fold(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Id -> the decision that holds, oldest first.

    Args:
        entries: in the order of the file.

    Example:
        >>> def entry(decision, label, number):
        ...     return Entry(now(), "1.png", "train", "cat", decision, label, number, "0" * 16)
        >>> state = fold([entry("keep", "cat", 1), entry("accept", "dog", 2), entry("undo", "", 3)])
        >>> state["1.png"].label
        'cat'
    """
    decisions = Decisions()
    for entry in entries:
        decisions.apply(entry)
    return decisions.state()


# -- reading ---------------------------------------------------------------------------------------


def read_journal(path: Path) -> list[Entry]:
    """The lines of a journal; a last one that was broken off is left out.

    Raises:
        ConfigError: there is no such file, or it holds something else; names the line.
    """
    try:
        return _parse(path.read_bytes(), path)[0]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _parse(data: bytes, path: Path) -> tuple[list[Entry], int, bool]:
    """The entries, where the last whole line ends, and whether it lacks its line end."""
    entries: list[Entry] = []
    end = 0
    header = False
    for number, cells, after, closed in _records(data, path):
        if not header:
            if tuple(cells) == COLUMNS and closed:
                header, end = True, after
                continue
            if not closed and ",".join(COLUMNS).startswith(",".join(cells)):
                break  # the process was killed while it wrote the header
            raise ConfigError(f"{path} is no journal of decisions: its first line is not {_head()}")
        if not closed and not (len(cells) == len(COLUMNS) and len(cells[-1]) == SESSION_LENGTH):
            break
        entries.append(_entry(cells, f"{path}, line {number}"))
        end = after
        if not closed:
            return entries, end, True
    return entries, end, False


def _head() -> str:
    return f"'{','.join(COLUMNS)}'"


def _records(data: bytes, path: Path) -> Iterator[tuple[int, list[str], int, bool]]:
    """(Line, fields, where it ends in the file, whether it has its line end) of every record."""
    if data.startswith(b"\xef\xbb\xbf"):  # a spreadsheet was here
        data = b"   " + data[3:]
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for line in data.split(b"\n"):
            if taken + len(line) >= len(data) and not line:
                return
            taken = min(taken + len(line) + 1, len(data))
            text = line + (b"\n" if data[taken - 1 : taken] == b"\n" else b"")
            try:
                yield text.decode(**_TEXT)
            except UnicodeDecodeError:
                if taken < len(data):
                    raise
                yield text.decode("utf-8", "replace")

    reader = csv.reader(lines(), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except UnicodeDecodeError:
            raise ConfigError(f"{path}, line {start}: not UTF-8 text") from None
        except csv.Error as error:
            if taken >= len(data):  # a quoted field that has no end
                return
            raise ConfigError(f"{path}, line {start}: {error}") from None
        if cells is None:
            return
        if start == 1 and cells and data.startswith(b"   "):
            cells[0] = cells[0].strip()
        if cells:
            yield start, cells, taken, data[taken - 1 : taken] == b"\n"


def _entry(cells: Sequence[str], where: str) -> Entry:
    if len(cells) != len(COLUMNS):
        raise ConfigError(f"{where}: {len(cells)} fields instead of {len(COLUMNS)}")
    when, name, split, given, decision, label, sequence, session = cells
    if decision not in DECISIONS:
        raise ConfigError(
            f"{where}: decision '{printable(decision)}' is none of {listed(DECISIONS)}"
        )
    if not sequence.isdecimal():
        raise ConfigError(f"{where}: sequence '{printable(sequence)}' is not a whole number")
    return Entry(when, name, split, given, decision, label, int(sequence), session)


# -- writing ---------------------------------------------------------------------------------------


class Journal:
    """A journal for adding to; threads and other processes may add to it, too.

    Args:
        path: the file; made with its header where it is not there.

    Attributes:
        entries: what it holds, in the order of the file.

    Raises:
        ConfigError: it cannot be written, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._decisions = Decisions()
        self._known: set[tuple[str, int]] = set()
        self._seen: tuple[int, int] = (0, 0)
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.refresh()
        except OSError as error:
            raise ConfigError(
                f"decisions cannot be written to {path}: {error.strerror}; name another file with "
                "--corrections FILE"
            ) from None

    def refresh(self) -> None:
        """Learn what other processes have added."""
        with self._alone():
            pass

    def state(self) -> dict[str, Entry]:
        """Id -> the decision that holds."""
        return self._decisions.state()

    def holds(self, entry: Entry) -> bool:
        """Whether this very decision was written before."""
        return entry.key in self._known

    def add(self, wanted: Sequence[Entry]) -> list[Entry]:
        """Write decisions and have them on the disk; those that it holds already are left out.

        An ``undo`` of a sample without a decision is left out, too.

        Returns:
            those that were written.

        Raises:
            OSError: they cannot be written; then none of them was.
        """
        with self._alone() as handle:
            fresh: list[Entry] = []
            keys: set[tuple[str, int]] = set()
            depth: dict[str, int] = {}
            for entry in wanted:
                left = depth.setdefault(entry.id, self._decisions.depth(entry.id))
                undo = entry.decision == "undo"
                if entry.key in self._known or entry.key in keys or (undo and not left):
                    continue
                depth[entry.id] = left - 1 if undo else left + 1
                keys.add(entry.key)
                fresh.append(entry)
            if fresh:
                _write(handle, "".join(_line(astuple(entry)) for entry in fresh))
                self._take(fresh, handle)
            return fresh

    def _take(self, entries: Sequence[Entry], handle: int) -> None:
        for entry in entries:
            self.entries.append(entry)
            self._known.add(entry.key)
            self._decisions.apply(entry)
        self._seen = _about(handle)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """The file; nobody else writes meanwhile, and what others wrote before is known."""
        # Opened anew each time: the file may have been replaced, by an editor for instance.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        with self._lock:
            handle = os.open(self.path, flags, 0o644)
            try:
                with _locked(handle):
                    if self._seen != _about(handle):
                        self._read(handle)
                    yield handle
            finally:
                os.close(handle)

    def _read(self, handle: int) -> None:
        data = self.path.read_bytes()
        entries, end, bare = _parse(data, self.path)
        if end < len(data):
            os.ftruncate(handle, end)
        if not end:
            _write(handle, _line(COLUMNS))
            sync_file(self.path.parent)
        elif bare:
            _write(handle, "\n")
        self.entries, self._known, self._decisions = [], set(), Decisions()
        self._take(entries, handle)


def _about(handle: int) -> tuple[int, int]:
    about = os.fstat(handle)
    return about.st_ino, about.st_size


def _write(handle: int, text: str) -> None:
    """All of it or, where the disk is full, nothing."""
    data = text.encode(**_TEXT)
    before = os.fstat(handle).st_size
    try:
        done = 0
        while done < len(data):
            done += os.write(handle, data[done:])
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, before)
        raise


def _line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    # so ended, a line break of either kind is put in quotes
    csv.writer(text, lineterminator="\r\n").writerow(list(cells))
    return text.getvalue()[:-2] + "\n"


def format_journal(entries: Iterable[Entry]) -> str:
    """Header and lines, as they stand in the file."""
    return "".join([_line(COLUMNS), *(_line(astuple(entry)) for entry in entries)])


@contextmanager
def _locked(handle: int) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # no such locks on this system: one server a journal is up to the user
        yield
        return
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)
