"""A deployment's plan, as one JSON object or as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tidegrid.v1 import control_pb2, grid_pb2

HASH_DIGITS: Final = 12
_SIGNS: Final = {
    "added": "+",
    "removed": "-",
    "changed": "~",
    "module": "~",
    "derived": "~",
    "schema": "~",
    "same": "=",
}
_WORDS: Final = {"module": "its module changed", "schema": "another schema number"}
_KINDS: Final = {1: "table", 2: "stream", 3: "reference"}


def plan_record(plan: grid_pb2.DeployPlan) -> dict[str, Any]:
    return {
        "plan": plan.id,
        "hash": plan.hash.hex(),
        "replaces": plan.replaces.hex() or None,
        "unchanged": plan.unchanged,
        "modules": list(plan.modules),
        "requirements": list(plan.requirements),
        "triggers": [
            {"name": t.name, "module": t.module, "change": t.change, "on": list(t.on), "emits": list(t.emits)}
            for t in plan.triggers
        ],
        "maps": [
            {
                "map": m.spec.name,
                "kind": _KINDS.get(m.spec.kind, str(m.spec.kind)),
                "key": _key(m.spec).split(",") if m.spec.key else [],
                "derived": m.spec.derived,
                "schema": m.spec.schema,
                "change": m.change,
                "read_by": list(m.read_by),
                "written_by": list(m.written_by),
                "followers": m.followers,
            }
            for m in plan.maps
        ],
        "findings": [{"rule": f.rule, "module": f.module, "line": f.line, "words": f.words} for f in plan.findings],
        "nodes": [
            {
                "node": verdict.node,
                "error": {"code": verdict.error.code, "message": verdict.error.message}
                if verdict.HasField("error")
                else None,
            }
            for verdict in plan.nodes
        ],
        "samples": [_sample_record(sample) for sample in plan.samples],
    }


def _sample_record(sample: grid_pb2.SampleDifference) -> dict[str, Any]:
    return {
        "map": sample.map,
        "untried": sample.untried or None,
        "writes": sample.writes,
        "same": sample.same,
        "rejected_before": sample.rejected_before,
        "rejected_after": sample.rejected_after,
        "failed_before": sample.failed_before,
        "failed_after": sample.failed_after,
        "unhandled": sample.unhandled,
        "outputs": [
            {
                "map": o.map,
                "before": o.before,
                "after": o.after,
                "added": o.added,
                "removed": o.removed,
                "changed": o.changed,
                "columns": dict(sorted(o.columns.items())),
            }
            for o in sample.outputs
        ],
        "examples": [
            {"map": e.map or None, "key": e.key, "before": e.before or None, "after": e.after or None}
            for e in sample.examples
        ],
    }


def plan_lines(plan: grid_pb2.DeployPlan) -> Iterator[str]:
    """For people, in full."""
    yield f"plan {plan.id}: {', '.join(plan.modules)} ({short(plan.hash)})" + (
        f", in place of {short(plan.replaces)}" if plan.replaces else ", the first code of this grid"
    )
    yield from _triggers(plan)
    yield from _maps(plan)
    yield from _samples(plan.samples)
    if plan.findings:
        yield "have a look at"
        yield from (f"  {finding_line(finding)}" for finding in plan.findings)
    if plan.requirements:
        yield f"requires {', '.join(plan.requirements)}"
    able = [str(verdict.node) for verdict in plan.nodes if not verdict.HasField("error")]
    if able:
        yield f"node{'s' * (len(able) > 1)} {', '.join(able)} can load it"
    for verdict in plan.nodes:
        if verdict.HasField("error"):
            yield f"node {verdict.node} CANNOT load it: {verdict.error.message}"


def plan_summary(plan: grid_pb2.DeployPlan) -> str:
    """In one line."""
    parts = [f"{_SIGNS[t.change]}{t.name}" for t in plan.triggers if t.change != "same"]
    parts += [f"{_SIGNS[m.change]}map {m.spec.name}" for m in plan.maps if m.change != "same"]
    writes = sum(sample.writes for sample in plan.samples)
    if writes:
        different = writes - sum(sample.same for sample in plan.samples)
        parts.append(f"{different} of {writes} recent writes come out differently")
    if untried := [sample.map for sample in plan.samples if sample.untried]:
        parts.append(f"recent writes to {', '.join(untried)} were not tried")
    return ", ".join(parts) or "no trigger changes"


def finding_line(finding: grid_pb2.PlanFinding) -> str:
    where = (
        f"{finding.module}, line {finding.line}: " if finding.line else f"{finding.module}: " if finding.module else ""
    )
    return f"{where}[{finding.rule}] {finding.words}"


def short(digest: bytes) -> str:
    return digest.hex()[:HASH_DIGITS]


def _triggers(plan: grid_pb2.DeployPlan) -> Iterator[str]:
    yield "triggers"
    rows = [
        (
            f"{_SIGNS[t.change]} {t.name}",
            f"{', '.join(t.on)} -> {', '.join(t.emits) or 'nothing'}",
            _WORDS.get(t.change, t.change),
        )
        for t in plan.triggers
        if t.change != "same"
    ]
    same = len(plan.triggers) - len(rows)
    if same or not rows:
        rows.append((f"= {same or 'none'}", "", "the same" if same else ""))
    yield from _columns(rows)


def _maps(plan: grid_pb2.DeployPlan) -> Iterator[str]:
    if not plan.maps:
        return
    yield "maps"
    rows = []
    for m in plan.maps:
        spec = m.spec
        uses = [f"read by {', '.join(m.read_by)}"] if m.read_by else []
        uses += [f"written by {', '.join(m.written_by)}"] if m.written_by else []
        if m.followers:
            uses.append(
                f"{m.followers} subscription{'s' * (m.followers > 1)} or replica{'s' * (m.followers > 1)} will see it"
            )
        if m.change == "same" and not uses:
            continue
        change = "" if m.change == "same" else f"; {_change_of_map(m)}"
        kind = f"{_KINDS.get(spec.kind, '')}, key {_key(spec) or 'any'}"
        rows.append((f"{_SIGNS[m.change]} {spec.name}", kind, "; ".join(uses) + change if uses else change[2:]))
    yield from _columns(rows)


def _change_of_map(change: grid_pb2.MapChange) -> str:
    if change.change == "derived":
        return "from now on written by triggers alone" if change.spec.derived else "no longer written by triggers"
    return f"schema {change.spec.schema} from now on" if change.change == "schema" else change.change


def _samples(samples: Iterable[grid_pb2.SampleDifference]) -> Iterator[str]:
    for sample in samples:
        if sample.untried:
            yield f"recent writes to {sample.map}: not tried: {sample.untried}"
            if not sample.writes:
                continue
        different = sample.writes - sample.same
        yield f"{sample.writes} recent writes to {sample.map}: " + (
            f"{different} would come out differently" if different else "the same would come out"
        )
        if sample.rejected_after or sample.rejected_before:
            before, after = sample.rejected_before - sample.failed_before, sample.rejected_after - sample.failed_after
            if before or after:
                yield f"  rejected: {before} by the code that is active, {after} by this"
            if sample.failed_before or sample.failed_after:
                yield f"  failed: {sample.failed_before} by the code that is active, {sample.failed_after} by this"
        if sample.unhandled:
            yield f"  {sample.unhandled} with a schema number that no trigger handles"
        for output in sample.outputs:
            if output.added or output.removed or output.changed:
                yield f"  {output.map}: {_output(output)}"
        for example in sample.examples:
            target = f"{example.map} " if example.map else ""
            yield f"    {target}{example.key}: {example.before or 'nothing'}  ->  {example.after or 'nothing'}"


def _output(output: grid_pb2.OutputChange) -> str:
    parts = [
        f"{count} {word}"
        for word, count in (("added", output.added), ("removed", output.removed), ("changed", output.changed))
        if count
    ]
    text = f"{output.before} outputs before, {output.after} after; {', '.join(parts)}"
    if output.columns:
        ranked = sorted(output.columns.items(), key=lambda item: (-item[1], item[0]))
        text += f" ({', '.join(f'{name} in {count}' for name, count in ranked)})"
    return text


def _columns(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    widths = [max((len(row[at]) for row in rows), default=0) for at in range(2)]
    for row in rows:
        yield f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip()


def _key(spec: control_pb2.MapSpec) -> str:
    return ",".join(part.name if part.type == "str" else f"{part.name}:{part.type}" for part in spec.key)
