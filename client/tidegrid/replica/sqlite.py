"""The SQLite sink: rows and position in one transaction, in one thread of its own.

    tidegrid_position   table_name (primary key) | map | grid_id | epoch | state | mapping | writer

`state` is "snapshot" while the first copy is on its way, then "live": the table then is the map as of `epoch`, and a
reader of the file waits for an epoch by looking at that row. The file is in WAL mode, so readers and the replica do
not wait for each other. A commit is not synced to disk: a power failure takes rows and position back together, and
what is missing comes again from the grid.

Invariants: whoever opened a table last is its `writer`, and only the writer's transactions commit; applying a batch
again changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from tidegrid.client.change import FeedBatch
from tidegrid.grid.model.errors import (
    ConfigurationError,
    FormatError,
    GridError,
    InUseError,
    StorageFullError,
    WrongGridError,
)
from tidegrid.grid.model.ids import Epoch
from tidegrid.replica.columns import Columns, fold, native
from tidegrid.replica.rows import Writes, writes_of
from tidegrid.replica.sink import Source
from tidegrid.replica.sqlite_checkpoint import Checkpointer

LOCK_SECONDS: Final = 30.0
CACHE_KIB: Final = 64 * 1024  # keys come in no order, so every insert is elsewhere in the file
CHECKPOINT_PAGES: Final = 16_000  # the log may hold so many before it is copied into the file, which holds up a commit
POSITION_TABLE: Final = "tidegrid_position"
_T = TypeVar("_T")


def connect_file(path: str) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=512
    )


class SqliteSink:
    """A Sink. `table` None: named as the map. `rename`: fields of values that get a column of another name."""

    def __init__(
        self,
        path: str,
        *,
        table: str | None = None,
        rename: Mapping[str, str] | None = None,
        connect: Callable[[str], sqlite3.Connection] = connect_file,
    ) -> None:
        self.path = path
        self._table = table
        self._rename = dict(rename or {})
        self._connect = connect
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidegrid-sqlite")
        self._checkpointer = Checkpointer(lambda: connect_file(path))
        self._file: _File | None = None

    async def open(self, source: Source) -> Epoch | None:
        return await self._run(lambda: self._open(source))

    def _open(self, source: Source) -> Epoch | None:
        table = self._table if self._table is not None else source.spec.name
        self._file = _File(self._connect(self.path), self.path, table, source, self._rename)
        return self._file.open()

    async def apply(self, batches: Sequence[FeedBatch]) -> int:
        file = self._file
        assert file is not None
        rows = await self._run(lambda: file.apply(batches))
        self._checkpointer.committed(rows)
        return rows

    async def close(self) -> None:
        await self._checkpointer.close()
        if self._file is not None:
            file, self._file = self._file, None
            await self._run(file.close)
        self._thread.shutdown(wait=True)

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as problem:
            raise _translated(problem, self.path) from problem


class _File:
    """The open file, used by one thread."""

    def __init__(
        self, connection: sqlite3.Connection, path: str, table: str, source: Source, rename: dict[str, str]
    ) -> None:
        self._connection = connection
        self._path = path
        self._table = table
        self._source = source
        self._rename = rename
        self._writer = os.urandom(8).hex()
        self._epoch = 0
        self._live = False
        self._columns = Columns(source.spec, rename)

    def open(self) -> Epoch | None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run(f"PRAGMA cache_size = -{CACHE_KIB}")
        run(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        run("BEGIN IMMEDIATE")
        try:
            run(
                f"CREATE TABLE IF NOT EXISTS {POSITION_TABLE} (table_name TEXT PRIMARY KEY, map TEXT NOT NULL, "
                "grid_id TEXT NOT NULL, epoch INTEGER NOT NULL, state TEXT NOT NULL, mapping TEXT NOT NULL, writer TEXT NOT NULL) WITHOUT ROWID"
            )
            self._check_grid()
            found = run(
                f"SELECT map, epoch, state, mapping FROM {POSITION_TABLE} WHERE table_name = ?", (self._table,)
            ).fetchone()
            existing = [row[1] for row in run(f"PRAGMA table_info({quoted(self._table)})")]
            if found is not None and self._is_unfinished_by_other_options(*found):
                run(f"DROP TABLE {quoted(self._table)}")
                run(f"DELETE FROM {POSITION_TABLE} WHERE table_name = ?", (self._table,))
                found, existing = None, []
            if found is None:
                self._create(bool(existing))
            else:
                self._check(existing, *found)
                own = set(self._columns.own)
                self._columns = Columns(
                    self._source.spec, self._rename, [column for column in existing if column not in own]
                )
            run(f"UPDATE {POSITION_TABLE} SET writer = ? WHERE table_name = ?", (self._writer, self._table))
            run("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        return Epoch(self._epoch) if self._live else None

    def _mapping(self) -> str:
        return json.dumps(
            {"key": self._columns.key_columns, "rename": self._rename, "stream": self._columns.stream}, sort_keys=True
        )

    def _check_grid(self) -> None:
        grid_id = self._source.grid_id.hex()
        for table, other in self._connection.execute(f"SELECT table_name, grid_id FROM {POSITION_TABLE}"):
            if other != grid_id:
                raise WrongGridError(
                    f"{self._path} follows grid {other[:8]} (table {table!r}), this one is {grid_id[:8]}; use another file, or delete this one to copy anew"
                )

    def _check(self, existing: list[str], map_name: str, epoch: int, state: str, mapping: str) -> None:
        if map_name != self._source.spec.name:
            raise ConfigurationError(
                f"table {self._table!r} in {self._path} is a replica of map {map_name!r}, not of {self._source.spec.name!r}; name another table",
                map=map_name,
            )
        if mapping != self._mapping():
            if not self._only_renames_more(json.loads(mapping), existing):
                raise ConfigurationError(
                    f"table {self._table!r} in {self._path} was made with other options ({mapping}), and has rows by them; use the same ones, or name another table",
                    map=map_name,
                )
            self._connection.execute(
                f"UPDATE {POSITION_TABLE} SET mapping = ? WHERE table_name = ?", (self._mapping(), self._table)
            )
        self._epoch, self._live = epoch, state == "live"

    def _is_unfinished_by_other_options(self, map_name: str, epoch: int, state: str, mapping: str) -> bool:
        """It would be copied from its beginning in any case, and so may be made anew by the options of now."""
        return map_name == self._source.spec.name and state == "snapshot" and mapping != self._mapping()

    def _only_renames_more(self, before: dict[str, Any], existing: list[str]) -> bool:
        """The options are those of before, but for fields that no row has yet: what the error about a clash advises."""
        more = {field: column for field, column in self._rename.items() if field not in before["rename"]}
        before["rename"] |= more
        back = {column: field for field, column in before["rename"].items()}
        stored = {back.get(column, column) for column in existing}
        columns = set(map(fold, existing))
        return before == json.loads(self._mapping()) and all(
            field not in stored and fold(column) not in columns for field, column in more.items()
        )

    def _create(self, exists: bool) -> None:
        if exists:
            raise ConfigurationError(
                f"{self._path} has a table {self._table!r} that is no replica; name another table",
                map=self._source.spec.name,
            )
        columns = self._columns
        key = ", ".join(quoted(column) for column in columns.key_columns)
        if columns.stream:
            layout = f"_partition INTEGER NOT NULL, _position INTEGER NOT NULL, _index INTEGER NOT NULL, _key BLOB NOT NULL, {key}, _epoch INTEGER NOT NULL, PRIMARY KEY (_partition, _position, _index)"
        else:
            layout = f"_key BLOB NOT NULL PRIMARY KEY, {key}, _version INTEGER NOT NULL, _epoch INTEGER NOT NULL"
        self._connection.execute(f"CREATE TABLE {quoted(self._table)} ({layout})")
        self._connection.execute(
            f"INSERT INTO {POSITION_TABLE} VALUES (?, ?, ?, 0, 'snapshot', ?, '')",
            (self._table, self._source.spec.name, self._source.grid_id.hex(), self._mapping()),
        )

    # Applying -----------------------------------------------------------------------------------------------------

    def apply(self, batches: Sequence[FeedBatch]) -> int:
        """One transaction. What is at or below the position already is passed over."""
        if self._live:
            batches = [batch for batch in batches if batch.begins or batch.epoch > self._epoch]
        if not batches:
            return 0
        writes = writes_of(batches, self._columns)
        last = batches[-1]
        live = not last.snapshot or last.live
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            moved = self._connection.execute(
                f"UPDATE {POSITION_TABLE} SET epoch = ?, state = ? WHERE table_name = ? AND writer = ?",
                (last.epoch, "live" if live else "snapshot", self._table, self._writer),
            )
            if moved.rowcount != 1:
                raise InUseError(
                    f"another replica has taken over table {self._table!r} in {self._path}; run one", what=self._path
                )
            self._write(writes)
            self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self._columns.added.clear()
        self._epoch, self._live = last.epoch, live
        return writes.count

    def _write(self, writes: Writes) -> None:
        table = quoted(self._table)
        if writes.wipe:
            self._connection.execute(f"DELETE FROM {table}")
        for column in self._columns.added:
            self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(column)}")
        if writes.deletes:
            self._connection.executemany(f"DELETE FROM {table} WHERE _key = ?", writes.deletes)
        for shape, rows in writes.rows.values():
            names = (*self._columns.own, *shape.columns)
            sql = f"INSERT OR REPLACE INTO {table} ({', '.join(map(quoted, names))}) VALUES ({', '.join('?' * len(names))})"
            if not shape.convert:
                try:
                    self._connection.executemany(sql, rows)
                    continue
                except (OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError):
                    shape.convert = True  # something SQL has no type for: rows written so far are written again
            self._connection.executemany(sql, map(native, rows))

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _translated(problem: sqlite3.Error, path: str) -> GridError:
    text = str(problem)
    if "locked" in text or "busy" in text:
        return InUseError(f"{path} is locked by another process; end its transaction, or stop it", what=path)
    if "full" in text:
        return StorageFullError(
            f"no space to write {path}; make room, and start the replica again: it goes on where it was"
        )
    if "not a database" in text or "malformed" in text:
        return FormatError(f"{path} is no SQLite database, or is damaged ({text}); use another file", file=path)
    if "unable to open" in text or "readonly" in text:
        return ConfigurationError(
            f"cannot write {path} ({text}); does its directory exist, and may you write there?", file=path
        )
    if "too many columns" in text or "too many SQL variables" in text:
        return ConfigurationError(
            f"{path}: the values have more fields than SQLite has columns ({text}); put the variable ones into a nested dict",
            file=path,
        )
    return FormatError(f"{path}: SQLite says: {text}", file=path)


def parse_url(url: str) -> str:
    """The path of `sqlite:///relative.db`, `sqlite:////absolute.db` or `sqlite:///~/home.db`. Raises ConfigurationError."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path:
        raise ConfigurationError(
            f"cannot replicate to {url!r}; write sqlite:///file.db, or sqlite:////directory/file.db"
        )
    return os.path.expanduser(path)
