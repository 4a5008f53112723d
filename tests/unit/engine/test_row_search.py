"""What a key was before, from the log: newest first, in windows that go back in time."""

from __future__ import annotations

from typing import Any

import pytest
from tidegrid.grid.engine import row_search
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.row_search import RowSearch
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.memory_state import MemoryLogState
from tidegrid.grid.log.record import PUT, SourceId, encode_data, encode_routed, encode_section
from tidegrid.grid.model.ids import Epoch, PartitionId, Position, Term, partition_log
from tidegrid.grid.model.limits import Limits

ZERO = PartitionId(0)
NAME = partition_log(ZERO)


class Shelf:
    """A log with rows of key k, and of others."""

    def __init__(self) -> None:
        self.log = MemoryLogState()
        self.partition = Partition(ZERO, Limits(), 100, 1)
        self.partition.opened = [(Position(0), Term(1))]
        self.count = 0

    def write(self, stamp: int, *, effective: int = 0, term: int = 1, key: bytes = b"k", name: str = "t") -> Position:
        self.count += 1
        section = encode_section(name, [key], [b"%d" % self.count], bytes([PUT]), [self.count])
        if effective:
            sources = [SourceId(ZERO, Position(1), 0)]
            payload = encode_routed(
                ZERO, Term(term), Epoch(stamp), Epoch(effective), Epoch(0), 0, sources, [name], [section], 1, [], []
            )
        else:
            payload = encode_data(ZERO, Term(term), Epoch(stamp), Epoch(0), 0, [], [name], [section], 1)
        return self.log.append([Entry(NAME, self.log.tail(NAME), Epoch(stamp), payload)])[0]

    def search(self, before: tuple[int, int], wanted: int = 3, lag: int = 0, read_bytes: int = 1) -> RowSearch:
        epoch, position = before
        found = RowSearch(self.partition, "t", b"k", ((Epoch(epoch), Position(position), 0), 0), wanted, lag)
        while (window := found.window) is not None:
            at = self.log.position_before(NAME, window.after)
            while found.window is window:
                records = self.log.read(NAME, at, read_bytes)
                found.give(records)
                at = records[-1].position if records else at
        return found


def values(search: RowSearch) -> list[Any]:
    return [int(row.value) for row in search.rows]


@pytest.mark.parametrize("width", [1, 3, 256])
def test_the_last_rows_before_a_place(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_search, "_WINDOW_EPOCHS", width)
    shelf = Shelf()
    places = [(epoch, shelf.write(epoch)) for epoch in (1, 2, 2, 90, 91, 400)]
    shelf.write(400, key=b"other")
    shelf.write(401, name="other")
    assert values(shelf.search((402, 0))) == [6, 5, 4]
    assert values(shelf.search(places[4], wanted=2)) == [4, 3]
    everything = shelf.search(places[4], wanted=9)
    assert values(everything) == [4, 3, 2, 1] and everything.complete
    assert not shelf.search((402, 0)).complete
    assert values(shelf.search((402, 0), wanted=0)) == []
    nothing = shelf.search(places[0])
    assert nothing.complete and not nothing.rows


@pytest.mark.parametrize("width", [1, 2, 256])
def test_late_rows_count_by_their_epoch(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_search, "_WINDOW_EPOCHS", width)
    shelf = Shelf()
    shelf.write(5)
    shelf.write(9)
    place = shelf.write(10)
    shelf.write(12, effective=6)
    shelf.write(13, effective=10)
    assert values(shelf.search((10, place), wanted=9, lag=8)) == [2, 4, 1]
    assert values(shelf.search((11, 0), wanted=2, lag=8)) == [5, 3]


def test_records_of_an_owner_of_before_do_not_count() -> None:
    shelf = Shelf()
    shelf.write(5)
    shelf.write(6, term=2)
    assert values(shelf.search((9, 0))) == [1]


def test_what_is_looked_at_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_search, "_WINDOW_EPOCHS", 2)
    shelf = Shelf()
    for epoch in range(1, 41):
        shelf.write(epoch)
    weight = sum(len(record.payload) for record in shelf.log.read(NAME, Position(0), 1 << 30)) // 40
    monkeypatch.setattr(row_search, "SEARCH_BYTES", 10 * weight)
    found = shelf.search((41, 0), wanted=40)
    assert not found.complete
    assert values(found) == list(range(40, 40 - len(found.rows), -1)) and 2 <= len(found.rows) <= 10
