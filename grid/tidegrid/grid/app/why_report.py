"""Why a row is so, as one JSON object or as a tree for people: from the row at the top down to the raw write."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text
from rich.tree import Tree
from tidegrid.grid.app.json_text import json_text, key_value, printable
from tidegrid.grid.app.plan_report import short

if TYPE_CHECKING:
    from tidegrid.client import Lineage, LineageRow, LineageStep, Regenerated, TriggerFailure, TriggerRun, Version, Why

VALUE_CHARS_MAX: Final = 200  # of a value within the tree; --json has all of it


def why_record(told: Why) -> dict[str, Any]:
    return {
        "map": told.map,
        "key": key_value(told.key),
        **_version_record(told.version),
        "partition": told.partition,
        "position": told.position,
        "merged": told.merged,
        "lineages": [_lineage_record(lineage) for lineage in told.lineages],
        "earlier": [_version_record(version) for version in told.earlier],
        "before": told.before,
        "uncounted": told.uncounted,
        "generation": told.generation or 1,
        "since": told.since or None,
    }


def _version_record(version: Version) -> dict[str, Any]:
    return {
        "value": version.value,
        "deleted": version.deleted,
        "version": version.version,
        "epoch": version.epoch,
        "time_ms": version.time_ms,
    }


def _lineage_record(lineage: Lineage) -> dict[str, Any]:
    return {
        "row": _row_record(lineage.row),
        "partition": lineage.partition,
        "position": lineage.position,
        "epoch": lineage.epoch,
        "stamp": lineage.stamp,
        "time_ms": lineage.time_ms,
        "delivered": lineage.delivered,
        "failures": [failure._asdict() for failure in lineage.failures],
        "steps": [_step_record(step) for step in lineage.steps],
        "raw": None if lineage.raw is None else _row_record(lineage.raw),
        "broken": lineage.broken or None,
        "regenerated": None if lineage.regenerated is None else _regenerated_record(lineage.regenerated),
    }


def _regenerated_record(made: Regenerated) -> dict[str, Any]:
    return {
        "deployment": made.deployment.hex() or None,
        "acts_at": made.acts_at or None,
        "deployment_then": made.deployment_then.hex() or None,
        "acts_at_then": made.acts_at_then or None,
        "possible": [_row_record(row) for row in made.possible],
        "possible_count": made.possible_count,
    }


def _row_record(row: LineageRow) -> dict[str, Any]:
    return {
        "map": row.map,
        "key": key_value(row.key),
        "op": row.op,
        "value": row.value,
        "version": row.version or None,
        "schema": row.schema,
    }


def _step_record(step: LineageStep) -> dict[str, Any]:
    return {
        "partition": step.partition,
        "position": step.position,
        "epoch": step.epoch,
        "stamp": step.stamp,
        "time_ms": step.time_ms,
        "cause": _row_record(step.cause),
        "delivered": step.delivered,
        "made": _row_record(step.made),
        "entry": step.entry,
        "triggers": [_run_record(run) for run in step.triggers],
        "untold": step.untold or None,
        "candidates": [{"name": run.name, "module": run.module, "line": run.line} for run in step.candidates],
        "deployment": step.deployment.hex() or None,
        "acts_at": step.acts_at or None,
    }


def _run_record(run: TriggerRun) -> dict[str, Any]:
    output = run.output
    return {
        "name": run.name,
        "module": run.module,
        "line": run.line,
        "yielded_line": run.yielded_line or None,
        "output": {"map": output.map, "key": key_value(output.key), "op": output.op, "value": output.value},
    }


# For people ------------------------------------------------------------------------------------------------------------


def why_tree(told: Why) -> Tree:
    version = told.version
    head = f"{told.map} {json_text(key_value(told.key))} " + (
        "is deleted" if version.deleted else f"= {json_text(version.value)}"
    )
    tree = Tree(_text(head, "bold"))
    place = f"partition {told.partition}, position {told.position:,}"
    if told.generation:
        anew = f"; what it has of before epoch {told.since:,} was made by a regeneration" if told.since else ""
        tree.add(_text(f"generation {told.generation}{anew}"))
    tree.add(_text(f"version {version.version:,}, epoch {version.epoch:,}, {_when(version.time_ms)}; {place}"))
    if told.merged:
        operands = len(told.lineages)
        some = "at least " if told.uncounted else ""
        count = f"{some}{told.before + operands:,} operand{'s' * (told.before + operands != 1)}"
        at = tree.add(_text(f"folded from {count}, the newest first"))
        for lineage in told.lineages:
            _add_lineage(at, lineage)
        _add_before(at, told, "before these")
        return tree
    for lineage in told.lineages:
        _add_lineage(tree, lineage)
    if told.earlier or told.before or told.uncounted:
        at = tree.add(_text("before"))
        for earlier in told.earlier:
            value = "deleted" if earlier.deleted else _short(json_text(earlier.value))
            at.add(_text(f"version {earlier.version:,}, epoch {earlier.epoch:,}, {_when(earlier.time_ms)}: {value}"))
        _add_before(at, told, "more" if told.since else "more; `tidegrid history` has all")
    return tree


def _add_before(at: Tree, told: Why, words: str) -> None:
    if told.uncounted:
        at.add(_text(f"{told.before:,} {words}, and perhaps others, which neither memory nor a log has"))
    elif told.before:
        at.add(_text(f"{told.before:,} {words}"))


def _add_lineage(above: Tree, lineage: Lineage) -> None:
    row = lineage.row
    if lineage.broken and not row.map:
        above.add(_text(lineage.broken, "red"))
        return
    made = lineage.regenerated
    if made is not None:
        at = _add_regenerated(above, lineage, made)
    elif row.op == "merge" or not lineage.steps:
        at = above.add(_text(_row_text(row, lineage.epoch, lineage.time_ms, raw=not lineage.steps)))
    else:
        at = above
    for failure in lineage.failures:
        at.add(_text(f"what its own triggers make of it is missing: {_failure(failure)}", "red"))
    for number, step in enumerate(lineage.steps):
        if made is not None and step.partition != lineage.partition:
            at = at.add(_text(f"from partition {step.partition}, position {step.position:,}"))
        elif step.entry is not None:
            way = f"routed here from partition {step.partition}, position {step.position:,}, entry {step.entry}"
            late = not number and step.stamp != lineage.stamp
            at = at.add(_text(way + (f", in the log here at epoch {lineage.stamp:,}" if late else "")))
        at = _add_triggers(at, step)
        at = at.add(_text(_row_text(step.cause, step.epoch, step.time_ms, raw=not step.delivered)))
    if made is not None:
        _add_possible(at, lineage, made)
    elif lineage.broken:
        at.add(_text(f"further back it cannot be told: {lineage.broken}", "red"))


def _add_regenerated(above: Tree, lineage: Lineage, made: Regenerated) -> Tree:
    row = lineage.row
    if row.op == "merge":
        above = above.add(_text(_row_text(row, lineage.epoch, lineage.time_ms, raw=False)))
    elif not row.op:
        led_to = "deleted" if row.raw_value is None else _short(json_text(row.value))
        facts = f"version {row.version:,}, epoch {lineage.epoch:,}, {_when(lineage.time_ms)}"
        above = above.add(_text(f"an operand that led to {led_to} ({facts})"))
    code = _deployed(made.deployment, made.acts_at)
    then = _deployed(made.deployment_then, made.acts_at_then) if made.deployment_then else "no code"
    at = above.add(_text(f"made by a regeneration, with the code of {code}", "cyan"))
    return at.add(_text(f"of what was written in epoch {lineage.epoch:,}; {then}, was active then"))


def _add_possible(at: Tree, lineage: Lineage, made: Regenerated) -> None:
    """What is known of a row without steps."""
    if not lineage.broken:
        return
    at.add(_text(f"which trigger made it cannot be told: {lineage.broken}", "yellow"))
    if not made.possible_count:
        return
    of = "from the raw write" if made.possible_count == 1 else f"perhaps from one of {made.possible_count:,} raw writes"
    at = at.add(_text(of))
    for row in made.possible:
        at.add(_text(_row_text(row, lineage.epoch, lineage.time_ms, raw=True)))
    if made.possible_count > len(made.possible):
        at.add(_text(f"{made.possible_count - len(made.possible):,} more"))


def _deployed(hashed: bytes, acts_at: int) -> str:
    return f"deployment {short(hashed)}, in force from epoch {acts_at:,}"


def _add_triggers(at: Tree, step: LineageStep) -> Tree:
    """From the last trigger down to the one that the cause set off."""
    code = _deployed(step.deployment, step.acts_at) if step.deployment else ""
    if not step.triggers:
        return at.add(
            _text(f"by {_candidates(step.candidates)}: {step.untold}" + (f"; {code}" if code else ""), "yellow")
        )
    for number, run in enumerate(reversed(step.triggers)):
        if number:
            at = at.add(_text(f"{_written(run.output)}, in the same record"))
        line = f"line {run.yielded_line}" if run.yielded_line else f"at line {run.line}"
        at = at.add(_text(f"by trigger {run.name}, module {run.module}, {line}; {code}", "cyan"))
    return at


def _candidates(runs: Sequence[TriggerRun]) -> str:
    named = [f"{run.name} (module {run.module}, line {run.line})" for run in runs]
    if not named:
        return "a trigger that cannot be told"
    if len(named) == 1:
        return f"trigger {named[0]}, the only one that can have"
    return f"one of {', '.join(named)}; which cannot be told"


def _row_text(row: LineageRow, epoch: int, time_ms: int, *, raw: bool) -> str:
    facts = [f"version {row.version:,}"] if row.version else []
    if raw:
        facts.append(f"schema {row.schema}")
    facts += [f"epoch {epoch:,}", _when(time_ms)]
    return f"{'raw write: ' if raw else ''}{_written(row)} ({', '.join(facts)})"


def _written(row: LineageRow) -> str:
    value = "" if row.op == "delete" else f" {_short(json_text(row.value))}"
    return f"{row.op} {row.map} {json_text(key_value(row.key))}{value}"


def _failure(failure: TriggerFailure) -> str:
    return failure.message or "the log has no room for the reason"


def _when(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _short(text: str) -> str:
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 3] + "..."


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style)
