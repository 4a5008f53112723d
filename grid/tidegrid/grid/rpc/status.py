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
        held_back_by=held_back_by(driver),
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
    )


def _partition(partition: Partition) -> grid_pb2.PartitionStatus:
    return grid_pb2.PartitionStatus(
        partition=partition.id,
        state=partition.state.value,
        term=partition.term,
        tail=partition.tail,
        stamp=partition.last_stamp,
        entries=sum(table.live_count for table in partition.tables.values()),
        history_bytes=sum(table.history_bytes for table in partition.tables.values()),
        queued_writes=sum(len(request.keys) - request.next_row for request in partition.queue),
        sessions=len(partition.memory),
    )


def held_back_by(driver: Driver) -> str:
    """What here keeps the epochs below this node's own from closing, in words; empty: nothing does."""
    node = driver.node
    waiting = [partition for partition in node.partitions.values() if partition.lowest_in_flight is not None]
    if not waiting:
        return node.ring.held_back_by()
    first = min(waiting, key=lambda partition: partition.lowest_in_flight or 0)
    frame = first.in_flight or first.next
    assert frame is not None
    age = max(0, driver.instant().time_ms - frame.time_ms)
    return f"partition {first.id} of node {node.me}: a frame of epoch {frame.stamp} has waited {age} ms for the log"
