"""The fold of the control log: rules E, E3, C2 and its checkpoint."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegrid.grid.model.errors import CorruptionError, FormatError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position, Term
from tidegrid.grid.model.maps import KeyField, MapKind, MapSpec
from tidegrid.grid.ring import close_times
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.control_events import (
    Closed,
    Deployed,
    GridStarted,
    HorizonMoved,
    MapAdded,
    ViewChanged,
)
from tidegrid.grid.ring.declarations import spec_from, spec_message
from tidegrid.v1 import control_pb2

K = 10


def created(limit: int = K) -> control_pb2.ControlRecord:
    return control_pb2.ControlRecord(
        created=control_pb2.GridCreated(grid_id=b"g" * 16, partitions=4, limit=limit, session_epochs=99)
    )


def close(
    epoch: int, time_ms: int = 0, tails: dict[int, int] | None = None, reference: int = 0
) -> control_pb2.ControlRecord:
    return control_pb2.ControlRecord(
        close=control_pb2.Close(
            epoch=epoch,
            time_ms=time_ms,
            tails=[control_pb2.Tail(partition=p, position=t) for p, t in (tails or {}).items()],
            reference_epoch=reference,
        )
    )


def declare(spec: MapSpec) -> control_pb2.ControlRecord:
    return control_pb2.ControlRecord(map=control_pb2.MapDeclared(spec=spec_message(spec)))


def deploy(name: str, *specs: MapSpec) -> control_pb2.ControlRecord:
    return control_pb2.ControlRecord(
        deploy=control_pb2.Deploy(
            hash=name.encode(),
            modules=[control_pb2.Module(name=name, source=f"# {name}")],
            maps=[spec_message(spec) for spec in specs],
            python="3.11",
        )
    )


def view(members: dict[int, int], owners: dict[int, tuple[int, int, int]]) -> control_pb2.ControlRecord:
    return control_pb2.ControlRecord(
        view=control_pb2.View(
            members=[
                control_pb2.Member(node=n, incarnation=i, address=f"a{n}", peer_address=f"p{n}")
                for n, i in members.items()
            ],
            owners=[control_pb2.Owner(partition=p, node=n, incarnation=i, term=t) for p, (n, i, t) in owners.items()],
        )
    )


def folded(*records: control_pb2.ControlRecord) -> ControlState:
    state = ControlState()
    for index, record in enumerate([created(), *records]):
        state.apply(Position(3 * index + 1), record)
    return state


def test_the_grid_is_created_once_and_first() -> None:
    state = ControlState()
    assert not state.created
    with pytest.raises(CorruptionError, match="created by the first"):
        state.apply(Position(1), close(1))
    assert state.apply(Position(1), created()) == (GridStarted(b"g" * 16, 4),)
    assert (state.created, state.partitions, state.limit_span, state.session_epochs) == (True, 4, K, 99)
    with pytest.raises(CorruptionError):
        state.apply(Position(2), created())


def test_each_record_is_applied_once_in_order() -> None:
    state = folded(close(1))
    with pytest.raises(AssertionError):
        state.apply(state.position, close(2))


def test_an_unknown_record_is_refused() -> None:
    with pytest.raises(FormatError, match="version"):
        folded(control_pb2.ControlRecord())


def test_a_map_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(FormatError, match="kind 9"):
        folded(control_pb2.ControlRecord(map=control_pb2.MapDeclared(spec=control_pb2.MapSpec(name="m", kind=9))))


def test_e_the_limit_follows_the_closes() -> None:
    assert folded().limit == K
    assert folded(close(7)).limit == 7 + K


def test_e_a_limit_span_without_progress_is_widened() -> None:
    state = ControlState()
    state.apply(Position(1), created(limit=0))
    assert state.limit == 3


def test_c_a_close_never_goes_back_and_tails_accumulate() -> None:
    state = folded(close(5, 100, {0: 7, 1: 9}, reference=4))
    assert state.apply(Position(50), close(8, 90, {1: 12, 2: 3}, reference=99)) == (
        Closed(Epoch(8), 100, {PartitionId(1): Position(12), PartitionId(2): Position(3)}, Epoch(8)),
    )
    assert state.tails == {0: 7, 1: 12, 2: 3}
    assert state.apply(Position(51), close(8, 200, {0: 100})) == ()
    assert (state.closed, state.closed_time_ms, state.reference_epoch, state.tails[PartitionId(0)]) == (8, 100, 8, 7)


def test_e3_a_map_acts_from_the_limit_in_force_at_its_position() -> None:
    state = folded(close(5))
    acts_at = state.limit
    assert state.apply(Position(50), declare(MapSpec("m"))) == (MapAdded(MapSpec("m"), acts_at),)
    state.apply(Position(60), close(9))
    assert state.map_activation("m") == acts_at == 15
    assert "m" not in state.maps_at(Epoch(acts_at - 1)) and state.maps_at(acts_at)["m"] == MapSpec("m")
    assert state.map_activation("other") is None
    assert state.maps_at(acts_at) is state.maps_at(Epoch(acts_at + 1))


def test_e3_activations_are_known_ahead() -> None:
    state = folded(declare(MapSpec("a")), close(3), deploy("d"))
    assert state.next_activation(Epoch(0)) == K
    assert state.next_activation(Epoch(K)) == K + 3
    assert state.next_activation(Epoch(K + 3)) is None
    assert state.highest_activation == K + 3
    assert state.activation_pending
    state.apply(Position(90), close(K + 1))
    assert state.activation_pending
    state.apply(Position(91), close(K + 2))
    assert not state.activation_pending
    assert folded().highest_activation == 0 and not folded().activation_pending


def test_a_deployment_replaces_the_one_before_and_declares_its_maps() -> None:
    state = folded(deploy("one", MapSpec("m")), deploy("two"))
    assert state.deployment_at(Epoch(K - 1)) is None
    now = state.deployment_at(Epoch(K))
    assert now is not None and now.hash == b"two" and now.modules == (("two", "# two"),)
    assert [d.hash for d in state.deployments] == [b"one", b"two"]
    assert state.map_activation("m") == K
    events = state.apply(Position(90), deploy("three", MapSpec("m"), MapSpec("n")))
    assert [type(event) for event in events] == [MapAdded, Deployed]
    assert events[0] == MapAdded(MapSpec("n"), Epoch(K))


def test_declaring_the_same_again_changes_nothing_and_the_first_wins() -> None:
    spec = MapSpec("m", key=(KeyField("year", "int"),))
    state = folded(declare(spec), close(4))
    assert state.conflict(spec) is None and state.conflict(MapSpec("free")) is None
    assert state.apply(Position(50), declare(spec)) == ()
    other = replace(spec, kind=MapKind.STREAM)
    reason = state.conflict(other)
    assert reason is not None and "kind" in reason and "key" not in reason
    assert state.apply(Position(51), declare(other)) == ()
    assert state.map_activation("m") == K and state.declared["m"] == spec


def test_a_deployment_may_turn_a_map_derived() -> None:
    spec, derived = MapSpec("m"), MapSpec("m", derived=True)
    state = folded(declare(spec), close(4))
    assert state.conflict(derived) is not None
    assert state.conflict(derived, deploy=True) is None
    assert state.conflict(replace(derived, affinity=1), deploy=True) is not None
    state.apply(Position(50), deploy("d", derived))
    assert state.maps_at(Epoch(K))["m"] == spec
    assert state.maps_at(Epoch(K + 4))["m"] == derived
    assert state.map_activation("m") == K


def test_a_view_names_members_owners_and_who_changed() -> None:
    state = folded()
    before = state.view
    (event,) = state.apply(Position(50), view({1: 11, 2: 21}, {0: (1, 11, 1), 1: (2, 21, 1), 2: (3, 31, 4)}))
    assert event == ViewChanged(before, state.view)
    now = state.view
    assert (now.position, now.ring, now.origin) == (50, (1, 2), 1)
    assert now.has(NodeId(2), Incarnation(21)) and not now.has(NodeId(2), Incarnation(22))
    assert now.members[NodeId(2)].peer_address == "p2" and now.rank(NodeId(2)) == 1
    assert now.owned_by(NodeId(1), Incarnation(11)) == (0,)
    assert now.owner(PartitionId(2)) is None, "its incarnation is not a member's"
    assert now.uncovered(4) == (2, 3)
    assert state.term(PartitionId(2)) == Term(4) and state.term(PartitionId(3)) == 0
    state.apply(Position(60), view({1: 11, 2: 22}, {0: (1, 11, 1), 1: (2, 22, 2)}))
    assert state.changed_since(Position(50)) == {2, 3}
    assert state.changed_since(Position(49)) == {1, 2, 3}
    assert state.changed_since(Position(60)) == frozenset()
    assert state.term(PartitionId(2)) == 4, "terms outlive the view that gave them"
    state.apply(Position(70), view({1: 12, 2: 22}, {1: (2, 22, 2), 2: (2, 22, 3)}))
    assert state.term(PartitionId(2)) == 4, "and never fall"
    state.apply(Position(80), view({1: 13, 2: 22}, {1: (2, 22, 2), 2: (2, 22, 3)}))
    assert state.changed_since(Position(70)) == {1}, "it owns nothing, and is another incarnation"


def test_the_next_after_goes_round_and_skips_the_visited() -> None:
    now = folded(view({n: n for n in (1, 4, 9)}, {})).view
    assert now.next_after(NodeId(4), {NodeId(4)}) == 9
    assert now.next_after(NodeId(9), {NodeId(9)}) == 1
    assert now.next_after(NodeId(4), {NodeId(4), NodeId(9)}) == 1
    assert now.next_after(NodeId(5), ()) == 9
    assert now.next_after(NodeId(1), {NodeId(4), NodeId(9)}) is None
    assert folded().view.origin is None


def test_a_horizon_only_rises_and_forgets_closes_below() -> None:
    state = folded(close(3, 100), close(5, 200), close(8, 300))
    horizon = control_pb2.ControlRecord(horizon=control_pb2.Horizon(epoch=5))
    assert state.apply(Position(50), horizon) == (HorizonMoved(Epoch(5)),)
    assert state.apply(Position(51), horizon) == ()
    assert state.horizon == 5
    assert state.epoch_closed_at(150) is None and state.epoch_closed_at(299) == 5


def test_a_wall_time_maps_to_the_epoch_closed_at_or_before_it() -> None:
    state = folded(close(3, 100), close(5, 200), close(8, 200))
    assert [state.epoch_closed_at(t) for t in (99, 100, 199, 200, 10**15)] == [None, 3, 3, 8, 8]


def test_remembered_closes_are_bounded_and_the_newest_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(close_times, "CLOSES_MAX", 8)
    state = folded(*(close(epoch, 10 * epoch) for epoch in range(1, 101)))
    assert len(state._close_times._epochs) <= 8
    assert [state.epoch_closed_at(10 * epoch) for epoch in range(97, 101)] == [97, 98, 99, 100]
    for time_ms in range(0, 1010, 7):
        answer = state.epoch_closed_at(time_ms)
        assert answer is None or answer * 10 <= time_ms


def test_old_closes_are_remembered_evenly_as_far_back_as_history_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of closes, many more than are remembered: no part of it may fade away."""
    monkeypatch.setattr(close_times, "CLOSES_MAX", 64)
    state = folded(*(close(epoch, 10 * epoch) for epoch in range(1, 10_001)))
    assert len(state._close_times._epochs) <= 64 and state.epoch_closed_at(10) == 1
    for time_ms in range(10, 100_000, 777):
        answer = state.epoch_closed_at(time_ms)
        assert answer is not None and 0 <= time_ms - answer * 10 < 2 * 100_000 / (64 / 4), time_ms
    same = folded(*(close(epoch, 100) for epoch in range(1, 1_000)))
    assert same.epoch_closed_at(100) == 999 and same.epoch_closed_at(99) is None


