"""Why a row is so, for people and as JSON."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from tidegrid.client import Lineage, LineageRow, LineageStep, Regenerated, TriggerFailure, TriggerRun, Version, Why
from tidegrid.grid.app.json_text import json_text
from tidegrid.grid.app.why_report import VALUE_CHARS_MAX, why_record, why_tree
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value


def row(name: str, key: Any, value: Any, op: str = "put", version: int = 0) -> LineageRow:
    raw = None if op == "delete" else encode_value(value, Limits())
    return LineageRow(name, encode_key(key), op, raw, version, 3)


def run(name: str, output: LineageRow, line: int = 12) -> TriggerRun:
    return TriggerRun(name, "mod", 9, line, output)


def step(cause: LineageRow, made: LineageRow, *runs: TriggerRun, **more: Any) -> LineageStep:
    found = LineageStep(
        PartitionId(3),
        Position(1400),
        Epoch(5),
        Epoch(5),
        0,
        cause,
        False,
        made,
        None,
        runs,
        "",
        (),
        bytes(range(32)),
        Epoch(2),
    )
    return found._replace(**more)


def lineage(of: LineageRow, *steps: LineageStep, **more: Any) -> Lineage:
    return Lineage(of, PartitionId(1), Position(20), Epoch(5), Epoch(6), 0, False, (), steps, "")._replace(**more)


def why(*lineages: Lineage, value: Any = 1, **more: Any) -> Why:
    version = Version(4, Epoch(5), 1_000, None if value is None else encode_value(value, Limits()))
    found = Why("out", encode_key(("a", 1)), version, PartitionId(1), Position(20), False, lineages, (), 0)
    return found._replace(**more)


def text(told: Why) -> list[str]:
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(why_tree(told))
    return captured.get().splitlines()


RAW, HOP, OUT = row("raw", "a", 1, version=2), row("hop", "h", 2, version=7), row("out", ("a", 1), 3)


def test_the_way_down_to_the_raw_write() -> None:
    inner = row("inner", "i", 2)
    lines = text(
        why(
            lineage(
                OUT,
                step(HOP, OUT, run("first", inner), run("second", OUT, 0), delivered=True, entry=0),
                step(RAW, HOP, run("third", HOP), partition=PartitionId(8), entry=2),
            )
        )
    )
    assert [line.lstrip("│├└─ ") for line in lines] == [
        'out ["a", 1] = 1',
        "version 4, epoch 5, 1970-01-01 00:00:01 UTC; partition 1, position 20",
        "routed here from partition 3, position 1,400, entry 0, in the log here at epoch 6",
        "by trigger second, module mod, at line 9; deployment 000102030405, in force from epoch 2",
        'put inner "i" 2, in the same record',
        "by trigger first, module mod, line 12; deployment 000102030405, in force from epoch 2",
        'put hop "h" 2 (version 7, epoch 5, 1970-01-01 00:00:00 UTC)',
        "routed here from partition 8, position 1,400, entry 2",
        "by trigger third, module mod, line 12; deployment 000102030405, in force from epoch 2",
        'raw write: put raw "a" 1 (version 2, schema 3, epoch 5, 1970-01-01 00:00:00 UTC)',
    ]


def test_what_cannot_be_told_is_said() -> None:
    untold = step(RAW, OUT, untold="it is past", candidates=(run("one", OUT), run("other", OUT)))
    said = "\n".join(text(why(lineage(OUT, untold))))
    assert "by one of one (module mod, line 9), other (module mod, line 9); which cannot be told: it is past" in said
    only = step(RAW, OUT, untold="it is past", candidates=(run("one", OUT),))
    assert "by trigger one (module mod, line 9), the only one that can have: it is past" in "\n".join(
        text(why(lineage(OUT, only)))
    )
    none = step(RAW, OUT, untold="no code was in force", deployment=b"")
    assert "by a trigger that cannot be told: no code was in force" in "\n".join(text(why(lineage(OUT, none))))
    broken = "\n".join(
        text(why(lineage(OUT, step(HOP, OUT, run("t", OUT), delivered=True), broken="there is no record")))
    )
    assert "further back it cannot be told: there is no record" in broken
    lost = "\n".join(text(why(lineage(row("", "", None, "delete"), broken="there is no record"))))
    assert "there is no record" in lost


def test_operands_earlier_versions_and_deletions() -> None:
    operand = lineage(row("sum", "s", 5, "merge", 9), step(RAW, row("sum", "s", 5, "merge"), run("t", OUT)))
    lines = text(why(operand, operand, merged=True, before=40))
    assert any("folded from 42 operands, the newest first" in line for line in lines)
    assert sum('merge sum "s" 5 (version 9' in line for line in lines) == 2 and lines[-1].endswith("40 before these")
    earlier = (Version(3, Epoch(4), 0, None), Version(2, Epoch(3), 0, encode_value("x" * 500, Limits())))
    lines = text(why(lineage(RAW), value=None, earlier=earlier, before=1))
    assert lines[0] == 'out ["a", 1] is deleted'
    assert "version 3, epoch 4, 1970-01-01 00:00:00 UTC: deleted" in "\n".join(lines)
    assert all(len(line) < VALUE_CHARS_MAX + 90 for line in lines) and "x..." in "\n".join(lines)
    assert lines[-1].endswith("1 more; `tidegrid history` has all")


def test_what_a_regeneration_made_is_told_as_that() -> None:
    made = Regenerated(bytes(range(32)), Epoch(40), bytes(range(1, 33)), Epoch(2), (), 0)
    told = lineage(OUT, step(RAW, OUT, run("t", OUT), partition=PartitionId(8), acts_at=Epoch(40)), regenerated=made)
    lines = [found.lstrip("│├└─ ") for found in text(why(told, generation=2, since=Epoch(40)))]
    assert lines[1:] == [
        "generation 2; what it has of before epoch 40 was made by a regeneration",
        "version 4, epoch 5, 1970-01-01 00:00:01 UTC; partition 1, position 20",
        "made by a regeneration, with the code of deployment 000102030405, in force from epoch 40",
        "of what was written in epoch 5; deployment 010203040506, in force from epoch 2, was active then",
        "from partition 8, position 1,400",
        "by trigger t, module mod, line 12; deployment 000102030405, in force from epoch 40",
        'raw write: put raw "a" 1 (version 2, schema 3, epoch 5, 1970-01-01 00:00:00 UTC)',
    ]
    one = made._replace(deployment_then=b"", possible=(RAW,), possible_count=1)
    said = "\n".join(text(why(lineage(OUT, broken="it is past", regenerated=one))))
    for says in ("no code, was active then", "which trigger made it cannot be told: it is past", "from the raw write"):
        assert says in said
    many = made._replace(possible=(RAW,), possible_count=7)
    operand = lineage(row("out", "a", 3, op=""), broken="it is past", regenerated=many)
    said = "\n".join(text(why(operand, merged=True, before=2, uncounted=True)))
    for says in (
        "folded from at least 3 operands",
        "an operand that led to 3 (",
        "perhaps from one of 7 raw writes",
        "6 more",
        "2 before these, and perhaps others",
    ):
        assert says in said
    record = json.loads(json_text(why_record(why(operand, generation=2, since=Epoch(40)))))
    (found,) = record["lineages"]
    assert (record["generation"], record["since"], found["regenerated"]["possible_count"]) == (2, 40, 7)
    assert found["raw"] is None and found["regenerated"]["possible"][0]["map"] == "raw"


def test_a_failure_of_its_own_triggers() -> None:
    failure = TriggerFailure("t", "m", 4, "trigger 't' failed \x1b[2J[red]")
    (said,) = (line for line in text(why(lineage(RAW, failures=(failure,)))) if "missing" in line)
    assert "what its own triggers make of it is missing: trigger 't' failed \\u001b[2J[red]" in said


def test_as_json_it_is_whole() -> None:
    told = why(lineage(OUT, step(RAW, OUT, run("t", OUT), entry=0)), earlier=(Version(3, Epoch(4), 0, None),), before=2)
    record = json.loads(json_text(why_record(told)))
    assert record["key"] == ["a", 1] and record["value"] == 1 and record["before"] == 2
    assert record["earlier"] == [{"value": None, "deleted": True, "version": 3, "epoch": 4, "time_ms": 0}]
    (found,) = record["lineages"]
    assert found["raw"] == {"map": "raw", "key": "a", "op": "put", "value": 1, "version": 2, "schema": 3}
    (only,) = found["steps"]
    assert only["entry"] == 0 and only["deployment"] == bytes(range(32)).hex() and only["untold"] is None
    assert only["triggers"] == [
        {"name": "t", "module": "mod", "line": 9, "yielded_line": 12,
         "output": {"map": "out", "key": ["a", 1], "op": "put", "value": 3}}
    ]  # fmt: skip
