"""Where a study keeps what it knows: a database that outlives every process that works on it.

SQLite in the study's folder, or PostgreSQL for several machines. Two tables say which runs were
claimed by whom and what they came to; beside them Optuna keeps its own of the tuning trials. A
run is claimed by inserting its row, which only one can do. Who works on the study says so every
few seconds; a claim of somebody who has stopped doing so is free again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tether.compare.owners import here, is_gone
from tether.errors import ConfigError, TetherError
from tether.files import finite
from tether.optional import require

#: Seconds between two signs of life, and after which silence means death.
BEAT, SILENCE = 10.0, 60.0
#: Seconds to wait for a lock or a server.
PATIENCE = 10
_FORMAT = "1"


@dataclass(frozen=True)
class Stored:
    """What the storage holds of a run.

    Attributes:
        settings: what was tuned, with the values that it was claimed with.
        row: what it came to; None while it is being done.
        attempts: how often it was begun by a worker that died.
        owner: who has claimed it.
    """

    settings: Mapping[str, Any]
    row: Mapping[str, Any] | None
    attempts: int
    owner: str


def sqlite_url(path: Path) -> str:
    """The URL of a database in a file."""
    return f"sqlite:///{path.absolute()}"


def full_url(url: str) -> str:
    """The URL with a driver that the extra ``sweep`` brings; a path becomes a URL.

    Raises:
        ConfigError: it is neither SQLite nor PostgreSQL.

    Example:
        >>> full_url("postgresql://me@host/studies")
        'postgresql+psycopg://me@host/studies'
    """
    kind, separator, rest = url.partition("://")
    if not separator:
        return sqlite_url(Path(url).expanduser())
    if kind in ("postgresql", "postgres"):
        return f"postgresql+psycopg://{rest}"
    if kind in ("sqlite", "postgresql+psycopg"):
        return url
    raise ConfigError(
        f"storage {kind}://…: use a file, sqlite:///FILE or postgresql://USER@HOST/DATABASE"
    )


class Storage:
    """The database of one study.

    Args:
        url: see :func:`full_url`.
        name: of the study; a database may hold several.
        alone: nobody else can be working on it, so that all claims of others are of the dead.

    Raises:
        ConfigError: it cannot be reached, or is locked.
    """

    def __init__(self, url: str, name: str, *, alone: bool = False) -> None:
        self.url, self.name = full_url(url), name
        self.alone = alone and self.url.startswith("sqlite")
        self.owner = f"{here()} {os.getpid()} {uuid4().hex[:8]}"
        self._beaten = 0.0
        self._sql: Any = require("sqlalchemy", "sweep", "a comparison")
        waits = {"timeout": PATIENCE} if self._sqlite else {"connect_timeout": PATIENCE}
        try:
            self._engine = self._sql.create_engine(
                self.url, connect_args=waits, pool_pre_ping=not self._sqlite
            )
        except (ImportError, self._sql.exc.ArgumentError) as error:
            raise ConfigError(f"storage {self._shown}: {error}") from None
        self._define()
        self._create()
        self._sign()

    @property
    def _sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    @property
    def _shown(self) -> str:
        """The URL without a password."""
        try:
            made = self._sql.engine.make_url(self.url)
        except self._sql.exc.ArgumentError:
            return self.url.partition("://")[0] + "://…"
        shown: str = made.render_as_string(hide_password=True)
        return shown

    def _define(self) -> None:
        sql = self._sql
        self._tables = sql.MetaData()
        text, column = sql.Text, sql.Column
        self._studies = sql.Table(
            "tether_studies", self._tables, column("name", sql.String(200), primary_key=True),
            column("config", text), column("meta", text), column("format", text),
        )  # fmt: skip
        self._runs = sql.Table(
            "tether_runs", self._tables,
            column("study", sql.String(200), primary_key=True),
            column("id", sql.String(500), primary_key=True),
            column("settings", text), column("row", text),
            column("attempts", sql.Integer), column("owner", sql.String(200)),
        )  # fmt: skip
        self._owners = sql.Table(
            "tether_owners", self._tables, column("owner", sql.String(200), primary_key=True),
            column("study", sql.String(200)), column("seen", sql.Float),
        )  # fmt: skip

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        try:
            with self._engine.begin() as to:
                yield to
        except self._sql.exc.IntegrityError:
            raise
        except self._sql.exc.DBAPIError as error:
            raise TetherError(self._problem(error)) from error

    def _problem(self, error: Any) -> str:
        said = " ".join(str(error.orig).split())
        if self._sqlite and "locked" in said:
            return (
                f"storage {self._shown} is locked: another program has it open for writing; close "
                "it and give the command again"
            )
        if self._sqlite and "unable to open" in said:
            return f"storage {self._shown} cannot be opened: is there such a folder?"
        if isinstance(error, self._sql.exc.OperationalError):
            return f"storage {self._shown} cannot be reached: {said[:300]}"
        return f"storage {self._shown}: {said[:300]}"

    def _create(self) -> None:
        """Make the tables where there are none; somebody else may be doing so at this moment."""
        for attempt in range(5):
            try:
                with self._transaction() as to:
                    self._tables.create_all(to, checkfirst=True)
                return
            except (TetherError, self._sql.exc.IntegrityError) as error:
                if isinstance(error, TetherError) and "already exists" not in str(error):
                    raise ConfigError(str(error)) from None
                if attempt == 4:
                    raise ConfigError(f"storage {self._shown}: its tables cannot be made") from None
                time.sleep(0.2)

    # -- the study -----------------------------------------------------------------------------

    def config(self) -> str | None:
        """The study as it was stored; None where it is new."""
        table = self._studies
        with self._transaction() as to:
            found = to.execute(
                self._sql.select(table.c.config).where(table.c.name == self.name)
            ).first()
        return None if found is None else str(found[0])

    def meta(self) -> dict[str, Any]:
        """What was stored beside the study."""
        table = self._studies
        with self._transaction() as to:
            found = to.execute(
                self._sql.select(table.c.meta).where(table.c.name == self.name)
            ).first()
        return json.loads(found[0]) if found is not None and found[0] else {}

    def keep(self, config: str, meta: Mapping[str, Any]) -> None:
        """Store the study; it takes the place of what was stored."""
        table = self._studies
        values = {"config": config, "meta": json.dumps(finite(meta)), "format": _FORMAT}
        while True:
            try:
                with self._transaction() as to:
                    mine = table.update().where(table.c.name == self.name)
                    if not to.execute(mine.values(**values)).rowcount:
                        to.execute(table.insert().values(name=self.name, **values))
                return
            except self._sql.exc.IntegrityError:
                continue  # another engine stored it in between: now it is there to be updated

    def clear(self) -> None:
        """Forget the study and all its runs."""
        with self._transaction() as to:
            to.execute(self._studies.delete().where(self._studies.c.name == self.name))
            to.execute(self._runs.delete().where(self._runs.c.study == self.name))

    # -- runs ----------------------------------------------------------------------------------

    def runs(self, known: Mapping[str, Stored] | None = None) -> dict[str, Stored]:
        """Every run that was claimed or ended, by its id.

        Args:
            known: what was read before; rows that are in it are not read again, since a database
                elsewhere takes long to send many.
        """
        table, sql = self._runs, self._sql
        columns = (table.c.id, table.c.settings, table.c.attempts, table.c.owner)
        mine = table.c.study == self.name
        with self._transaction() as to:
            found = to.execute(
                sql.select(*columns, table.c.row.is_not(None)).where(mine)
            ).fetchall()
            new = [
                run for run, _, _, _, has in found
                if has and (known is None or run not in known or known[run].row is None)
            ]  # fmt: skip
            some = mine if known is None else mine & table.c.id.in_(new)
            read = sql.select(table.c.id, table.c.row).where(some & table.c.row.is_not(None))
            rows = {run: json.loads(row) for run, row in to.execute(read) if new}
        return {
            run: Stored(
                json.loads(settings),
                rows[run] if run in rows else known[run].row if has and known else None,
                attempts, owner,
            )
            for run, settings, attempts, owner, has in found
        }  # fmt: skip

    def claim(self, run: str, settings: Mapping[str, Any]) -> bool:
        """Take a run; False where somebody has it or it has ended."""
        table = self._runs
        mine = (table.c.study == self.name) & (table.c.id == run)
        try:
            with self._transaction() as to:
                freed = to.execute(
                    table.update()
                    .where(mine & (table.c.owner == "") & table.c.row.is_(None))
                    .values(owner=self.owner)
                )
                if freed.rowcount:
                    return True
                to.execute(
                    table.insert().values(
                        study=self.name, id=run, settings=json.dumps(dict(settings)), row=None,
                        attempts=0, owner=self.owner,
                    )
                )  # fmt: skip
        except self._sql.exc.IntegrityError:
            return False
        return True

    def _change(self, run: str, **values: Any) -> None:
        table = self._runs
        mine = (table.c.study == self.name) & (table.c.id == run)
        with self._transaction() as to:
            to.execute(table.update().where(mine).values(**values))

    def release(self, run: str) -> None:
        """Let others have a run that was not finished."""
        self._change(run, owner="")

    def count_attempt(self, run: str) -> int:
        """Note that a worker died on a run; gives how many have."""
        table = self._runs
        mine = (table.c.study == self.name) & (table.c.id == run)
        with self._transaction() as to:
            to.execute(table.update().where(mine).values(attempts=table.c.attempts + 1))
            return int(to.execute(self._sql.select(table.c.attempts).where(mine)).scalar())

    def finish(self, run: str, row: Mapping[str, Any]) -> None:
        """Keep what a run came to."""
        self._change(run, row=json.dumps(finite(row), ensure_ascii=False), owner="")

    def forget(self, runs: Iterable[str]) -> None:
        """Drop runs, so that they are done again."""
        table = self._runs
        with self._transaction() as to:
            for run in runs:
                to.execute(table.delete().where((table.c.study == self.name) & (table.c.id == run)))

    # -- who is at work ------------------------------------------------------------------------

    def _now(self, to: Any) -> float:
        """The database's clock: those of several machines differ."""
        text = (
            "select (julianday('now') - 2440587.5) * 86400.0"
            if self._sqlite
            else "select extract(epoch from clock_timestamp())"
        )
        return float(to.execute(self._sql.text(text)).scalar())

    def _sign(self) -> None:
        with self._transaction() as to:
            to.execute(
                self._owners.insert().values(owner=self.owner, study=self.name, seen=self._now(to))
            )
        self._beaten = time.monotonic()

    def beat(self) -> None:
        """Give a sign of life, where the last one is some time ago."""
        if time.monotonic() - self._beaten < BEAT:
            return
        table = self._owners
        with self._transaction() as to:
            to.execute(table.update().where(table.c.owner == self.owner).values(seen=self._now(to)))
        self._beaten = time.monotonic()

    def free_dead(self) -> None:
        """Free the claims of those who work no more."""
        table = self._owners
        with self._transaction() as to:
            found = to.execute(
                self._sql.select(table.c.owner, table.c.seen).where(table.c.study == self.name)
            ).fetchall()
            now = self._now(to)
            dead = [
                owner
                for owner, seen in found
                if owner != self.owner and (self.alone or now - seen > SILENCE or is_gone(owner))
            ]
            for owner in dead:
                runs = self._runs
                to.execute(
                    runs.update()
                    .where((runs.c.study == self.name) & (runs.c.owner == owner))
                    .values(owner="")
                )
                to.execute(table.delete().where(table.c.owner == owner))

    def others(self) -> int:
        """How many others work on the study."""
        table = self._owners
        with self._transaction() as to:
            found = to.execute(
                self._sql.select(table.c.owner).where(table.c.study == self.name)
            ).fetchall()
        return len([1 for (owner,) in found if owner != self.owner])

    def close(self) -> None:
        """Give up what is claimed, and leave."""
        try:
            with self._transaction() as to:
                runs = self._runs
                to.execute(runs.update().where(runs.c.owner == self.owner).values(owner=""))
                to.execute(self._owners.delete().where(self._owners.c.owner == self.owner))
        except TetherError:  # it may be what we stop for
            pass
        finally:
            self._engine.dispose()


def patiently(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Do something with a storage that may be away for a moment; the last error is raised."""
    end = time.monotonic() + seconds
    while True:
        try:
            return what()
        except TetherError:
            if time.monotonic() > end:
                raise
            time.sleep(1)