@pytest.mark.parametrize("damaged", [b"", b"\x93", msgpack.packb([1, 2]), msgpack.packb({"a": 1}), msgpack.packb([99])])
def test_a_checkpoint_that_does_not_parse_is_refused(damaged: bytes) -> None:
    with pytest.raises(FormatError):
        ControlState.from_bytes(damaged)


def test_a_checkpoint_of_before_there_were_holds_is_read() -> None:
    state = folded(view({1: 3}, {0: (1, 3, 1)}), close(3, 100), declare(MapSpec("m")), close(5, 200))
    version, *content, holds, generations = msgpack.unpackb(state.to_bytes())
    assert version == 3 and holds == [[], []] and generations == [[], [], [], []]
    old = [*content[:3], [[node, position] for node, position, _ in content[3]], *content[4:]]
    assert ControlState.from_bytes(msgpack.packb([1, *old])) == state
    assert ControlState.from_bytes(msgpack.packb([2, *content, holds])) == state
    with pytest.raises(FormatError):
        ControlState.from_bytes(msgpack.packb([1, *old, holds]))
    with pytest.raises(FormatError, match="version 4"):
        ControlState.from_bytes(msgpack.packb([4, *content, holds, generations]))


def test_an_incarnation_is_not_forgotten_when_its_node_is_put_out() -> None:
    state = folded(view({1: 3, 2: 1}, {0: (1, 3, 1)}), view({2: 1}, {0: (2, 1, 2)}))
    for known in (state, ControlState.from_bytes(state.to_bytes())):
        assert [known.incarnation(NodeId(node)) for node in (1, 2, 3)] == [3, 1, 0]


