"""The difference that followers get at a switch of generations."""

from __future__ import annotations

from tidegrid.grid.engine import switching
from tidegrid.grid.engine.switching import BYTES_PER_SLICE, KEYS_PER_SLICE
from tidegrid.grid.log.record import DELETE, PUT, Section, decode_section
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.store.table import Table


def table(rows: dict[bytes, bytes]) -> Table:
    made = Table()
    made.apply(list(rows), list(rows.values()), bytes([PUT] * len(rows)), [1] * len(rows), (Epoch(1), Position(1), 0))
    return made


def sections(old: dict[bytes, bytes], new: dict[bytes, bytes]) -> list[Section]:
    return [decode_section(one) for one in switching._sections("m", table(old), table(new), Epoch(5))]


def test_it_is_in_the_order_of_the_keys_whatever_the_process() -> None:
    keys = [b"%04d" % n for n in range(KEYS_PER_SLICE + 5)]
    found = sections(dict.fromkeys(reversed(keys), b"old"), dict.fromkeys(keys[1:], b"new"))
    assert [key for section in found for key in section.keys] == keys
    assert [len(section.keys) for section in found] == [KEYS_PER_SLICE, 5]
    assert found[0].ops[:2] == bytes([DELETE, PUT])


def test_wide_rows_make_small_slices() -> None:
    wide = b"x" * 100_000
    found = sections({}, {b"%02d" % n: wide for n in range(20)})
    assert sum(len(section.keys) for section in found) == 20 and len(found) > 2
    assert all(sum(map(len, section.values)) < BYTES_PER_SLICE + len(wide) for section in found)


def test_what_is_the_same_is_left_out() -> None:
    assert sections({b"a": b"1"}, {b"a": b"1"}) == [] and len(sections({b"a": b"1"}, {b"a": b"2"})) == 1
