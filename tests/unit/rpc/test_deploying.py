"""What several nodes found as one, and what other checks of the source say."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import NamedTuple

import pytest
from tidegrid.grid.rpc.deploying import source_findings
from tidegrid.grid.rpc.sample_sums import summed
from tidegrid.triggers.deployment import Module
from tidegrid.v1.grid_pb2 import OutputChange, SampleDifference, SampleExample


def part(name: str, writes: int, *outputs: OutputChange, examples: int = 0) -> SampleDifference:
    shown = [SampleExample(key=f"{name}{number}") for number in range(examples)]
    return SampleDifference(map=name, writes=writes, same=1, rejected_after=2, outputs=outputs, examples=shown)


def test_parts_of_several_nodes() -> None:
    one = [part("a", 3, OutputChange(map="t", before=1, changed=1, columns={"x": 1}), examples=2), part("b", 1)]
    other = [
        part(
            "a", 4, OutputChange(map="t", after=5, changed=2, columns={"x": 2, "y": 1}), OutputChange(map="s", added=1),
            examples=3,
        )
    ]  # fmt: skip
    a, b = summed([one, [], other])
    assert (a.map, a.writes, a.same, a.rejected_after, len(a.examples)) == ("a", 7, 2, 4, 3)
    table, stream = a.outputs
    assert (table.before, table.after, table.changed, dict(table.columns)) == (1, 5, 3, {"x": 3, "y": 1})
    assert (stream.map, stream.added) == ("s", 1)
    assert (b.map, b.writes) == ("b", 1)
    assert summed([]) == []


def test_checks_of_the_contract_are_asked_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finding(NamedTuple):
        module: str
        line: int
        rule: str
        words: str

    contract = ModuleType("tidegrid.triggers.contract")
    contract.__dict__["findings"] = lambda name, source: [Finding(name, 3, "clock", f"of {source}")]
    modules = [Module("m", "x"), Module("n", "y")]
    monkeypatch.setitem(sys.modules, "tidegrid.triggers.contract", contract)
    found = [(one.module, one.line, one.rule, one.words) for one in source_findings(modules)]
    assert found == [("m", 3, "clock", "of x"), ("n", 3, "clock", "of y")]
