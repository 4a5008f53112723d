"""A replay with the code of the time against what lives: every derived table, as of every epoch, whatever was written,
parked, redriven, routed, chained, restarted and closed when.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tidegrid.grid.engine.parking import ParkedId
from tidegrid.grid.engine.redrive import RedriveRequest
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, PartitionId
from tidegrid.grid.model.partitioner import partition_of

from tests.simulation.content import DERIVED, GROUPS, ITEMS, Keys, source
from tests.unit.engine.regenerated import Regenerated
from tests.unit.engine.stand import Stand, client_session, key

PARTITIONS = 3
KEYS = Keys(PARTITIONS)
RANDOM = """

@trigger(on="plain", emits=("drawn",))
def draw(write, grid):
    if write.op != "delete":
        yield Put("drawn", write.key, [grid.random.random(), grid.random.random(), write.previous, write.version])

table("drawn", key=("group", "item:int"))
"""


class Step(NamedTuple):
    """`what`: raw, plain, prices, beside: rows of that map; close, redrive, restart, later: of the epoch."""

    what: str
    rows: list[tuple[str, int, Any]]


ROW = st.builds(
    lambda n, cap, bad: {"n": n, "x": n % 7, "cap": cap, "bad": bad},
    st.integers(0, 300),
    st.sampled_from([0, 0, 0, 400]),
    st.sampled_from([False, False, False, True]),
)
ROWS = st.lists(
    st.tuples(st.sampled_from(GROUPS[:5]), st.sampled_from(ITEMS), st.one_of(ROW, ROW, ROW, st.none())), max_size=5
)
WHAT = st.sampled_from(
    ["raw", "raw", "raw", "raw", "plain", "prices", "beside", "close", "close", "redrive", "restart", "later"]
)
STEPS = st.lists(st.builds(Step, WHAT, ROWS), min_size=5, max_size=40)


def play(stand: Stand, steps: list[Step]) -> None:
    number = 0
    for step in steps:
        if step.what == "close":
            close(stand)
        elif step.what == "restart":
            stand.land_all()
            stand.restart()
            number += 1
        elif step.what == "redrive":
            for partition in stand.node.partitions.values():
                writes, _ = partition.parking.page("", ParkedId(BEFORE_FIRST, 0), 3)
                if writes:
                    ids = tuple(write.id for write in writes)
                    stand.submit(RedriveRequest(partition.id, ids, True, False, "to the test"))
        elif step.what == "later":
            later(stand)
        else:
            session = client_session(number + 1, created=stand.node.control.closed)
            for map_name, at, pairs in batches(step):
                stand.put(pairs, map_name=map_name, partition=at, session=session)


def later(stand: Stand) -> None:
    """The epoch of the node rises, so that what waited for it to be over at its receiver goes on."""
    node = stand.node
    if node.epoch + 1 < node.control.limit:
        node.ring.carry(stand.now, node.control.position, Epoch(node.epoch + 1))
        stand.pass_time(1)
        stand.turn()


def close(stand: Stand) -> Epoch:
    """Closes what is complete: all that follows from its writes is in the logs."""
    stand.land_all()
    for _ in range(4):
        later(stand)
        stand.land_all()
    node = stand.node
    assert all(one.routes.undelivered is None and not one.deliveries for one in node.partitions.values())
    return stand.close(node.epoch - 1)


def batches(step: Step) -> Iterator[tuple[str, int, list[tuple[Any, Any]]]]:
    for at in range(PARTITIONS):
        pairs = []
        for group, item, value in step.rows:
            of: Any = (item,) if step.what == "prices" else (item, group) if step.what == "beside" else (group, item)
            if partition_of(key(of), PARTITIONS, 1 if step.what == "raw" else 0) == at:
                pairs.append((of, value))
        if pairs:
            yield step.what, at, pairs


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_the_same_code_makes_the_same_tables(steps: list[Step]) -> None:
    stand = Stand(maps=(), source=source(1) + RANDOM, partitions=PARTITIONS, limit=8)
    play(stand, steps)
    last = close(stand)
    node = stand.node
    again = Regenerated(stand.log_of, node.control, node.catalog, stand.limits, last + 1)
    for at in range(PARTITIONS):
        live = stand.partition(at)
        for name in (*DERIVED, "drawn"):
            table, made = live.tables[name], again.table(name, at, last)
            for epoch in range(1, last + 1):
                seen = ({k: as_of(one, k, epoch) for k in table.keys() | made.keys()} for one in (table, made))
                one, other = seen
                assert one == other, f"{name} of partition {at} as of {epoch}"
    assert again.tally.writes == again.tally.redriven + raw_rows(stand, again)


def as_of(table: Any, of: bytes, epoch: int) -> Any:
    found = table.as_of(of, Epoch(epoch))
    return None if found is None else (found[0], found[2])


def raw_rows(stand: Stand, again: Regenerated) -> int:
    """Writes to maps with triggers, and delivered rows that set off triggers, as the logs have them."""
    from tidegrid.grid.engine.replay_log import valid_records
    from tidegrid.grid.log.record import decode_section

    count = 0
    for at in range(PARTITIONS):
        for _, record in valid_records(stand.log_of(PartitionId(at))):
            for name, payload in zip(record.maps[: record.write_sections], record.sections, strict=False):
                count += len(decode_section(payload).keys) if name in again.code.programs else 0
    return count