epochs = st.integers(1, 40)
nodes = st.integers(1, 3)
specs = st.builds(
    MapSpec,
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(MapKind),
    st.sampled_from([(), (KeyField("k", "int"),)]),
    derived=st.booleans(),
)
records = st.one_of(
    st.builds(close, epochs, st.integers(0, 1000), st.dictionaries(st.integers(0, 3), st.integers(1, 99)), epochs),
    st.builds(declare, specs),
    st.builds(deploy, st.sampled_from(["x", "y"]), specs, specs),
    st.builds(
        view,
        st.dictionaries(nodes, st.integers(1, 5)),
        st.dictionaries(st.integers(0, 3), st.tuples(nodes, st.integers(1, 5), st.integers(1, 9))),
    ),
    st.builds(lambda e: control_pb2.ControlRecord(horizon=control_pb2.Horizon(epoch=e)), epochs),
    st.builds(
        lambda name, epoch, taken: control_pb2.ControlRecord(
            hold=control_pb2.Hold(name=name, owner="o", epoch=epoch, since_ms=1, expires_ms=9, taken=taken)
        ),
        st.sampled_from("hij"), epochs, st.sampled_from([0, 0, 4, 7, 10]),
    ),
    st.builds(
        lambda name, cause: control_pb2.ControlRecord(
            hold_released=control_pb2.HoldReleased(name=name, cause=cause)
        ),
        st.sampled_from("hij"), st.integers(0, 9),
    ),
)  # fmt: skip


