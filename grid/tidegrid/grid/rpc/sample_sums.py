"""The differences that several nodes found, each in the writes of its own partitions, as one."""

from __future__ import annotations

from collections.abc import Iterable

from tidegrid.grid.engine.rehearsal import EXAMPLES_MAX
from tidegrid.v1.grid_pb2 import OutputChange, SampleDifference

_COUNTS = ("writes", "same", "rejected_before", "rejected_after", "failed_before", "failed_after", "unhandled")
_OUTPUT_COUNTS = ("before", "after", "added", "removed", "changed")


def summed(parts: Iterable[Iterable[SampleDifference]]) -> list[SampleDifference]:
    """By map, in order of their first appearance."""
    sums: dict[str, SampleDifference] = {}
    for part in parts:
        for found in part:
            total = sums.setdefault(found.map, SampleDifference(map=found.map))
            total.untried = total.untried or found.untried
            for name in _COUNTS:
                setattr(total, name, getattr(total, name) + getattr(found, name))
            for change in found.outputs:
                _add(total, change)
            total.examples.extend(found.examples[: EXAMPLES_MAX - len(total.examples)])
    return list(sums.values())


def _add(total: SampleDifference, change: OutputChange) -> None:
    into = next((known for known in total.outputs if known.map == change.map), None)
    if into is None:
        into = total.outputs.add(map=change.map)
    for name in _OUTPUT_COUNTS:
        setattr(into, name, getattr(into, name) + getattr(change, name))
    for column, count in change.columns.items():
        into.columns[column] += count
