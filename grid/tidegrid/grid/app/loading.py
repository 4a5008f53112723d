"""Loading one file into one map: what to call its rows so that a repeated load changes nothing, and what became of them.

A load is named by the file's bytes, the map and the key's columns; row n of it in a partition is write n of that
session. So the same file loaded again, after a crash in the middle or for no reason, writes only what is missing. An
edited file is another load. A pipe cannot be read twice, so its rows are plain writes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tidegrid.grid.app.json_text import json_text
from tidegrid.grid.app.load_format import Format
from tidegrid.grid.app.load_pipe import from_pipe
from tidegrid.grid.app.load_source import Source
from tidegrid.grid.model.errors import ConfigurationError, GridError, OverloadError, PeerError
from tidegrid.grid.model.maps import KeyField, MapSpec

if TYPE_CHECKING:
    from tidegrid.client import Map, NamedSession, Outcomes

SHOWN_MAX = 5  # refused rows told on stderr, per file


@dataclass(slots=True)
class LoadCount:
    """Rows of one file. `repeated`: an earlier load had written them. `parked`: of the accepted, a trigger failed on them."""

    accepted: int = 0
    repeated: int = 0
    refused: int = 0
    parked: int = 0
    epoch: int = 0  # the highest of its writes; 0: nothing was written
    began: float = field(default_factory=time.monotonic)

    @property
    def rows(self) -> int:
        return self.accepted + self.repeated + self.refused

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        return self.rows / max(self.seconds, 0.000_001)


class Refusals:
    """Tells the first refused rows to a person, and writes all of them to a file, one JSON object per line."""

    def __init__(self, tell: Callable[[str], None], errors: TextIO | None) -> None:
        self._tell = tell
        self._errors = errors

    def add(self, name: str, count: LoadCount, line: int, error: GridError, row: Any) -> None:
        count.refused += 1
        if count.refused <= SHOWN_MAX:
            self._tell(f"{name} line {line:,}: {type(error).code}: {error.message}")
        elif count.refused == SHOWN_MAX + 1:
            self._tell(f"{name}: more rows are refused; --errors FILE keeps them all")
        if self._errors is not None:
            record = {"file": name, "line": line, "code": type(error).code, "message": error.message, "row": row}
            self._errors.write(json_text(record) + "\n")


def key_fields(text: str | None, spec: MapSpec) -> tuple[KeyField, ...]:
    """The key's columns: as given (`year,month` or `year:int,month`), typed by the map, or the map's own.

    Raises ConfigurationError.
    """
    if not text:
        if not spec.key:
            raise ConfigurationError(
                f"map {spec.name!r} does not name its key fields; say with --key which columns make the key"
            )
        return spec.key
    parts = [part.strip() for part in text.split(",")]
    named = tuple(KeyField.parse(part) for part in parts)
    if not spec.key:
        return named
    if len(named) != len(spec.key):
        wanted = ", ".join(part.name for part in spec.key)
        raise ConfigurationError(
            f"--key names {len(named)} columns, but a key of {spec.name!r} has {len(spec.key)}: {wanted}"
        )
    for part, column, of_map in zip(parts, named, spec.key, strict=True):
        if ":" in part and column.type != of_map.type:
            raise ConfigurationError(
                f"--key says {part}, but key field {of_map.name!r} of {spec.name!r} is of type {of_map.type}"
            )
    return tuple(KeyField(column.name, of_map.type) for column, of_map in zip(named, spec.key, strict=True))


def session_of(
    path: Path, map_name: str, fields: Sequence[KeyField], format_: Format, schema: int | None
) -> NamedSession:
    """Reads the file once. Raises ConfigurationError."""
    from tidegrid.client import NamedSession

    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    spec = ",".join(f"{part.name}:{part.type}" for part in fields)
    words = (map_name, spec, format_.value, "" if schema is None else str(schema))
    return NamedSession(digest.digest() + "\0".join(words).encode())


async def load(
    to: Map,
    source: Source,
    count: LoadCount,
    refusals: Refusals,
    *,
    session: NamedSession | None,
    schema: int | None,
    deadline: float,
    piped: bool,
    progress: Callable[[], None],
) -> None:
    """Writes the rows of `source`, counting into `count`.

    A row that the grid refuses is counted and told. Raises the error of the first row that the grid had no time or
    room for, or that it cannot be reached for; and `source.problem`, once all rows before it are in.
    """
    rows: Any = from_pipe(source) if piped else source
    stream = to.put_stream(rows, schema=schema, deadline=deadline, session=session)
    try:
        async for outcomes in stream:
            _count(outcomes, source, count, refusals)
            progress()
    finally:
        await stream.aclose()  # type: ignore[attr-defined]
    if source.problem is not None:
        raise source.problem


def _count(outcomes: Outcomes, source: Source, count: LoadCount, refusals: Refusals) -> None:
    count.repeated += len(outcomes.repeated)
    count.accepted += outcomes.accepted - len(outcomes.repeated)
    count.parked += len(outcomes.parked)
    count.epoch = max(count.epoch, outcomes.epoch)
    taken = source.taken
    if not outcomes.errors:
        for _ in range(len(outcomes)):
            taken.popleft()
        return
    for index in range(len(outcomes)):
        line, row = taken.popleft()
        error = outcomes.errors.get(index)
        if isinstance(error, PeerError | OverloadError):
            raise error
        if error is not None:
            refusals.add(source.name, count, line, error, row)
