"""A node's view of itself for people: partitions, epochs, followers, and who holds time back."""

from __future__ import annotations

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.rpc.feeds import Feeds
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import GridOptions
from tidegrid.v1 import grid_pb2


def node_status(driver: Driver, feeds: Feeds, options: GridOptions) -> grid_pb2.NodeStatus:
    node = driver.node
    control, writes = node.control, node.writes
    member = control.view.members.get(node.me)
    held_back_by = hindrance(driver)
    return grid_pb2.NodeStatus(
        node=node.me,
        incarnation=node.incarnation,
        address=member.address if member is not None else "",
        epoch=node.epoch,
        closed=control.closed,
        limit=control.limit,
        horizon=control.horizon,
        control=control.position,
        token=node.ring.place.value,
        rounds=node.ring.rounds,
        held_back_by=held_back_by.words if held_back_by is not None else "",
        hindrance=held_back_by,
        partitions=[_partition(node.partitions[number]) for number in sorted(node.partitions)],
        feeds=[
            grid_pb2.FeedStatus(map=feed.map, after=feed.after, from_log=feed.from_log, peer=feed.peer)
            for feed in feeds.open
        ],
        writes=writes.written,
        outputs=writes.outputs,
        reference_epoch=node.copies.through,
        storage_full=writes.storage_full,
        tick_ms=int((options.tick or 0) * 1000),
        closed_age_ms=closed_age_ms(driver),
        holds=_holds(driver),
        suspended=[
            grid_pb2.SuspendedTrigger(trigger=one.trigger, since_ms=one.since_ms, words=one.words)
            for one in node.suspensions.suspended.values()
        ],
    )


def _holds(driver: Driver) -> list[grid_pb2.HoldStatus]:
    node, time_ms = driver.node, driver.instant().time_ms
    return [
        grid_pb2.HoldStatus(
            name=hold.name,
            owner=hold.owner,
            epoch=hold.epoch,
            age_ms=max(0, time_ms - hold.since_ms),
            left_ms=max(0, hold.expires_ms - time_ms),
            holds_back=hold.name in node.retention.held_back_by,
        )
        for hold in sorted(node.control.holds, key=lambda hold: (hold.epoch, hold.taken))
    ]


def _partition(partition: Partition) -> grid_pb2.PartitionStatus:
    return grid_pb2.PartitionStatus(
        partition=partition.id,
        state=partition.state.value,
        term=partition.term,
        tail=partition.tail,
        stamp=partition.last_stamp,
        entries=sum(table.live_count for table in partition.tables.values()),
        history_bytes=sum(table.history_bytes for _, table in partition.tables.every()),
        queued_writes=sum(len(request.keys) - request.next_row for request in partition.queue),
        sessions=len(partition.memory),
        undelivered=sum(1 for _ in partition.routes.parcels()),
        delivering=len(partition.delivering),
        parked=[grid_pb2.ParkedCount(map=name, writes=count) for name, count in partition.parking.counts().items()],
        unparked=partition.parking.unparked,
    )


def hindrance(driver: Driver) -> grid_pb2.Hindrance | None:
    """What here keeps the epochs below this node's own from closing: a frame on its way to the log, or what the ring
    tells. None: nothing does."""
    node = driver.node
    waiting = [partition for partition in node.partitions.values() if partition.lowest_in_flight is not None]
    if not waiting:
        found = node.ring.hindrance()
        if found is None:
            return None
        told = grid_pb2.Hindrance(node=found.node, epoch=found.epoch, age_ms=closed_age_ms(driver), words=found.words)
        if found.partition is not None:
            told.partition = found.partition
        return told
    first = min(waiting, key=lambda partition: partition.lowest_in_flight or 0)
    frame = first.in_flight or first.next
    if frame is None:
        return _made(driver, first)
    age = max(0, driver.instant().time_ms - frame.time_ms)
    words = f"partition {first.id} of node {node.me}: a frame of epoch {frame.stamp} has waited {age} ms for the log"
    return grid_pb2.Hindrance(partition=first.id, node=node.me, epoch=frame.stamp, age_ms=age, words=words)


def _made(driver: Driver, partition: Partition) -> grid_pb2.Hindrance:
    making, node = partition.making, driver.node.me
    assert making is not None
    age = max(0, driver.instant().time_ms - making.time_ms)
    words = f"partition {partition.id} of node {node}: triggers of epoch {making.epoch} have run in a worker process for {age} ms"
    return grid_pb2.Hindrance(partition=partition.id, node=node, epoch=making.epoch, age_ms=age, words=words)


def closed_age_ms(driver: Driver) -> int:
    return max(0, driver.instant().time_ms - driver.node.control.closed_time_ms)
