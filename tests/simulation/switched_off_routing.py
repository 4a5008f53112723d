"""Rules of routed outputs and folds switched off (rules X and Q, I17). See mutations.py.

"Sent before it is durable" cannot be written down here: a source is named by its position in the log.
"""

from __future__ import annotations

from typing import Any

import pytest
from tidegrid.grid.engine import compute, frame, placing, routes, routing, writes
from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.log.record import SourceId
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.store import merged

Patch = pytest.MonkeyPatch


def acknowledged_on_arrival(patch: Patch) -> None:
    right = routing.Routing._came

    def came(self: routing.Routing, source: SourceId, number: PartitionId, *rest: Any) -> None:
        right(self, source, number, *rest)
        partition = self._partitions.get(number)
        if partition is not None and source in partition.delivering:
            self._reply(partition, source, {})

    patch.setattr(routing.Routing, "_came", came)


def done_before_its_own_outputs(patch: Patch) -> None:
    """Delivered is said of a record that still sends on."""
    right = routes.Routes.landed

    def landed(self: routes.Routes, position: Any, effective: Any, time_ms: int, sources: Any, *rest: Any) -> Any:
        right(self, position, effective, time_ms, sources, *rest)
        for source in sources:
            self._taken[source] = routes.Taken(effective, {self._partition: position})
        return tuple(sources)

    patch.setattr(routes.Routes, "landed", landed)


def taken_in_any_order(patch: Patch) -> None:
    right = routing.Routing._came

    def came(self: routing.Routing, *rest: Any) -> None:
        *facts, _after, epoch = rest
        right(self, *facts, None, epoch)

    patch.setattr(routing.Routing, "_came", came)


def floor_not_held_by_the_root(patch: Patch) -> None:
    patch.setattr(routes.Routes, "undelivered", None)


def not_said_again_by_a_new_owner(patch: Patch) -> None:
    """Liveness: the epoch of what was on its way is never closed."""
    patch.setattr(routing.Routing, "opened", lambda self, now, partition: None)
    patch.setattr(routing.Routing, "view_applied", lambda self, now: None)

    def time_passed(self: routing.Routing, now: float) -> None:
        pass

    patch.setattr(routing.Routing, "time_passed", time_passed)


def outbox_forgotten_by_a_new_owner(patch: Patch) -> None:
    def replayed(self: routes.Routes, position: Any, record: Any) -> None:
        sources = [SourceId.of(source) for source in record.sources]
        self.landed(position, Epoch(record.effective), record.time_ms, sources, (), root=False)

    patch.setattr(routes.Routes, "replayed", replayed)


def sources_not_recognised(patch: Patch) -> None:
    patch.setattr(routes.Routes, "taken", lambda self, source: None)


def sources_forgotten_by_a_new_owner(patch: Patch) -> None:
    right = routes.Routes.replayed

    def replayed(self: routes.Routes, position: Any, record: Any) -> None:
        right(self, position, record)
        for source in record.sources:
            self._taken.pop(SourceId.of(source), None)

    patch.setattr(routes.Routes, "replayed", replayed)


def routes_left_out_of_checkpoints(patch: Patch) -> None:
    patch.setattr(routes.Routes, "rows", lambda self: [[], []])


def routed_stamped_below_the_own_epoch(patch: Patch) -> None:
    right = Partition.compute_routed

    def compute_routed(self: Partition, first: Any, catalog: Any, epoch: Epoch, *rest: Any) -> Any:
        self.last_stamp, last = Epoch(0), self.last_stamp
        made = right(self, first, catalog, first.effective, *rest)
        self.last_stamp = last
        return made

    patch.setattr(Partition, "compute_routed", compute_routed)


def seen_by_its_stamp(patch: Patch) -> None:
    """As-of reads go by the stamp of a routed record, not by the epoch of its source."""
    right = Partition.landed

    def landed(self: Partition, *arguments: Any) -> Any:
        flying = self.in_flight
        assert flying is not None
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(frame.Frame, "effective", property(lambda one: one.stamp))
            return right(self, *arguments)

    patch.setattr(Partition, "landed", landed)


def target_read_at_its_latest(patch: Patch) -> None:
    def get(self: compute.Computation, map_name: str, key: bytes) -> bytes | None:
        found = self._change(map_name, key)
        if found is not None:
            return found[1]
        table = self._tables.get(map_name)
        version = table.latest(key) if table is not None else None
        return version[0] if version is not None else None

    patch.setattr(compute.Computation, "get", get)


def target_read_before_its_epoch_is_over(patch: Patch) -> None:
    def next_delivery(self: Partition, epoch: Epoch) -> Any:
        return self.deliveries[0] if self.deliveries else None

    patch.setattr(Partition, "_next_delivery", next_delivery)


def merged_in_order_of_arrival(patch: Patch) -> None:
    def merge(self: merged.MergedTable, key: bytes, new: merged.Operand) -> None:
        latest = self.latest(key)
        state = self._folded(latest[0] if latest is not None else None, new)
        self._operands.setdefault(key, []).append(new)
        self.insert(key, state, new.number, new.stamp)

    patch.setattr(merged.MergedTable, "_merge", merge)


def operands_let_go_too_early(patch: Patch) -> None:
    right = merged.MergedTable.settle
    patch.setattr(merged.MergedTable, "settle", lambda self, closed: right(self, Epoch(closed + 2)))


def operands_left_out_of_checkpoints(patch: Patch) -> None:
    patch.setattr(merged.MergedTable, "operands", lambda self: iter(()))


def tails_of_visits_only(patch: Patch) -> None:
    right = routing.Routing._answered

    def answered(self: routing.Routing, source: Any, tails: Any) -> None:
        right(self, source, tails)
        self.tails.clear()

    patch.setattr(routing.Routing, "_answered", answered)


def tails_of_the_receiver_only(patch: Patch) -> None:
    """Not those of what it sent on."""
    right = routes.Routes.delivered
    patch.setattr(routes.Routes, "delivered", lambda self, source, tails: right(self, source, {}))


def routed_by_the_newest_code(patch: Patch) -> None:
    right = writes.WritePath.compute_one

    def compute_one(self: writes.WritePath, catalogs: Catalogs, epoch: Epoch, *rest: Any) -> int:
        class Newest:
            def at(self, _epoch: Epoch) -> Any:
                return catalogs.at(epoch)

        return right(self, Newest(), epoch, *rest)  # type: ignore[arg-type]

    patch.setattr(writes.WritePath, "compute_one", compute_one)


def failures_swallowed(patch: Patch) -> None:
    patch.setattr(placing.Placing, "note_failure", lambda self, failure: None)


def not_requeued_after_a_fill(patch: Patch) -> None:
    right = Partition._requeue

    def requeue(self: Partition, one: frame.Frame) -> None:
        deliveries, one.deliveries = one.deliveries, []
        right(self, one)
        one.deliveries = deliveries

    patch.setattr(Partition, "_requeue", requeue)
