from __future__ import annotations

import pytest
from tidegrid.grid.model.errors import EpochTooOldError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import DELETE, PUT, VERSION_OVERHEAD_BYTES


def stamp(epoch: int, position: int | None = None) -> Stamp:
    return (Epoch(epoch), Position(position or epoch * 10), 1_700_000_000_000 + epoch)


def put(table: Table, epoch: int, *rows: tuple[bytes, bytes | None, int], position: int | None = None) -> None:
    ops = bytes(DELETE if value is None else PUT for _, value, _ in rows)
    table.apply(
        [key for key, _, _ in rows],
        [value or b"" for _, value, _ in rows],
        ops,
        [number for *_, number in rows],
        stamp(epoch, position),
    )
    table._check()


def test_nothing_there() -> None:
    table = Table()
    assert table.latest(b"a") is None and table.latest_version(b"a") == 0 and table.chain(b"a") == []
    assert table.as_of(b"a", Epoch(5)) is None and table.scan(b"", None, None, 5) == ([], False)
    assert list(table.slices(Position(5), 5)) == [] and table.reclaim(Epoch(5), 5) == 0


def test_versions_by_epoch() -> None:
    table = Table()
    put(table, 3, (b"a", b"1", 1))
    put(table, 5, (b"a", b"2", 2), (b"a", b"3", 3))
    put(table, 7, (b"a", None, 4))
    put(table, 9, (b"a", b"5", 5))
    seen = [table.as_of(b"a", Epoch(epoch)) for epoch in range(2, 10)]
    assert [version and version[0] for version in seen] == [None, b"1", b"1", b"3", b"3", None, None, b"5"]
    assert table.latest(b"a") == (b"5", 5, stamp(9)) and table.latest_version(b"a") == 5
    assert [number for _, number, _ in table.chain(b"a")] == [1, 2, 3, 4, 5]
    assert table.history_bytes == 3 + 4 * VERSION_OVERHEAD_BYTES and table.version_count == 5


def test_a_tombstone_keeps_the_number_and_counts_as_dead() -> None:
    table = Table()
    put(table, 1, (b"a", b"1", 1), (b"b", b"1", 1))
    put(table, 2, (b"a", None, 2))
    assert table.latest(b"a") == (None, 2, stamp(2)) and table.latest_version(b"a") == 2
    assert (table.live_count, table.entry_count) == (1, 2)
    assert [key for key, _ in table.scan(b"", None, None, 5)[0]] == [b"b"]
    assert [key for key, _ in table.scan(b"", None, Epoch(1), 5)[0]] == [b"a", b"b"]


def test_a_late_version_lands_below_newer_ones() -> None:
    table = Table()
    put(table, 5, (b"a", b"new", 1))
    put(table, 3, (b"a", b"late", 2), (b"b", b"late", 1), position=60)
    assert table.latest(b"a") == (b"new", 1, stamp(5))
    assert table.as_of(b"a", Epoch(4)) == (b"late", 2, stamp(3, 60))
    assert table.latest(b"b") == (b"late", 1, stamp(3, 60))


def test_sections_of_one_frame_may_come_out_of_order() -> None:
    table = Table()
    table.apply([b"a", b"a"], [b"1", b"3"], bytes([PUT, PUT]), [1, 3], stamp(4))
    table.apply([b"a"], [b"2"], bytes([PUT]), [2], stamp(4))
    table._check()
    assert [value for value, _, _ in table.chain(b"a")] == [b"1", b"2", b"3"]


def test_a_version_is_applied_once() -> None:
    table = Table()
    put(table, 4, (b"a", b"1", 1))
    with pytest.raises(AssertionError, match="applied once"):
        put(table, 4, (b"a", b"1", 1))


def test_scan_bounds_direction_and_more() -> None:
    table = Table()
    put(table, 1, *((bytes([byte]), b"v", 1) for byte in b"cabed"))

    def keys(begin: bytes, end: bytes | None, rows_max: int, reverse: bool = False) -> bytes:
        return b"".join(key for key, _ in table.scan(begin, end, None, rows_max, reverse)[0])

    assert keys(b"b", b"d", 9) == b"bc" and keys(b"b", b"d", 9, True) == b"cb"
    assert keys(b"", None, 2) == b"ab" and keys(b"", None, 2, True) == b"ed"
    assert table.scan(b"", None, None, 4)[1] and not table.scan(b"", None, None, 5)[1]
    put(table, 2, (b"bb", b"v", 1), (b"a", None, 2), (b"bb", b"v", 2))
    assert keys(b"", None, 9) == b"bbbcde"


