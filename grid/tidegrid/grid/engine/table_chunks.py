"""The versions of a table as msgpack chunks, in checkpoints of partitions and in bases of generations.

    ["rows", name, keys, [[value or nil, version, epoch, position, time_ms] ...] per key]
    ["one",  name, keys, values (nil: tombstone), versions, stamps as [epoch, position, time_ms] runs, run lengths]
    ["reclaimed", horizon]    after them: what readers below it would see may have been let go of

`one` holds the keys with a single version, nearly all of them, as columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import Version

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def table_chunks(name: str, rows: list[tuple[bytes, list[Version]]]) -> Iterator[bytes]:
    """A slice of a table: keys with their versions, oldest first."""
    single = [(key, chain[0]) for key, chain in rows if len(chain) == 1]
    if single:
        stamps: list[Stamp] = []
        lengths: list[int] = []
        for _, (_, _, stamp) in single:
            if stamps and stamps[-1] == stamp:
                lengths[-1] += 1
            else:
                stamps.append(stamp)
                lengths.append(1)
        values, versions = [version[0] for _, version in single], [version[1] for _, version in single]
        yield _encode(["one", name, [key for key, _ in single], values, versions, stamps, lengths])
    several = [(key, chain) for key, chain in rows if len(chain) > 1]
    if several:
        chains = [[[value, version, *stamp] for value, version, stamp in chain] for _, chain in several]
        yield _encode(["rows", name, [key for key, _ in several], chains])


def reclaimed_chunk(horizon: Epoch) -> bytes:
    return _encode(["reclaimed", horizon])


def load_base(table: Table, base: str, chunks: Iterable[bytes]) -> Iterator[None]:
    """Takes the chunks of a base in, one per step. Raises FormatError."""
    loader = TableLoader()
    for payload in chunks:
        try:
            content: list[Any] = _decode(payload)
            if content[0] == "reclaimed":
                table.horizon = max(table.horizon, Epoch(content[1]))
            else:
                loader.load(content, lambda _name: table)
        except (msgspec.DecodeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise FormatError(f"the base {base!r} does not parse: {error}") from error
        yield


class TableLoader:
    """Takes chunks back in. The versions of one frame share its stamp, as they did."""

    def __init__(self) -> None:
        self.entries = 0
        self._stamps: dict[Stamp, Stamp] = {}

    def shared(self, epoch: Epoch, position: Position, time_ms: int) -> Stamp:
        stamp = (epoch, position, time_ms)
        return self._stamps.setdefault(stamp, stamp)

    def load(self, content: list[Any], table_of: Callable[[str], Table]) -> None:
        """A decoded chunk of either kind. Raises ValueError, TypeError, IndexError: it is none."""
        kind, name, *columns = content
        table = table_of(name)
        if kind == "one":
            keys, values, versions, stamps, lengths = columns
            shared: list[Stamp] = []
            for stamp, length in zip(stamps, lengths, strict=True):
                shared.extend([self.shared(*stamp)] * length)
            table.load(keys, values, versions, shared)
            self.entries += len(keys)
        else:
            for key, chain in zip(*columns, strict=True):
                self.entries += len(chain)
                for value, version, *stamp in chain:
                    table.insert(key, value, version, self.shared(*stamp))
