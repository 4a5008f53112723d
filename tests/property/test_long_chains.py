"""Reads as of an epoch look at O(log n) versions of a key, wherever in a long chain they land: counted, not timed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store import version as version_module
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import PUT, Version

KEY = b"hot"


class Comparisons:
    """How many versions a search looked at: it asks each for its stamp."""

    def __init__(self) -> None:
        self.count = 0

    def stamp_of(self, version: Version) -> Stamp:
        self.count += 1
        return version[2]


@pytest.fixture(scope="module")
def comparisons() -> Comparisons:
    return Comparisons()


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch, comparisons: Comparisons) -> None:
    monkeypatch.setattr(version_module, "stamp_of", comparisons.stamp_of)


def chain_of(epochs: list[int]) -> Table:
    table = Table()
    for number, epoch in enumerate(epochs, 1):
        stamp = (Epoch(epoch), Position(number), 0)
        table.apply([KEY], [b"%d" % number], bytes((PUT,)), [number], stamp)
    return table


@settings(max_examples=60)
@given(data=st.data(), count=st.integers(1, 3_000), density=st.integers(1, 40))
def test_as_of_looks_at_a_logarithm_of_the_versions(
    data: st.DataObject, count: int, density: int, comparisons: Comparisons
) -> None:
    epochs = [1 + number // density for number in range(count)]
    table = chain_of(epochs)
    epoch = data.draw(st.integers(0, epochs[-1] + 1))
    comparisons.count = 0
    found = table.as_of(KEY, Epoch(epoch))
    assert comparisons.count <= count.bit_length()
    expected = sum(stamped <= epoch for stamped in epochs)
    assert (found[1] if found is not None else 0) == expected


def test_a_hundred_times_the_versions_take_seven_more_looks(comparisons: Comparisons) -> None:
    looks = []
    for count in (1_000, 100_000):
        table = chain_of(list(range(1, count + 1)))
        worst = 0
        for epoch in range(1, count, max(1, count // 500)):
            comparisons.count = 0
            assert table.as_of(KEY, Epoch(epoch)) is not None
            worst = max(worst, comparisons.count)
        looks.append(worst)
    assert 0 < looks[1] <= looks[0] + 7


def test_the_latest_is_found_without_looking(comparisons: Comparisons) -> None:
    table = chain_of(list(range(1, 5_001)))
    comparisons.count = 0
    found = table.as_of(KEY, Epoch(9_999))
    assert found is not None and found[1] == 5_000 and comparisons.count == 0