def test_reads_below_the_horizon_are_refused() -> None:
    table = Table()
    put(table, 1, (b"a", b"1", 1))
    table.reclaim(Epoch(5), 10)
    assert table.as_of(b"a", Epoch(5)) is not None
    for read in (lambda: table.as_of(b"a", Epoch(4)), lambda: table.scan(b"", None, Epoch(4), 1)):
        with pytest.raises(EpochTooOldError) as caught:
            read()
        assert (caught.value.requested, caught.value.earliest) == (4, 5)


def test_reclaim_is_bounded_and_says_when_it_is_done() -> None:
    table = Table()
    for epoch in range(1, 5):
        put(table, epoch, *((bytes([byte]), b"value", epoch) for byte in range(10)))
    assert table.version_count == 40 and table.history_bytes == 30 * (5 + VERSION_OVERHEAD_BYTES)
    assert table.reclaim(Epoch(2), 7) == 7
    table._check()
    assert table.reclaim(Epoch(2), 7) == 3 and table.reclaim(Epoch(2), 7) == 0
    assert table.version_count == 30 and [number for _, number, _ in table.chain(b"\0")] == [2, 3, 4]
    assert table.reclaim(Epoch(9), 100) == 30, "every key is looked at twice, and the first time two versions go"
    assert table.version_count == 10 and table.history_bytes == 0
    table._check()


@pytest.mark.parametrize("budget", [1, 7, 64])
def test_a_hot_key_is_reclaimed_in_slices_of_the_budget(budget: int) -> None:
    table = Table()
    for epoch in range(1, 201):
        put(table, epoch, *((b"hot", b"%d" % (3 * epoch + row), 3 * epoch + row - 2) for row in range(3)))
    before, steps = table.version_count, budget
    while steps == budget:
        steps = table.reclaim(Epoch(150), budget)
        dropped, before = before - table.version_count, table.version_count
        assert dropped <= steps <= budget
        table._check()
        assert [table.as_of(b"hot", Epoch(epoch)) is not None for epoch in (150, 151, 200)] == [True] * 3
    assert [stamp[0] for _, _, stamp in table.chain(b"hot")[:2]] == [150, 151], "all that nobody sees is gone"
    assert table.reclaim(Epoch(150), budget) == 0


def test_a_hot_key_that_is_written_and_reclaimed_at_once_keeps_what_readers_see() -> None:
    table = Table()
    for epoch in range(1, 400):
        put(table, epoch, (b"hot", b"%d" % epoch, epoch), (b"other", b"%d" % epoch, epoch))
        if epoch > 100:
            table.reclaim(Epoch(epoch - 100), 1 if epoch < 300 else 5)
            assert table.as_of(b"hot", Epoch(epoch - 50)) == (b"%d" % (epoch - 50), epoch - 50, stamp(epoch - 50))
    while table.reclaim(Epoch(299), 5) == 5:
        pass
    table._check()
    assert len(table.chain(b"hot")) == len(table.chain(b"other")) == 101


def test_a_tombstone_goes_when_no_session_can_remember_it() -> None:
    table = Table(tombstone_epochs=100)
    put(table, 1, (b"a", b"1", 1), (b"b", None, 1))
    put(table, 5, (b"a", None, 2))
    table.scan(b"", None, None, 1)
    table.reclaim(Epoch(104), 10)
    assert table.latest_version(b"a") == 2 and table.chain(b"a") == [(None, 2, stamp(5))]
    assert table.latest_version(b"b") == 0, "its hundred epochs have passed"
    table.reclaim(Epoch(105), 10)
    table._check()
    assert table.latest_version(b"a") == 0 and table.entry_count == 0 and table.version_count == 0
    put(table, 106, (b"a", b"again", 1))
    assert [key for key, _ in table.scan(b"", None, None, 5)[0]] == [b"a"]


def test_numbers_that_began_anew_do_so_in_a_table_filled_from_the_log_too() -> None:
    """Its owner had let go of the tombstone when version 1 was written."""
    table = Table(tombstone_epochs=10, horizon=Epoch(40))
    put(table, 5, (b"a", b"1", 1), (b"b", b"1", 1))
    put(table, 17, (b"a", None, 2), (b"b", None, 2))
    assert table.scan(b"", None, None, 5) == ([], False)  # from here on keys are kept in order
    put(table, 35, (b"a", b"anew", 1), (b"c", b"new", 1))
    assert (table.latest_version(b"a"), table.latest_versions([b"a", b"b"])) == (1, [1, 2])
    assert [number for _, number, _ in table.chain(b"a")] == [1]
    assert [key for key, _ in table.scan(b"", None, None, 5)[0]] == [b"a", b"c"]
    table.reclaim(Epoch(60), 1 << 30)
    table._check()
    assert table.latest_versions([b"a", b"b", b"c"]) == [1, 0, 1]


