"""The state of a runner: a SQLite file with the cursor of each effect, what is done beyond it, and what is parked.

    tidegrid_effects         effect (primary key) | map | epoch | done | skipped
    tidegrid_effects_beyond  effect, epoch, partition, position, idx (primary key)
    tidegrid_effects_parked  number (primary key) | effect | map | epoch | partition | position | idx | op | key | value |
                             version | time_ms | tries | error | parked_ms | again
    tidegrid_effects_grid    id

`epoch` is the cursor: everything at or below it is done, skipped or parked; so is what is listed beyond it. What one
settled change brings about is one transaction, and a commit is synced to disk: a mail that was sent is not sent again
because the power failed. `again` is set by whoever wants a parked change to be driven once more; a runner finds it.

One runner at a time writes cursors, by a lock on FILE.lock that ends with its process; anybody may read the file, and
set `again`. Used by one thread. SQLite's errors are translated by `translated`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tidegrid.effects.place import Place, Waiting, event_of
from tidegrid.grid.model.errors import (
    ConfigurationError,
    FormatError,
    GridError,
    InUseError,
    StorageFullError,
    WrongGridError,
)
from tidegrid.triggers.effect import EffectEvent

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_SECONDS: Final = 30.0
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS tidegrid_effects_grid (id TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS tidegrid_effects (effect TEXT PRIMARY KEY, map TEXT NOT NULL, epoch INTEGER NOT NULL, "
    "done INTEGER NOT NULL, skipped INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS tidegrid_effects_beyond (effect TEXT, epoch INTEGER, partition INTEGER, "
    "position INTEGER, idx INTEGER, PRIMARY KEY (effect, epoch, partition, position, idx)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS tidegrid_effects_parked (number INTEGER PRIMARY KEY AUTOINCREMENT, effect TEXT NOT NULL, "
    "map TEXT NOT NULL, epoch INTEGER NOT NULL, partition INTEGER NOT NULL, position INTEGER NOT NULL, idx INTEGER NOT NULL, "
    "op TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL, time_ms INTEGER NOT NULL, "
    "tries INTEGER NOT NULL, error TEXT NOT NULL, parked_ms INTEGER NOT NULL, again INTEGER NOT NULL DEFAULT 0)",
)
_PARKED: Final = "number, effect, map, epoch, partition, position, idx, op, key, value, version, time_ms, tries, error, parked_ms, again"


class Cursor(NamedTuple):
    """How far an effect is. `done` and `skipped` count changes over its whole life."""

    effect: str
    map: str
    epoch: int
    done: int = 0
    skipped: int = 0


class Parked(NamedTuple):
    """A change that its effect has given up on. `again`: it is to be driven once more."""

    effect: str
    event: EffectEvent
    waiting: Waiting
    error: str
    parked_ms: int
    again: bool = False

    @property
    def number(self) -> int:
        return self.waiting.number or 0


class Entry(NamedTuple):
    """What becomes of one change, and of the cursor. `done` False, and not parked: it was skipped.

    `beyond`: the place is above the cursor. `number`: the parked change that this settles, or parks anew.
    """

    effect: str
    cursor: int
    beyond: Place | None
    done: bool
    number: int | None = None
    park: Parked | None = None


class StateFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        self._lock: int | None = None
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                for table in _TABLES:
                    self._connection.execute(table)
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def lock(self, grid_id: bytes) -> None:
        """For a runner. Raises InUseError, WrongGridError."""
        name = f"{self.path}.lock"
        self._lock = os.open(name, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(
                f"another runner works with {self.path}, and each change would have its effect twice; stop it first",
                what=str(self.path),
            ) from None
        with self._transaction():
            self._connection.execute(  # a start that was cut short: the file says nothing of any grid yet
                "DELETE FROM tidegrid_effects_grid WHERE NOT EXISTS (SELECT 1 FROM tidegrid_effects)"
            )
            self._connection.execute(
                "INSERT INTO tidegrid_effects_grid SELECT ? WHERE NOT EXISTS (SELECT 1 FROM tidegrid_effects_grid)",
                (grid_id.hex(),),
            )
        other = self._grid_id()
        if other != grid_id:
            raise WrongGridError(
                f"{self.path} says how far effects of grid {other.hex()[:8]} are, this one is {grid_id.hex()[:8]}; use another file"
            )

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # Cursors ------------------------------------------------------------------------------------------------------

    def cursors(self) -> list[Cursor]:
        found = self._connection.execute(
            "SELECT effect, map, epoch, done, skipped FROM tidegrid_effects ORDER BY effect"
        )
        return [Cursor(*row) for row in found]

    def check(self, effects: Iterable[tuple[str, str]]) -> None:
        """(name, map) of effects that are to begin. Raises ConfigurationError for one that was on another map."""
        known = {cursor.effect: cursor.map for cursor in self.cursors()}
        for effect, map_name in effects:
            before = known.get(effect, map_name)
            if before != map_name:
                raise ConfigurationError(
                    f"effect {effect!r} was on map {before!r} according to {self.path}, and is on {map_name!r} now; "
                    "its cursor means nothing there: give it another name",
                    effect=effect,
                )

    def begin(self, effect: str, map_name: str, epoch: int) -> tuple[Cursor, list[Place]]:
        """Where the effect is, and what is settled beyond; at `epoch` if it has never run. After `check`."""
        with self._transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO tidegrid_effects VALUES (?, ?, ?, 0, 0)", (effect, map_name, epoch)
            )
        cursor = next(cursor for cursor in self.cursors() if cursor.effect == effect)
        assert cursor.map == map_name
        beyond = self._connection.execute(
            "SELECT epoch, partition, position, idx FROM tidegrid_effects_beyond WHERE effect = ? AND epoch > ?",
            (effect, cursor.epoch),
        )
        return cursor, [Place(*row) for row in beyond]

    def apply(self, entries: Sequence[Entry]) -> None:
        """All of them, in their order, or none."""
        with self._transaction():
            for entry in entries:
                self._apply(entry)

    def _apply(self, entry: Entry) -> None:
        run = self._connection.execute
        skipped = not entry.done and entry.park is None
        moved = run(
            "UPDATE tidegrid_effects SET epoch = max(epoch, ?), done = done + ?, skipped = skipped + ? WHERE effect = ?",
            (entry.cursor, entry.done, skipped, entry.effect),
        )
        assert moved.rowcount == 1
        if entry.beyond is not None:
            run("INSERT OR IGNORE INTO tidegrid_effects_beyond VALUES (?, ?, ?, ?, ?)", (entry.effect, *entry.beyond))
        else:
            run(
                "DELETE FROM tidegrid_effects_beyond WHERE effect = ? AND epoch <= ?",
                (entry.effect, entry.cursor),
            )
        if entry.park is None:
            if entry.number is not None:
                run("DELETE FROM tidegrid_effects_parked WHERE number = ?", (entry.number,))
            return
        parked = entry.park
        if entry.number is not None:
            run(
                "UPDATE tidegrid_effects_parked SET tries = ?, error = ?, parked_ms = ?, again = 0 WHERE number = ?",
                (parked.waiting.tried, parked.error, parked.parked_ms, entry.number),
            )
            return
        change = parked.waiting
        row = (
            parked.effect, parked.event.map, *change.place, change.op, change.raw_key, change.raw_value, change.version,
            change.time_ms, change.tried, parked.error, parked.parked_ms,
        )  # fmt: skip
        run(f"INSERT INTO tidegrid_effects_parked VALUES (NULL, {', '.join('?' * len(row))}, 0)", row)

    def advance(self, cursors: Iterable[tuple[str, int]]) -> None:
        """Epochs with nothing to do went by."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE tidegrid_effects SET epoch = max(epoch, ?) WHERE effect = ?",
                [(epoch, effect) for effect, epoch in cursors],
            )

    # Parked -------------------------------------------------------------------------------------------------------

    def parked(self, effect: str | None = None, *, again: bool = False, limit: int = -1) -> list[Parked]:
        """The oldest first. `again`: only those that are to be driven once more."""
        found = self._connection.execute(
            f"SELECT {_PARKED} FROM tidegrid_effects_parked WHERE (?1 IS NULL OR effect = ?1) AND again >= ?2 ORDER BY number LIMIT ?3",
            (effect, int(again), limit),
        )
        rows = found.fetchall()
        return [_parked(row, self._grid_id()) for row in rows]

    def _grid_id(self) -> bytes:
        (text,) = self._connection.execute("SELECT id FROM tidegrid_effects_grid").fetchone()
        return bytes.fromhex(text)

    def parked_count(self, effect: str) -> int:
        (count,) = self._connection.execute(
            "SELECT count(*) FROM tidegrid_effects_parked WHERE effect = ?", (effect,)
        ).fetchone()
        return int(count)

    def drive_again(self, numbers: Iterable[int] | None = None) -> list[int]:
        """Marks parked changes (None: all); a runner that works, or the next one, drives them. Returns their numbers."""
        with self._transaction():
            every = [number for (number,) in self._connection.execute("SELECT number FROM tidegrid_effects_parked")]
            wanted = every if numbers is None else sorted(set(numbers) & set(every))
            self._connection.executemany(
                "UPDATE tidegrid_effects_parked SET again = 1 WHERE number = ?", [(number,) for number in wanted]
            )
        return wanted

    def changed_elsewhere(self) -> int:
        """A number that is another one after somebody else has written to the file."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)


def _parked(row: tuple[object, ...], grid_id: bytes) -> Parked:
    number, effect, map_name, epoch, partition, position, index, *rest = row
    op, key, value, version, time_ms, tries, error, parked_ms, again = rest
    place = Place(*map(_int, (epoch, partition, position, index)))
    assert isinstance(key, bytes) and isinstance(value, bytes)
    change = Waiting(place, str(op), key, value, _int(version), _int(time_ms), _int(tries), _int(number))
    event = event_of(change, grid_id, str(effect), str(map_name), change.tried)
    return Parked(str(effect), event, change, str(error), _int(parked_ms), bool(again))


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def translated(problem: sqlite3.Error, path: Path) -> GridError:
    text = str(problem)
    if "locked" in text or "busy" in text:
        return InUseError(f"{path} is locked by another process; end its transaction, or stop it", what=str(path))
    if "full" in text:
        return StorageFullError(f"no space to write {path}; make room, and start the runner again: it goes on there")
    if "unable to open" in text or "readonly" in text:
        return ConfigurationError(
            f"cannot write {path} ({text}); does its directory exist, and may you write there?", file=str(path)
        )
    return FormatError(f"{path} is no state of effects, or is damaged ({text}); use another file", file=str(path))
