"""Token values, their bytes, and rule P."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position
from tidegrid.grid.ring.messages import VISITED_MAX, Body, Envelope, TokenMessage, TokenReceived, Wake
from tidegrid.grid.ring.promise import PartitionPromise, floor, in_flight_below
from tidegrid.grid.ring.token import Token, begin, complete, renew, unvisited, visit
from tidegrid.grid.ring.view import Member, Owner, ViewState
from tidegrid.v1 import ring_pb2

numbers = st.integers(0, 2**63)
tails = st.dictionaries(st.integers(0, 9).map(PartitionId), st.integers(1, 99).map(Position))
tokens = st.builds(
    Token, st.binary(max_size=16), numbers, numbers, numbers, numbers, numbers, st.integers(0, 9),
    st.frozensets(st.integers(0, 9)), st.frozensets(st.integers(0, 9)), tails, numbers, st.booleans(),
)  # fmt: skip
visits = st.tuples(
    st.integers(1, 5).map(NodeId), st.integers(0, 20).map(Epoch), tails, st.integers(0, 20).map(Epoch), st.booleans()
)


@given(st.permutations(range(5)), st.lists(visits, min_size=5, max_size=5))
def test_the_order_of_visits_does_not_matter(
    order: list[int], all_visits: list[tuple[NodeId, Epoch, dict[PartitionId, Position], Epoch, bool]]
) -> None:
    start = begin(b"g", Position(1), 1, 0, Epoch(30), NodeId(1))
    one, other = start, start
    for index in range(5):
        one, other = visit(one, *all_visits[index]), visit(other, *all_visits[order[index]])
    assert one == other
    assert one.floor == min(promise for _, promise, *_ in all_visits)
    assert one.busy == any(busy for *_, busy in all_visits)


def test_an_unvisited_round_promises_no_more_than_below_its_intro() -> None:
    assert begin(b"g", Position(1), 1, 0, Epoch(30), NodeId(1)).floor == 29


def test_freshness_is_view_then_round_then_generation_then_origin() -> None:
    def fresh(view: int, round_: int, generation: int, origin: int) -> tuple[int, ...]:
        return begin(b"g", Position(view), round_, generation, Epoch(2), NodeId(origin)).freshness

    assert fresh(2, 1, 1, 1) > fresh(1, 9, 9, 9)
    assert fresh(1, 2, 0, 1) > fresh(1, 1, 9, 9)
    assert fresh(1, 1, 2, 1) > fresh(1, 1, 1, 9)
    assert fresh(1, 1, 1, 2) > fresh(1, 1, 1, 1)


def three(*owners: tuple[int, int, int]) -> ViewState:
    members = {NodeId(n): Member(NodeId(n), Incarnation(n * 10)) for n in (1, 2, 3)}
    return ViewState(Position(5), members, {PartitionId(p): Owner(NodeId(n), Incarnation(i), 1) for p, n, i in owners})  # type: ignore[arg-type]


def visited(*nodes: int) -> Token:
    token = begin(b"g", Position(5), 1, 0, Epoch(30), NodeId(1))
    for node in nodes:
        token = visit(token, NodeId(node), Epoch(9), {}, Epoch(0), False)
    return token


def test_c_complete_is_all_members_in_this_view_and_every_partition_covered() -> None:
    view = three((0, 1, 10), (1, 2, 20))
    assert complete(visited(1, 2, 3), view, 2)
    assert not complete(visited(1, 2), view, 2) and unvisited(visited(1, 2), view) == {3}
    assert not complete(visited(1, 2, 3), view, 3), "partition 2 has no owner"
    assert not complete(visited(1, 2, 3), three((0, 1, 10), (1, 2, 19)), 2), "an earlier incarnation"
    assert not complete(renew(visited(1, 2, 3), Position(6), ()), view, 2), "another view"


def test_t_an_older_view_clears_those_who_gained_or_lost() -> None:
    assert renew(visited(1, 2, 3), Position(7), {NodeId(2)}).visited == {1, 3}
    assert renew(visited(1, 2), Position(7), {NodeId(2)}).floor == 9
    assert renew(visited(1, 2, 3), Position(5), {NodeId(2)}) == visited(1, 2, 3)
    past = replace(visited(1), passed=frozenset({NodeId(2), NodeId(3)}))
    assert renew(past, Position(7), {NodeId(2)}).passed == {3}, "it may be there by now"


@given(tokens, numbers, numbers, st.integers(0, 99), numbers)
def test_a_token_survives_its_bytes(token: Token, control: int, epoch: int, sender: int, incarnation: int) -> None:
    envelope = Envelope(
        token.grid_id,
        Position(control),
        Epoch(epoch),
        token.view,
        NodeId(sender),
        Incarnation(incarnation),
        TokenMessage(token),
    )
    assert Envelope.from_bytes(envelope.to_bytes()) == envelope


@pytest.mark.parametrize(
    "body",
    [
        TokenReceived(4, 2), Wake(), Wake(Epoch(9)),
        ring_pb2.ReferenceRequest(id=1, after=2), ring_pb2.ReferenceReply(id=1, next=3),
    ],
)  # fmt: skip
def test_every_message_survives_its_bytes(body: Body) -> None:
    envelope = Envelope(b"g" * 16, Position(1), Epoch(2), Position(3), NodeId(4), Incarnation(5), body)
    assert Envelope.from_bytes(envelope.to_bytes()) == envelope


def test_what_does_not_parse_is_refused() -> None:
    with pytest.raises(FormatError, match="parse"):
        Envelope.from_bytes(b"\xff\xff\xff")
    with pytest.raises(FormatError, match="no body"):
        Envelope.from_bytes(b"")
    for column in ("visited", "passed"):
        message = ring_pb2.NodeMessage()
        getattr(message.token, column).extend(range(VISITED_MAX + 1))
        with pytest.raises(FormatError, match="more than"):
            Envelope.from_message(message)


def part(number: int, is_open: bool = True, **held: int) -> PartitionPromise:
    return PartitionPromise(PartitionId(number), is_open, **{kind: Epoch(epoch) for kind, epoch in held.items()})


P0, P1 = PartitionId(0), PartitionId(1)


@pytest.mark.parametrize(
    ("promises", "owned", "promised"),
    [
        ([], (), 9),
        ([part(0)], (P0,), 9),
        ([part(0, in_flight=7), part(1)], (P0, P1), 6),
        ([part(0, in_flight=10)], (P0,), 9),
        ([part(0, in_flight=12)], (P0,), 9),
        ([part(0, lent=5, in_flight=7)], (P0,), 4),
        ([part(0, undelivered=4), part(1, lent=5)], (P0, P1), 3),
        ([part(0, False)], (P0,), 2),
        ([part(0), part(1, False, in_flight=9)], (P0, P1), 2),
        ([part(0)], (P0, P1), 2),
        ([part(0), part(1, in_flight=5)], (P0,), 4),
    ],
)
def test_p_the_floor(promises: list[PartitionPromise], owned: tuple[PartitionId, ...], promised: int) -> None:
    """With epoch 10 and closed 2."""
    assert floor(promises, owned, Epoch(10), Epoch(2)) == promised


def test_a_visit_waits_only_for_what_landing_would_mend() -> None:
    assert in_flight_below([part(0, in_flight=9)], Epoch(10))
    assert not in_flight_below([part(0, in_flight=10), part(1, False, in_flight=1), part(2, lent=1)], Epoch(10))