def test_numbers_of_another_generation_do_not_begin_anew_on_a_tombstone_that_may_be_seen() -> None:
    """What lands has the number that follows in the generation that readers see: here it may be lower."""
    table = Table(tombstone_epochs=10, horizon=Epoch(20))
    put(table, 5, (b"a", b"1", 1))
    put(table, 17, (b"a", None, 2))
    put(table, 35, (b"a", b"2", 1))
    assert table.latest_version(b"a") == 2 and len(table.chain(b"a")) == 3


def test_a_late_version_1_does_not_bring_back_what_was_deleted_after_it() -> None:
    """Numbered by another generation, and read from the log when the horizon has long passed it."""
    table = Table(tombstone_epochs=10, horizon=Epoch(60))
    put(table, 17, (b"a", b"1", 4))
    put(table, 35, (b"a", None, 5), position=350)
    put(table, 30, (b"a", b"late", 1), position=360)
    assert table.latest(b"a") == (None, 5, stamp(35, 350)) and len(table.chain(b"a")) == 3


def test_a_younger_tombstone_is_not_taken_for_an_older_one() -> None:
    table = Table(tombstone_epochs=100)
    put(table, 1, (b"a", None, 1))
    table.reclaim(Epoch(1), 10)
    put(table, 2, (b"a", b"back", 2))
    put(table, 3, (b"a", None, 3))
    table.reclaim(Epoch(102), 10)
    assert table.latest_version(b"a") == 3
    table.reclaim(Epoch(103), 10)
    assert table.latest_version(b"a") == 0


def test_slices_hold_the_state_at_a_position_while_writes_go_on() -> None:
    table = Table()
    for epoch in (1, 2):
        put(table, epoch, *((bytes([byte]), b"%d" % epoch, epoch) for byte in range(5)))
    slices = table.slices(Position(20), 2)
    first = next(slices)
    put(table, 3, *((bytes([byte]), b"3", 3) for byte in range(9)))
    rows = first + [row for part in slices for row in part]
    assert [len(part) for part in table.slices(Position(20), 2)] == [2, 2, 1]
    assert [key for key, _ in rows] == [bytes([byte]) for byte in range(5)]
    assert all([number for _, number, _ in chain] == [1, 2] for _, chain in rows)


def test_loading_a_checkpoint() -> None:
    table = Table(tombstone_epochs=10)
    put(table, 1, (b"z", b"1", 1))
    assert table.scan(b"", None, None, 5)[0]
    shared = stamp(4)
    table.load([b"a", b"b"], [b"v", None], [7, 3], [shared, shared])
    table._check()
    assert table.latest(b"a") == (b"v", 7, shared) and table.latest_version(b"b") == 3
    assert (table.live_count, table.entry_count) == (2, 3)
    assert [key for key, _ in table.scan(b"", None, None, 5)[0]] == [b"a", b"z"]
    put(table, 3, (b"a", b"late", 8), position=99)
    assert table.latest(b"a") == (b"v", 7, shared), "what was loaded is newer"
    table.reclaim(Epoch(14), 10)
    assert table.latest_version(b"b") == 0
    with pytest.raises(AssertionError, match="once"):
        table.load([b"a"], [b"v"], [1], [shared])


def test_a_snapshot_as_of_an_epoch_while_writes_go_on() -> None:
    table = Table()
    put(table, 1, *((bytes([byte]), b"1", 1) for byte in range(5)))
    put(table, 2, (b"\1", None, 2), (b"\2", b"2", 2))
    slices = table.as_of_slices(Epoch(2), 2)
    rows = next(slices)
    put(table, 3, *((bytes([byte]), b"3", 3) for byte in range(9)))
    rows += [row for part in slices for row in part]
    assert [(key, version[0]) for key, version in rows] == [(b"\0", b"1"), (b"\2", b"2"), (b"\3", b"1"), (b"\4", b"1")]
    slices = table.as_of_slices(Epoch(2), 2)
    next(slices)
    table.reclaim(Epoch(3), 10)
    with pytest.raises(EpochTooOldError):
        next(slices)
