"""The fold of the control log: what a node knows of the whole grid, as of one position.

Everything that all nodes must agree on is a record of the control log; each node applies the records in order,
exactly once, and holds the same state as every other that has applied the same prefix. A close, a view and a
declaration are learned in no other way (rule C2).

Invariants: positions increase; `closed`, `horizon`, the limit and every term never decrease; a CLOSE at or below
`closed` and a HORIZON at or below `horizon` move nothing; the horizon does not pass a hold; fold of (checkpoint + the
records after it) equals fold of all records, and so does the fold of a compacted log (ring/folding.py).

Checkpoint: `to_bytes` is msgpack of [version, position, grid, view, closes, declarations, ...], see `to_bytes`.
Version 2 is the same without the generations at the end, version 1 without the holds, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgpack
from tidegrid.grid.model.errors import CorruptionError, FormatError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, Incarnation, NodeId, PartitionId, Position, Term
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.close_times import CloseTimes
from tidegrid.grid.ring.control_events import (
    Closed,
    ControlEvent,
    Deployed,
    GenerationsChanged,
    GridStarted,
    HorizonMoved,
    MapAdded,
    ViewChanged,
)
from tidegrid.grid.ring.declarations import Declarations, Deployment, spec_from
from tidegrid.grid.ring.generations import Generations
from tidegrid.grid.ring.holds import Holds
from tidegrid.grid.ring.view import ViewState, changed_nodes, view_from, view_message
from tidegrid.v1 import control_pb2

CHECKPOINT_VERSION: Final = 3
READABLE_VERSIONS: Final = (1, 2, 3)
LIMIT_SPAN_MIN: Final = 3  # with less, no floor would ever pass `closed`


class ControlState:
    """As of `position`. Read it through its properties; only `apply` changes it."""

    def __init__(self) -> None:
        self.followed = False  # True: somebody lives by the events of every record
        self._position = BEFORE_FIRST
        self._grid_id = b""
        self._partitions = 0
        self._limit_span = LIMIT_SPAN_MIN
        self._session_epochs = 0
        self._view = ViewState()
        self._changed_at: dict[NodeId, Position] = {}  # the last view in which a node gained or lost something
        self._incarnations: dict[NodeId, Incarnation] = {}  # the highest, also of nodes that were put out since
        self._terms: dict[PartitionId, Term] = {}
        self._closed = Epoch(0)
        self._closed_time_ms = 0
        self._close_times = CloseTimes()
        self._tails: dict[PartitionId, Position] = {}
        self._reference_epoch = Epoch(0)
        self._horizon = Epoch(0)
        self._holds = Holds()
        self._declarations = Declarations()
        self._generations = Generations()

    # The grid ---------------------------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        return self._position

    @property
    def created(self) -> bool:
        return self._position != BEFORE_FIRST

    @property
    def grid_id(self) -> bytes:
        return self._grid_id

    @property
    def partitions(self) -> int:
        return self._partitions

    @property
    def session_epochs(self) -> int:
        return self._session_epochs

    @property
    def view(self) -> ViewState:
        return self._view

    def changed_since(self, view: Position) -> frozenset[NodeId]:
        """Who gained or lost a partition, or its incarnation, in a view after the one at `view`."""
        return frozenset(node for node, position in self._changed_at.items() if position > view)

    def incarnation(self, node: NodeId) -> Incarnation:
        """The highest that any view named; 0 before the first. A start takes the one above it (rule S)."""
        return self._incarnations.get(node, Incarnation(0))

    def term(self, partition: PartitionId) -> Term:
        """The highest term that any view gave; 0 before the first."""
        return self._terms.get(partition, Term(0))

    # Time -------------------------------------------------------------------------------------------------------

    @property
    def limit_span(self) -> int:
        return self._limit_span

    @property
    def limit(self) -> Epoch:
        """Rule E: nobody who has read this far stamps this epoch or a later one."""
        return Epoch(self._closed + self._limit_span)

    @property
    def closed(self) -> Epoch:
        return self._closed

    @property
    def closed_time_ms(self) -> int:
        return self._closed_time_ms

    @property
    def tails(self) -> Mapping[PartitionId, Position]:
        """Tails of the closed cut: cumulative over all closes. Read only."""
        return MappingProxyType(self._tails)

    @property
    def reference_epoch(self) -> Epoch:
        """No reference map changed after this epoch and at or below `closed`."""
        return self._reference_epoch

    @property
    def horizon(self) -> Epoch:
        return self._horizon

    @property
    def holds(self) -> Holds:
        """Read only."""
        return self._holds

    def epoch_closed_at(self, time_ms: int) -> Epoch | None:
        """The highest remembered epoch closed at or before a wall time; None if that is before all of them.

        Exact for the newest closes, coarser further back. O(log closes).
        """
        return self._close_times.epoch_at(time_ms)

    @property
    def earliest_close(self) -> tuple[Epoch, int] | None:
        """The first close that is remembered, and its wall time in milliseconds."""
        return self._close_times.earliest

    # Behaviour --------------------------------------------------------------------------------------------------

    def maps_at(self, epoch: Epoch) -> Mapping[str, MapSpec]:
        """Maps in force at `epoch`, read only; the same object between two activations, so identity tells change."""
        return self._declarations.maps_at(epoch)

    @property
    def declared(self) -> Mapping[str, MapSpec]:
        """Every map declared so far, in force or not yet."""
        return self._declarations.specs

    def map_activation(self, name: str) -> Epoch | None:
        return self._declarations.map_activation(name)

    def deployment_at(self, epoch: Epoch) -> Deployment | None:
        return self._declarations.deployment_at(epoch)

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """In log order, those not yet in force included."""
        return self._declarations.deployments

    def next_activation(self, after: Epoch) -> Epoch | None:
        """The lowest epoch above `after` from which other maps or code are in force."""
        return self._declarations.next_activation(after)

    def activation_at(self, epoch: Epoch) -> Epoch:
        """Since when what is in force at `epoch` has been in force; it names that state of things."""
        return self._declarations.activation_at(epoch)

    @property
    def highest_activation(self) -> Epoch:
        """0: none."""
        return max(self._declarations.highest_activation, self._generations.highest_activation)

    @property
    def activation_pending(self) -> bool:
        """Some node may not have reached the newest activation: only a close just below it proves that all have."""
        return self.highest_activation > self._closed + 1

    @property
    def generations(self) -> Generations:
        """Read only."""
        return self._generations

    def conflict(self, spec: MapSpec, *, deploy: bool = False) -> str | None:
        """Why `spec` cannot be declared (by MAP, or as part of a DEPLOY), in words. Ask before appending the record."""
        return self._declarations.conflict(spec, deploy=deploy)

    # Folding ----------------------------------------------------------------------------------------------------

    def apply(self, position: Position, record: control_pb2.ControlRecord) -> tuple[ControlEvent, ...]:
        """What changed. Records come in order, each once. Raises FormatError: a record of an unknown kind."""
        assert position > self._position, f"control record {position} after {self._position}"
        kind = record.WhichOneof("record")
        if kind is None:
            raise FormatError(
                f"control record {position} is of a kind that this version does not know; use the version that wrote it",
                position=position,
            )
        if kind == "folded":
            self._adopt(position, record.folded)
            return ()
        if (kind == "created") == self.created:
            raise CorruptionError(
                f"control record {position}: the grid must be created by the first record, and only there; "
                "was this log put together from two?",
                position=position,
            )
        events = self._fold(kind, position, record)
        self._position = position
        return events

    def _adopt(self, position: Position, folded: bytes) -> None:
        """The state that stands in a compacted log for the records up to its own position: for who starts."""
        assert not self.followed, "the control log was compacted past what a live node has read"
        state = ControlState.from_bytes(folded)
        if state.position != position or not state.created or self._grid_id not in (b"", state.grid_id):
            raise CorruptionError(
                f"control record {position} holds the state of position {state.position}, or of another grid; "
                "restore the log from a copy",
                position=position,
            )
        vars(self).update(vars(state))

    def _fold(self, kind: str, position: Position, record: control_pb2.ControlRecord) -> tuple[ControlEvent, ...]:
        if kind == "created":
            return self._create(record.created)
        if kind == "view":
            return self._change_view(view_from(position, record.view))
        if kind == "close":
            return self._close(record.close)
        if kind == "horizon":
            return self._move_horizon(record.horizon)
        if kind == "map":
            return self._add_map(spec_from(record.map.spec))
        if kind == "deploy":
            return self._deploy(position, record.deploy)
        if kind in ("generation", "switch", "drop"):
            return self._change_generations(kind, position, record)
        if kind == "hold":
            self._holds.apply(position, record.hold, self._horizon)
        else:
            assert kind == "hold_released", kind
            self._holds.release(record.hold_released)
        return ()

    def _create(self, created: control_pb2.GridCreated) -> tuple[ControlEvent, ...]:
        self._grid_id = bytes(created.grid_id)
        self._partitions = created.partitions
        self._limit_span = max(created.limit, LIMIT_SPAN_MIN)
        self._session_epochs = created.session_epochs
        return (GridStarted(self._grid_id, self._partitions),)

    def _change_view(self, view: ViewState) -> tuple[ControlEvent, ...]:
        before = self._view
        for node in changed_nodes(before, view):
            self._changed_at[node] = view.position
        for member in view.members.values():
            self._incarnations[member.node] = max(self.incarnation(member.node), member.incarnation)
        for partition, owner in view.owners.items():
            self._terms[partition] = max(self.term(partition), owner.term)
        self._view = view
        return (ViewChanged(before, view),)

    def _close(self, close: control_pb2.Close) -> tuple[ControlEvent, ...]:
        epoch = Epoch(close.epoch)
        if epoch <= self._closed:
            return ()
        tails = {PartitionId(tail.partition): Position(tail.position) for tail in close.tails}
        for partition, tail in tails.items():
            self._tails[partition] = max(tail, self._tails.get(partition, BEFORE_FIRST))
        self._closed = epoch
        self._closed_time_ms = max(close.time_ms, self._closed_time_ms)
        self._reference_epoch = max(self._reference_epoch, min(Epoch(close.reference_epoch), epoch))
        self._close_times.add(self._closed_time_ms, epoch)
        return (Closed(epoch, self._closed_time_ms, tails, self._reference_epoch),)

    def _move_horizon(self, horizon: control_pb2.Horizon) -> tuple[ControlEvent, ...]:
        for dropped in horizon.dropped:
            self._holds.release(dropped)
        epoch, held = Epoch(horizon.epoch), self._holds.lowest
        if held is not None:
            epoch = min(epoch, held)
        if epoch <= self._horizon:
            return ()
        self._horizon = epoch
        self._close_times.forget_below(epoch)
        return (HorizonMoved(epoch),)

    def _add_map(self, spec: MapSpec) -> tuple[ControlEvent, ...]:
        acts_at = self.limit
        return (MapAdded(spec, acts_at),) if self._declarations.declare(spec, acts_at) else ()

    def _deploy(self, position: Position, deploy: control_pb2.Deploy) -> tuple[ControlEvent, ...]:
        deployment = Deployment(
            bytes(deploy.hash),
            tuple((module.name, module.source) for module in deploy.modules),
            tuple(spec_from(spec) for spec in deploy.maps),
            self.limit,
            position,
            deploy.python,
            deploy.time_ms,
            deploy.by,
            tuple(deploy.requirements),
        )
        known = dict(self.declared)
        self._declarations.deploy(deployment)
        added = [spec for name, spec in self.declared.items() if known.get(name) != spec]
        return (*(MapAdded(spec, deployment.acts_at) for spec in added), Deployed(deployment))

    def _change_generations(
        self, kind: str, position: Position, record: control_pb2.ControlRecord
    ) -> tuple[ControlEvent, ...]:
        known = self._generations
        if kind == "generation":
            maps = [one.map for one in known.declare(position, record.generation, self._regenerable)]
        elif kind == "switch":
            maps = [one.map for one in known.switch(position, record.switch, self.limit)]
        else:
            maps = [name for name, _ in known.drop(record.drop, self._closed)]
        return (GenerationsChanged(tuple(maps)),) if maps else ()

    def _regenerable(self, map_name: str) -> bool:
        spec = self.declared.get(map_name)
        return spec is not None and spec.derived and spec.stateful

    # Checkpoint -------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The whole state: equal states give equal bytes."""
        view = view_message(self._view.members.values(), self._view.owners)
        plain = [
            CHECKPOINT_VERSION,
            self._position,
            [self._grid_id, self._partitions, self._limit_span, self._session_epochs],
            [self._view.position, view.SerializeToString(deterministic=True)],
            [[node, position, self.incarnation(node)] for node, position in sorted(self._changed_at.items())],
            sorted(self._terms.items()),
            [self._closed, self._closed_time_ms, self._reference_epoch, self._horizon],
            self._close_times.to_plain(),
            sorted(self._tails.items()),
            self._declarations.to_plain(),
            self._holds.to_plain(),
            self._generations.to_plain(),
        ]
        packed = msgpack.packb(plain)
        assert isinstance(packed, bytes)
        return packed

    @classmethod
    def from_bytes(cls, data: bytes) -> ControlState:
        """Raises FormatError: not a checkpoint of the control log, or one of a newer version."""
        state = cls()
        try:
            plain = msgpack.unpackb(data)
            if plain[0] not in READABLE_VERSIONS:
                raise FormatError(
                    f"the state of the control log has version {plain[0]}, this program knows up to {CHECKPOINT_VERSION}; "
                    "use the version that wrote it",
                    version=plain[0],
                )
            if plain[0] == 1:  # before holds, and before the incarnations of nodes that were put out
                changed = [[node, position, 0] for node, position in plain[4]]
                plain = [*plain[:4], changed, *plain[5:], Holds().to_plain()]
            if plain[0] < 3:
                plain = [*plain, Generations().to_plain()]
            _, state._position, grid, view, changed, terms, times, closes, tails, declarations, holds, known = plain
            state._grid_id, state._partitions, state._limit_span, state._session_epochs = grid
            state._view = view_from(Position(view[0]), control_pb2.View.FromString(view[1]))
            state._changed_at = {NodeId(node): Position(position) for node, position, _ in changed}
            state._incarnations = {NodeId(node): Incarnation(number) for node, _, number in changed if number}
            for member in state._view.members.values():
                state._incarnations.setdefault(member.node, member.incarnation)
            state._terms = {PartitionId(partition): Term(term) for partition, term in terms}
            state._closed, state._closed_time_ms, state._reference_epoch, state._horizon = times
            state._close_times = CloseTimes.from_plain(closes)
            state._tails = {PartitionId(partition): Position(position) for partition, position in tails}
            state._declarations = Declarations.from_plain(declarations)
            state._holds = Holds.from_plain(holds)
            state._generations = Generations.from_plain(known)
        except FormatError:
            raise
        except Exception as error:
            raise FormatError(
                f"a state of the control log does not parse ({error}); a damaged checkpoint may be deleted: the log has it all"
            ) from error
        return state

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ControlState) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]
