"""What a partition has sent and taken: delivered means the whole subtree, and survives a checkpoint."""

from __future__ import annotations

from typing import cast

import msgspec
from tidegrid.grid.engine.routes import Routes
from tidegrid.grid.log.record import DATA, ROUTED, Record, SourceId, encode_outbox
from tidegrid.grid.model.ids import Epoch, PartitionId, Position

MINE, OTHER, THIRD = PartitionId(0), PartitionId(1), PartitionId(2)
TO_OTHER, TO_THIRD = (encode_outbox(target, 1, [], []) for target in (OTHER, THIRD))


def source(position: int, entry: int = 0, partition: PartitionId = MINE) -> SourceId:
    return SourceId(partition, Position(position), entry)


def again(routes: Routes) -> Routes:
    made = Routes(MINE)
    made.load(cast(list[object], msgspec.msgpack.decode(msgspec.msgpack.encode(routes.rows()))))
    return made


def test_a_root_holds_its_epoch_until_every_parcel_is_delivered() -> None:
    routes = Routes(MINE)
    assert routes.undelivered is None
    assert routes.landed(Position(10), Epoch(5), 7, [], [TO_OTHER, TO_THIRD], root=True) == ()
    assert routes.landed(Position(11), Epoch(6), 7, [], [TO_OTHER], root=True) == ()
    assert routes.undelivered == 5
    first, second = routes.parcels_of(Position(10))
    assert (first.source, first.target, second.target, first.effective, first.time_ms) == (
        source(10),
        OTHER,
        THIRD,
        5,
        7,
    )
    assert routes.delivered(source(10, 0), {OTHER: Position(3)}) == () and routes.undelivered == 5
    assert routes.delivered(source(10, 0), {}) == (), "said twice"
    assert routes.delivered(source(10, 1), {}) == () and routes.undelivered == 6
    routes.delivered(source(11), {})
    assert routes.undelivered is None and not list(routes.parcels())


def test_what_sends_nothing_on_is_delivered_when_it_is_in_the_log() -> None:
    routes, taken = Routes(MINE), source(4, 0, OTHER)
    assert routes.taken(taken) is None
    assert routes.landed(Position(20), Epoch(5), 0, [taken], [], root=False) == (taken,)
    known = routes.taken(taken)
    assert known is not None and known.tails == {MINE: 20}


def test_what_sends_on_is_delivered_with_its_subtree_and_holds_no_floor_of_its_own() -> None:
    routes, taken = Routes(MINE), source(4, 0, OTHER)
    assert routes.landed(Position(20), Epoch(5), 0, [taken], [TO_THIRD], root=False) == ()
    known = routes.taken(taken)
    assert known is not None and known.tails is None and routes.undelivered is None
    for kept in (routes, again(routes)):
        assert kept.delivered(source(20), {THIRD: Position(9), MINE: Position(3)}) == (taken,)
        known = kept.taken(taken)
        assert known is not None and known.tails == {MINE: 20, THIRD: 9}, "tails of all that followed (X7)"
        known = again(kept).taken(taken)
        assert known is not None and known.tails == {MINE: 20, THIRD: 9}


def test_a_checkpoint_keeps_what_is_not_answered_and_who_has_answered() -> None:
    routes = Routes(MINE)
    routes.landed(Position(10), Epoch(5), 7, [], [TO_OTHER, TO_THIRD], root=True)
    routes.delivered(source(10, 0), {OTHER: Position(3)})
    kept = again(routes)
    (left,) = kept.parcels()
    assert (left.source, left.target, left.effective, left.time_ms, left.outbox) == (
        source(10, 1),
        THIRD,
        5,
        7,
        TO_THIRD,
    )
    assert kept.undelivered == 5 and kept.rows() == routes.rows()


def test_a_close_lets_go_of_everything_at_or_below_it() -> None:
    routes = Routes(MINE)
    for epoch in (5, 6):
        routes.landed(Position(epoch), Epoch(epoch), 0, [source(epoch, 0, OTHER)], [TO_THIRD], root=False)
        routes.landed(Position(epoch + 100), Epoch(epoch), 0, [], [TO_THIRD], root=True)
    routes.closed(Epoch(5))
    assert routes.taken(source(5, 0, OTHER)) is None and routes.taken(source(6, 0, OTHER)) is not None
    assert [parcel.effective for parcel in routes.parcels()] == [6, 6] and routes.undelivered == 6


def test_records_are_replayed_as_they_landed() -> None:
    live, replayed = Routes(MINE), Routes(MINE)
    taken = source(4, 0, OTHER)
    live.landed(Position(10), Epoch(5), 7, [], [TO_OTHER], root=True)
    live.landed(Position(11), Epoch(4), 8, [taken], [TO_THIRD], root=False)
    live.landed(Position(12), Epoch(5), 8, [], [], root=True)
    replayed.replayed(Position(10), Record(kind=DATA, effective=5, time_ms=7, outbox=[TO_OTHER]))
    routed = Record(kind=ROUTED, effective=4, time_ms=8, outbox=[TO_THIRD], sources=[taken.message()])
    replayed.replayed(Position(11), routed)
    replayed.replayed(Position(12), Record(kind=DATA, effective=5, time_ms=8))
    assert live.rows() == replayed.rows() and live.undelivered == 5
