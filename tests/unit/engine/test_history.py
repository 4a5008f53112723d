from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import pytest
from tidegrid.grid.engine import history as pages
from tidegrid.grid.engine.history import Cursor, LogPage, page_from_memory
from tidegrid.grid.engine.reads import HistoryRequest
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.record import PUT, encode_data, encode_section
from tidegrid.grid.model.errors import WrongKindError, WrongOwnerError
from tidegrid.grid.model.ids import Epoch, PartitionId, Position, Term, partition_log

from tests.unit.engine.stand import Stand, key, named_session, pack

ZERO = PartitionId(0)
BEGINNING = Cursor(Epoch(0))


def ask(stand: Stand, of: Any, cursor: Cursor = BEGINNING, map_name: str = "t") -> HistoryRequest:
    request = HistoryRequest(map_name, ZERO, key(of), *cursor, "to the test")
    stand.submit(request)
    assert request in stand.answered
    return request


def history(stand: Stand, of: Any, after: int = 0, through: int | None = None, read_bytes: int = 1) -> list[Any]:
    """All pages, as runtime/history.py gets them; also says how many there were."""
    cursor, found, count = Cursor(Epoch(after)), [], 0
    end = None if through is None else Epoch(through)
    while True:
        request = ask(stand, of, cursor)
        assert request.error is None
        if not request.below:
            page = page_from_memory(request.versions, cursor, end)
            found += page.versions
            cursor, count = page.cursor, count + 1
            if not page.more:
                break
            continue
        last = request.below if end is None else min(end, request.below)
        from_log = LogPage(stand.partition(), "t", key(of), cursor, last)
        name = partition_log(ZERO)
        from_log.position = from_log.position or stand.log.position_before(name, from_log.begins_above)
        while from_log.wanted:
            from_log.give(stand.log.read(name, from_log.position, read_bytes))
        found += from_log.versions
        cursor, count = Cursor(last) if from_log.complete else from_log.cursor, count + 1
        if from_log.complete and last == end:
            break
    stand_pages.append(count)
    return [(number, stamp[0], None if value is None else msgpack.unpackb(value)) for value, number, stamp in found]


stand_pages: list[int] = []


def written(stand: Stand, values: Sequence[Any]) -> list[Any]:
    wanted = []
    for number, value in enumerate(values, 1):
        wanted.append((number, stand.node.epoch, value))
        stand.put_now({"other": number}, session=named_session())
        assert not stand.put_now([("a", value)], session=named_session()).errors
        stand.close()
    return wanted


def test_memory_alone() -> None:
    stand = Stand()
    wanted = written(stand, [1, 2, None, 4])
    assert ask(stand, "a").below == 0
    assert history(stand, "a") == wanted
    assert history(stand, "a", after=wanted[1][1]) == wanted[2:], "after is exclusive"
    assert history(stand, "a", through=wanted[1][1]) == wanted[:2], "through is inclusive"
    assert history(stand, "nowhere") == []


@pytest.mark.parametrize("horizon_at", range(7))
def test_what_memory_no_longer_holds_is_in_the_log(horizon_at: int) -> None:
    stand = Stand()
    wanted = written(stand, [1, None, 3, 4, None, 6])
    stand.put_now({"a": "not closed"})
    wanted.append((7, stand.node.epoch, "not closed"))
    horizon = wanted[horizon_at][1] - 1
    stand.horizon(horizon)
    while stand.node.reclaim(100):
        pass
    assert history(stand, "a") == wanted
    for (_, epoch, _), index in zip(wanted, range(7), strict=True):
        assert history(stand, "a", after=epoch) == wanted[index + 1 :]
        assert history(stand, "a", through=epoch) == wanted[: index + 1]


def test_a_buried_key_has_its_history_in_the_log() -> None:
    stand = Stand(session_epochs=1)
    wanted = written(stand, [1, None])
    for _ in range(4):
        stand.put_now({"other": 0}, session=named_session())
        stand.close()
    stand.horizon(stand.node.control.closed)
    while stand.node.reclaim(100):
        pass
    assert not stand.partition().tables["t"].chain(key("a"))
    assert history(stand, "a") == wanted


def test_pages_are_bounded_and_nothing_is_lost_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand()
    wanted = written(stand, list(range(20)))
    stand.horizon(wanted[11][1])
    monkeypatch.setattr(pages, "PAGE_VERSIONS", 2)
    assert history(stand, "a") == wanted
    assert stand_pages[-1] >= 9
    monkeypatch.setattr(pages, "PAGE_VERSIONS", 1000)
    monkeypatch.setattr(pages, "SCAN_BYTES", 1)
    assert history(stand, "a") == wanted
    assert stand_pages[-1] >= 12
    monkeypatch.setattr(pages, "SCAN_BYTES", 1 << 20)
    monkeypatch.setattr(pages, "PAGE_BYTES", 1)
    assert history(stand, "a") == wanted


def test_versions_of_one_frame_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand()
    monkeypatch.setattr(pages, "PAGE_VERSIONS", 2)
    stand.put_now([("a", number) for number in range(5)])
    stand.put_now({"a": 5})
    first = page_from_memory(ask(stand, "a").versions, Cursor(Epoch(0)), None)
    assert len(first.versions) == 5 and first.more
    assert [value for _, _, value in history(stand, "a")] == [0, 1, 2, 3, 4, 5]
    stand.close()
    stand.horizon(stand.node.control.closed)
    assert [value for _, _, value in history(stand, "a")] == [0, 1, 2, 3, 4, 5]


def test_the_horizon_may_move_between_two_pages() -> None:
    stand = Stand()
    wanted = written(stand, list(range(6)))
    versions = ask(stand, "a").versions
    position = Position(versions[2][2][1])
    cursor = Cursor(versions[2][2][0], position)
    for horizon in (2, 3, 4):
        stand.horizon(wanted[horizon][1])
        while stand.node.reclaim(100):
            pass
        request = ask(stand, "a", cursor)
        page = LogPage(stand.partition(), "t", key("a"), cursor, request.below)
        while page.wanted:
            page.give(stand.log.read(partition_log(ZERO), page.position, 1))
        rest = ask(stand, "a", Cursor(request.below)).versions
        assert [number for _, number, _ in [*page.versions, *rest]] == [4, 5, 6]


def test_a_record_of_an_owner_that_had_lost_its_term_is_no_version() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    log, partition = partition_log(ZERO), stand.partition()
    section = encode_section("t", [key("a")], [pack("zombie")], bytes((PUT,)), [2])
    zombie = encode_data(ZERO, Term(0), stand.node.epoch, Epoch(0), 0, [], ["t"], [section], 1)
    stand.log.append([Entry(log, partition.tail, stand.node.epoch, zombie)])
    stand.close()
    stand.horizon(stand.node.control.closed)
    assert [value for _, _, value in history(stand, "a")] == [1]


def test_other_maps_and_keys_that_look_alike() -> None:
    stand = Stand()
    stand.put_now({"a": "aa"})
    stand.put_now({"aa": 2})
    stand.put_now({"b": "a", "a": "second", "c": key("a")})
    stand.put_now({"a": 3}, map_name="r")
    stand.close()
    stand.horizon(stand.node.control.closed)
    assert [value for _, _, value in history(stand, "a")] == ["aa", "second"]


def test_refusals() -> None:
    stand = Stand()
    assert isinstance(ask(stand, "a", map_name="s").error, WrongKindError)
    request = HistoryRequest("t", PartitionId(5), key("a"), Epoch(0), Position(0), "to the test")
    stand.submit(request)
    assert isinstance(request.error, WrongOwnerError)
