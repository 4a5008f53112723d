"""What is said of a regeneration, and while it goes on."""

from __future__ import annotations

import pytest
from tidegrid.grid.app.output import Output
from tidegrid.grid.app.regeneration_progress import RegenerationBar, done, duration, words
from tidegrid.grid.app.regeneration_report import report_lines, report_record
from tidegrid.v1.grid_pb2 import (
    GenerationDifference,
    GenerationExample,
    RefusedWrite,
    RegenerationProgress,
    RegenerationReport,
)

REPORT = RegenerationReport(
    hash=b"\x01" * 32, acts_at=900, as_of=1000, writes=5_000, fresh_writes=5_000, outputs=7000, rejected=2, failed=1, parked=3, redriven=4,
    refused=[RefusedWrite(map="raw", key="(1,)", message="trigger 'make' rejected key (1,): no", failed=False)],
    maps=[
        GenerationDifference(
            map="out", before=10, after=11, added=2, removed=1, changed=3, columns={"a": 1, "b": 3},
            examples=[GenerationExample(key="(9,)", after="{'a': 1}")],
        ),
        GenerationDifference(map="sums", before=4, after=4),
    ],
    seconds=2.5,
)  # fmt: skip


def test_for_people() -> None:
    text = "\n".join(report_lines(REPORT))
    for said in (
        "5,000 raw writes and routed outputs of before epoch 900 were run through 010101010101 in 2.5 s (2,000/s), with 7,000 outputs",
        "2 were rejected and 1 failed: nothing comes of them",
        "raw: trigger 'make' rejected key (1,): no",
        "3 were parked and stay so",
        "4 had been redriven",
        "out: 10 rows live, 11 regenerated; 2 added, 1 removed, 3 changed, as of epoch 1,000",
        "columns: b in 3, a in 1",
        "(9,): nothing  ->  {'a': 1}",
        "sums: 4 rows, all the same, as of epoch 1,000",
    ):
        assert said in text


def test_for_scripts() -> None:
    record = report_record(REPORT)
    assert record["maps"][0]["columns"] == {"a": 1, "b": 3} and record["hash"] == "01" * 32
    assert (record["parked"], record["seconds"], record["refused"][0]["failed"]) == (3, 2.5, False)


def test_how_far_it_is() -> None:
    found = RegenerationProgress(
        step="raw writes", bytes_done=250, bytes=1000, tasks_done=2, tasks=8, writes=3000, fresh_writes=2000,
        resumed=1, step_seconds=10, seconds=20,
    )  # fmt: skip
    assert done(found) == 0.25
    assert (
        words(found)
        == "2 of 8 partitions, 3,000 writes, 100/s, 1 parts were done already, about 30 s left of this step"
    )
    assert done(RegenerationProgress(tasks_done=1, tasks=4)) == 0.25 and done(RegenerationProgress()) == 0.0
    assert [duration(seconds) for seconds in (59, 300, 7300)] == ["59 s", "5 min", "2 h 1 min"]


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegrid.grid.app.regeneration_progress.LINE_SECONDS", 0.0)
    with RegenerationBar(Output(as_json=False)) as bar:
        bar(RegenerationProgress(step="comparing", tasks_done=1, tasks=4))
    assert "comparing (25 %): 1 of 4 partitions" in capsys.readouterr().err
