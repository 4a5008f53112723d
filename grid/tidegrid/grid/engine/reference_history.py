"""All that reference maps ever held, from the logs, for look-ups as of any epoch: a replay sees what the write saw (rule Q).

Nothing is reclaimed. Most code looks nothing up, so a replay reads the logs for it only when the first look-up comes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import cached_property

from tidegrid.grid.log.record import DELETE, Record, decode_section
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.store.table import Table


class ReferenceHistory:
    """Filled by `take`, partition by partition, then read."""

    def __init__(self, maps: Iterable[str]) -> None:
        self._tables = {name: Table() for name in maps}
        self._epochs: set[Epoch] = set()

    def take(self, records: Iterable[tuple[Position, Record]]) -> None:
        """The valid records of one partition, in order."""
        for position, record in records:
            if self._tables.keys().isdisjoint(record.maps):
                continue
            stamp = (Epoch(record.effective), position, record.time_ms)
            for name, payload in zip(record.maps, record.sections, strict=True):
                table = self._tables.get(name)
                if table is None:
                    continue
                self._epochs.add(stamp[0])
                section = decode_section(payload)
                columns = zip(section.keys, section.values, section.ops, section.versions, strict=True)
                for key, value, op, version in columns:
                    table.insert(key, None if op == DELETE else value, version, stamp)

    @cached_property
    def _changes(self) -> list[Epoch]:
        return sorted(self._epochs)

    def changed(self, as_of: Epoch) -> Epoch:
        """The last change at or below `as_of`: what was looked up as of one holds as of the other. 0: there was none."""
        at = bisect_right(self._changes, as_of)
        return self._changes[at - 1] if at else Epoch(0)

    def get(self, map_name: str, key: bytes, as_of: Epoch) -> bytes | None:
        table = self._tables.get(map_name)
        version = table.as_of(key, as_of) if table is not None else None
        return version[0] if version is not None else None


class LateReferences:
    """A ReferenceHistory that is made by `load` when it is first asked."""

    def __init__(self, load: Callable[[], ReferenceHistory]) -> None:
        self._load = load
        self._loaded: ReferenceHistory | None = None

    def changed(self, as_of: Epoch) -> Epoch:
        return self._loaded.changed(as_of) if self._loaded is not None else _NEVER_ASKED

    def get(self, map_name: str, key: bytes, as_of: Epoch) -> bytes | None:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded.get(map_name, key, as_of)


_NEVER_ASKED = Epoch(-1)  # no epoch of a change: what was kept under it is forgotten with the first one
