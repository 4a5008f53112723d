"""Where a regenerated row comes from: the code that made it run again over the raw writes of its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tidegrid.grid.engine.remade import MadeRow, Remade, older
from tidegrid.grid.log.record import PUT, SourceId, decode_record, encode_routed, encode_section
from tidegrid.grid.model.ids import Epoch, PartitionId, Position, Term
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.version import Version
from tidegrid.v1.grid_pb2 import Lineage

from tests.unit.engine.stand import Stand, key, pack
from tests.unit.engine.test_retracing import SEED, ZERO, stand_with, tracing_of

TODAY = "yield Put('out', 'k', [write.key, write.value])"


def chain(stamp: Stamp, *values: bytes | None) -> list[Version]:
    return [(value, number, stamp) for number, value in enumerate(values, 1)]


def record_of(stand: Stand) -> tuple[Position, bytes, Stamp]:
    """The newest of partition 0."""
    position, _, payload = stand.log_of(0)[-1]
    record = decode_record(payload)
    return position, payload, (Epoch(record.effective), position, record.time_ms)


def traced(
    stand: Stand, row: MadeRow, records: dict[tuple[int, int], bytes], body: str = TODAY, partitions: int = 2
) -> Lineage:
    found = Remade(row, partitions)
    while (wanted := found.wanted) is not None:
        found.give(records.get((wanted.partition, wanted.position)))
    held = stand.partition().tables
    found.tell(tracing_of(stand_with(body)), lambda number: held if number == ZERO else None, stand.node.copies, SEED)
    assert bool(found.lineage.steps) != bool(found.lineage.broken)
    return found.lineage


def row(versions: Sequence[Version], at: int, partition: int = 0, fold: Any = None) -> MadeRow:
    return MadeRow.of(PartitionId(partition), "out", key("k"), versions, at, fold)


def written() -> tuple[Stand, Position, bytes, Stamp]:
    """Two raw writes in one record, by code that put out something else."""
    stand = stand_with("yield Put('out', 'old', 0)")
    stand.put_now({"a": 1, "b": 2})
    return stand, *record_of(stand)


def test_of_several_raw_writes_the_one_that_it_follows_from() -> None:
    stand, position, payload, stamp = written()
    made = chain(stamp, pack([["a"], 1]), pack([["b"], 2]))
    for at, cause in enumerate("ab"):
        found = traced(stand, row(made, at), {(0, position): payload})
        (step,) = found.steps
        assert (step.cause.map, step.cause.key) == ("t", key(cause)) and [run.name for run in step.triggers] == ["t0"]
        assert found.regenerated and not found.delivered and found.row.value == made[at][0]


def test_a_row_that_does_not_come_out_again_is_not_told() -> None:
    stand, position, payload, stamp = written()
    for values in ((pack([["a"], 1]), pack("other")), (pack([["b"], 2]), pack([["a"], 1]))):
        found = traced(stand, row(chain(stamp, *values), 1), {(0, position): payload})
        assert "something else" in found.broken and found.possible_count == 2
        assert [one.key for one in found.possible] == [key("a"), key("b")]
    found = traced(stand, row(chain(stamp, pack(1)), 0), {(0, position): payload}, "yield Put('out', 'x', 1)")
    assert "nothing for this key" in found.broken


def test_a_record_of_another_time_or_epoch_is_another_one() -> None:
    stand, position, payload, (epoch, _, time_ms) = written()
    for stamp in ((Epoch(epoch + 1), position, time_ms), (epoch, position, time_ms + 1)):
        found = traced(stand, row(chain(stamp, pack([["b"], 2])), 0), {(0, position): payload})
        assert "is in the logs" in found.broken and not found.possible_count


def test_what_was_not_delivered_at_the_time_is_looked_for_in_all_partitions() -> None:
    stand, position, payload, stamp = written()
    made = row(chain(stamp, pack([["b"], 2])), 0, partition=1)
    found = traced(stand, made, {(0, position): payload})
    assert found.delivered and found.steps[0].partition == 0 and found.steps[0].cause.key == key("b")
    twice = traced(stand, made, {(0, position): payload, (2, position): payload}, partitions=3)
    assert "2 partitions have" in twice.broken and not twice.possible_count


def delivery(stamp: Stamp, *sources: tuple[int, int]) -> bytes:
    named = [SourceId(PartitionId(number), Position(at), 0) for number, at in sources]
    rows = encode_section(
        "old",
        [key("x")] * len(named),
        [pack(1)] * len(named),
        bytes([PUT] * len(named)),
        list(range(1, len(named) + 1)),
        range(len(named)),
    )
    return encode_routed(PartitionId(1), Term(1), Epoch(stamp[0] + 1), stamp[0], Epoch(0), stamp[2], named, ["old"], [rows], 1, [], [])  # fmt: skip


def test_what_was_delivered_at_the_time_comes_from_its_sources() -> None:
    stand, position, payload, (epoch, _, _) = written()
    stamp = (epoch, Position(70), 9_999)
    records = {(1, 70): delivery(stamp, (0, position)), (0, position): payload}
    made = row(chain(stamp, pack([["a"], 1]), pack([["b"], 2])), 1, partition=1)
    found = traced(stand, made, records)
    assert found.delivered and found.stamp == epoch + 1 and found.steps[0].cause.key == key("b")


def test_of_what_came_by_several_hops_nothing_is_claimed() -> None:
    stand, position, payload, (epoch, _, _) = written()
    stamp = (epoch, Position(70), 9_999)
    records = {
        (1, 70): delivery(stamp, (0, position), (2, 40)),
        (2, 40): delivery((epoch, Position(40), 8_888), (0, 1)),
        (0, position): payload,
    }
    made = row(chain(stamp, pack([["b"], 2])), 0, partition=1)
    hop = (
        TODAY
        + "\n@trigger(on='hop', emits='out')\ndef h(write): ...\n@trigger(on='t', emits='hop')\ndef g(write): ...\ntable('hop')\n"
    )
    found = traced(stand, made, records, hop, partitions=3)
    assert "several partitions" in found.broken and not found.possible_count
    direct = traced(stand, made, records, partitions=3)
    assert direct.steps[0].cause.key == key("b"), "this code emits to the map on raw writes alone"


def test_what_is_parked_since_then_has_led_to_nothing() -> None:
    source = "from tidegrid.triggers import *\ntable('out', key=('k',))\n@trigger(on='t', emits='out', on_error='park')\ndef t0(write):\n    if write.value == 1:\n        raise ValueError\n"
    stand = Stand(source=source)
    stand.put_now({"b": 2, "a": 1})
    position, payload, stamp = record_of(stand)
    assert decode_record(payload).failures
    found = traced(stand, row(chain(stamp, pack([["b"], 2])), 0), {(0, position): payload})
    assert [step.cause.key for step in found.steps] == [key("b")]


def test_an_operand_is_told_if_it_leads_from_state_to_state() -> None:
    stand, _position, payload, stamp = written()
    body = "yield Merge('out', 'k', write.value)"

    def fold(state: bytes | None, operand: bytes) -> bytes:
        return (state or b"") + operand

    one, two = pack(1), pack(2)
    states = chain(stamp, one, one + two)
    source = f"from tidegrid.triggers import *\ntable('out', key=('k',), fold=lambda a, b: b)\n@trigger(on='t', emits='out')\ndef t0(write):\n    {body}\n"
    folding = tracing_of(Stand(source=source))
    for versions, at, says in (
        (states, 0, ""), (states, 1, ""), (chain(stamp, one, one + one), 1, "something else"),
        ([(one + two, 2, stamp)], 0, "folded onto"),
    ):  # fmt: skip
        found = Remade(row(versions, at, fold=fold), 1)
        found.give(payload)
        found.tell(folding, lambda _: stand.partition().tables, stand.node.copies, SEED)
        assert says in found.lineage.broken and bool(says) == bool(found.lineage.broken)
        assert found.lineage.row.value == (versions[at][0] if says else [one, two][at])


def test_triggers_that_look_up_what_is_elsewhere_or_run_apart() -> None:
    stand, _position, payload, stamp = written()
    made = row(chain(stamp, pack([["b"], 2])), 0, partition=1)
    found = Remade(made, 2)
    for one in (None, payload):
        found.give(one)
    found.tell(tracing_of(stand_with("write.previous\n    " + TODAY)), lambda _: None, stand.node.copies, SEED)
    assert "owner of that partition" in found.lineage.broken and found.lineage.possible_count == 2
    apart = Stand(
        source="from tidegrid.triggers import *\ntable('out', key=('k',))\n@trigger(on='t', emits='out', isolation='process')\ndef t0(write):\n    raise SystemExit\n"
    )
    found = Remade(row(chain(stamp, pack(1)), 0), 1)
    found.give(payload)
    found.tell(tracing_of(apart), lambda _: None, stand.node.copies, SEED)
    assert "worker processes" in found.lineage.broken and found.lineage.possible_count == 2


@pytest.mark.parametrize(
    ("numbers", "epochs", "at", "since", "horizon", "told"),
    [
        ([1, 2, 3], [1, 2, 3], 2, 0, 0, (2, True)),
        ([5, 7, 6], [1, 2, 2], 2, 0, 0, (6, True)),  # a late one has a higher number
        ([3, 4, 9], [1, 2, 8], 2, 5, 1, (4, True)),  # 1 and 2 were before; 9 is of the log
        ([9, 10], [8, 9], 1, 5, 7, (1, True)),  # nothing was let go of
        ([9, 10], [8, 9], 1, 5, 8, (1, False)),
    ],
)  # fmt: skip
def test_how_many_versions_lie_before(
    numbers: list[int], epochs: list[int], at: int, since: int, horizon: int, told: tuple[int, bool]
) -> None:
    versions: list[Version] = [
        (b"", number, (Epoch(epoch), Position(epoch), 0)) for number, epoch in zip(numbers, epochs, strict=True)
    ]
    assert older(versions, at, Epoch(since), Epoch(horizon)) == told