@given(st.lists(records, max_size=30), st.data())
def test_fold_from_a_checkpoint_equals_fold_from_the_start(
    log: list[control_pb2.ControlRecord], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(log)))
    whole, first = folded(*log), folded(*log[:cut])
    second = ControlState.from_bytes(first.to_bytes())
    assert second == first
    for index, record in enumerate(log[cut:], cut + 1):
        twin, other = first.apply(Position(3 * index + 1), record), second.apply(Position(3 * index + 1), record)
        assert twin == other
        assert all(hold.epoch >= second.horizon for hold in second.holds)
    assert second == whole
    assert second.view == whole.view and second.tails == whole.tails and second.deployments == whole.deployments
    for epoch in map(Epoch, range(60)):
        assert second.maps_at(epoch) == whole.maps_at(epoch)
        assert second.next_activation(epoch) == whole.next_activation(epoch)


@given(st.lists(records, max_size=30))
def test_what_acts_at_an_epoch_never_changes_once_that_epoch_can_be_stamped(
    log: list[control_pb2.ControlRecord],
) -> None:
    """E3: below the limit in force at a position, no later record changes anything."""
    state = folded()
    for index, record in enumerate(log, 1):
        limit = state.limit
        before = [(state.maps_at(Epoch(e)), state.deployment_at(Epoch(e))) for e in range(limit)]
        state.apply(Position(3 * index + 1), record)
        assert [(state.maps_at(Epoch(e)), state.deployment_at(Epoch(e))) for e in range(limit)] == before


@given(specs)
def test_a_map_specification_survives_its_message(spec: MapSpec) -> None:
    assert spec_from(spec_message(spec)) == spec


def test_a_deployment_says_when_by_whom_and_what_it_needs() -> None:
    record = deploy("a", MapSpec("m"))
    record.deploy.time_ms, record.deploy.by = 1_700_000_000_000, "me@here"
    record.deploy.requirements.extend(["numpy>=1", "python>=3.11"])
    state = folded(record, deploy("b"))
    with_all, without = ControlState.from_bytes(state.to_bytes()).deployments
    assert (with_all.time_ms, with_all.by, with_all.requirements) == (
        1_700_000_000_000, "me@here", ("numpy>=1", "python>=3.11"),
    )  # fmt: skip
    assert (without.time_ms, without.by, without.requirements) == (0, "", ())
    assert state == ControlState.from_bytes(state.to_bytes())


def test_a_checkpoint_from_before_deployments_said_so_is_read() -> None:
    state = folded(deploy("a", MapSpec("m")), deploy("b"))
    plain = msgpack.unpackb(state.to_bytes())
    plain[9][0] = [deployment[:6] for deployment in plain[9][0]]
    read = ControlState.from_bytes(msgpack.packb(plain))
    assert read == state and read.deployments[0].by == ""


def test_a_deployment_may_change_the_schema_number_of_a_map() -> None:
    state = folded(declare(MapSpec("m", schema=1)))
    spec = MapSpec("m", schema=2)
    assert state.conflict(spec) is not None and state.conflict(spec, deploy=True) is None
    state.apply(Position(100), deploy("a", spec))
    assert state.maps_at(Epoch(K - 1)) == {} and state.maps_at(Epoch(K))["m"].schema == 2
