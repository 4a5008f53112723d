"""What a regeneration has found, in words and for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tidegrid.grid.app.plan_report import short
from tidegrid.v1 import grid_pb2


def report_lines(report: grid_pb2.RegenerationReport) -> Iterator[str]:
    earlier = report.writes - report.fresh_writes
    rate = f" ({report.writes / report.seconds:,.0f}/s)" if report.seconds and not earlier else ""
    rate += f", {earlier:,} of them by a run before" if earlier else ""
    span = f"of epoch {report.start:,} and later, up to" if report.start else "of before"
    yield (
        f"{report.writes:,} raw writes and routed outputs {span} epoch {report.acts_at:,} were run through {short(report.hash)} in "
        f"{report.seconds:.1f} s{rate}, with {report.outputs:,} outputs"
    )
    yield from (f"  {line}" for line in _without_outputs(report))
    for found in report.maps:
        yield f"{found.map}: {_rows(found)}, as of epoch {report.as_of:,}"
        if found.columns:
            ranked = sorted(found.columns.items(), key=lambda item: (-item[1], item[0]))
            yield f"  columns: {', '.join(f'{name} in {count:,}' for name, count in ranked)}"
        for example in found.examples:
            yield f"    {example.key}: {example.before or 'nothing'}  ->  {example.after or 'nothing'}"


def _without_outputs(report: grid_pb2.RegenerationReport) -> Iterator[str]:
    if report.rejected or report.failed:
        yield f"{report.rejected:,} were rejected and {report.failed:,} failed: nothing comes of them"
        yield from (f"  {one.map}: {one.message}" for one in report.refused)
    if report.parked > 0:
        yield f"{report.parked:,} were parked and stay so; `tidegrid parked redrive` runs them"
    if report.redriven:
        yield f"{report.redriven:,} had been redriven, and were run where they were"


def _rows(found: grid_pb2.GenerationDifference) -> str:
    if not (found.added or found.removed or found.changed):
        return f"{found.after:,} rows, all the same"
    counts = (("added", found.added), ("removed", found.removed), ("changed", found.changed))
    return f"{found.before:,} rows live, {found.after:,} regenerated; " + ", ".join(
        f"{count:,} {word}" for word, count in counts if count
    )


def report_record(report: grid_pb2.RegenerationReport) -> dict[str, Any]:
    numbers = ("start", "acts_at", "as_of", "writes", "outputs", "rejected", "failed", "parked", "redriven")
    return {
        "hash": report.hash.hex(),
        **{name: getattr(report, name) for name in numbers},
        "seconds": round(report.seconds, 3),
        "generations": dict(report.generations),
        "seen_from": report.seen_from or None,
        "refused": [
            {"map": one.map, "key": one.key, "message": one.message, "failed": one.failed} for one in report.refused
        ],
        "maps": [
            {
                "map": found.map,
                **{name: getattr(found, name) for name in ("before", "after", "added", "removed", "changed")},
                "columns": dict(found.columns),
                "examples": [{"key": one.key, "before": one.before, "after": one.after} for one in found.examples],
            }
            for found in report.maps
        ],
    }
