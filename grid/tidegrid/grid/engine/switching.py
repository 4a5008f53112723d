"""What a switch of generations is to those who follow a map: a difference, at the epoch of the switch.

A follower that has had everything up to the epoch before it gets, for every key that has not the same value and version
number in the two generations as of that epoch, what the new one has, or a delete; then it goes on in the new one. It takes
nothing of it before the mark of that epoch, so a feed that is cut in the middle begins the difference again.

Both have to be in memory as of that epoch: once the horizon has passed it, who follows from before it begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tidegrid.grid.engine.feed_entry import FeedEntry
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.log.record import DELETE, PUT, encode_section
from tidegrid.grid.model.errors import EpochTooOldError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch
from tidegrid.grid.ring.generations import Generations, Switch
from tidegrid.grid.store.table import Table

KEYS_PER_SLICE: Final = 2_000
BYTES_PER_SLICE: Final = 512 * 1024  # with a last value that may be as large as all before it


def pause_at(generations: Generations, map_name: str, after: Epoch, through: Epoch) -> Epoch:
    """How far a step from `after` towards `through` may go: to just before a switch, or on from there."""
    switch = generations.switch_after(map_name, Epoch(after + 1))
    return through if switch is None else min(through, Epoch(switch.acts_at - 1))


def switch_after(generations: Generations, map_name: str, after: Epoch) -> Switch | None:
    """The switch that acts at the very next epoch, if there is one."""
    switch = generations.switch_after(map_name, after)
    return switch if switch is not None and switch.acts_at == after + 1 else None


def kept_generation(partition: Partition, map_name: str, number: int, after: Epoch) -> Table:
    """Raises EpochTooOldError: it was let go of, so whoever follows from `after` has to begin anew."""
    table = partition.tables.generation(map_name, number)
    if table is None:
        raise EpochTooOldError(
            f"generation {number} of map {map_name!r}, which readers saw at epoch {after}, was let go of; start from a snapshot",
            requested=after,
            earliest=after + 1,
        )
    return table


def difference(partitions: Iterable[Partition], switch: Switch, before: int) -> Iterator[list[FeedEntry]]:
    """In slices, between which writes go on. `before`: the generation that readers saw until then.

    Raises EpochTooOldError.
    """
    until = Epoch(switch.acts_at - 1)
    for partition in partitions:
        old = kept_generation(partition, switch.map, before, until)
        new = kept_generation(partition, switch.map, switch.number, until)
        for section in _sections(switch.map, old, new, until):
            yield [FeedEntry(switch.acts_at, partition.id, BEFORE_FIRST, switch.time_ms, section)]


def _sections(map_name: str, old: Table, new: Table, until: Epoch) -> Iterator[bytes]:
    """In the order of the keys, so that every owner, in every process, tells the same; each small enough for a message."""
    changed: list[bytes] = []
    values: list[bytes] = []
    ops = bytearray()
    versions: list[int] = []
    size = 0
    for key in sorted(old.keys() | new.keys()):
        was, now = old.as_of(key, until) or _NONE, new.as_of(key, until) or _NONE
        if was[0] == now[0] and (now[0] is None or was[1] == now[1]):
            continue
        changed.append(key)
        values.append(now[0] or b"")
        ops.append(DELETE if now[0] is None else PUT)
        versions.append(now[1] or was[1])
        size += len(key) + len(values[-1])
        if len(changed) >= KEYS_PER_SLICE or size >= BYTES_PER_SLICE:
            yield encode_section(map_name, changed, values, bytes(ops), versions)
            changed, values, ops, versions, size = [], [], bytearray(), [], 0
    if changed:
        yield encode_section(map_name, changed, values, bytes(ops), versions)


_NONE: Final = (None, 0, (0, 0, 0))
