"""A plan in words: what is only in plans that have something the matter with them."""

from __future__ import annotations

from tidegrid.grid.app.plan_report import finding_line, plan_lines, plan_record, plan_summary
from tidegrid.v1 import control_pb2, errors_pb2, grid_pb2


def plan() -> grid_pb2.DeployPlan:
    spec = control_pb2.MapSpec(name="raw", kind=1, schema=2, derived=True)
    return grid_pb2.DeployPlan(
        id="abc",
        hash=b"\x01" * 32,
        modules=["m"],
        requirements=["numpy>=1"],
        triggers=[
            grid_pb2.TriggerChange(name="gone", change="removed", on=["raw"]),
            grid_pb2.TriggerChange(name="kept", change="same", on=["raw"], emits=["t"]),
            grid_pb2.TriggerChange(name="moved", change="module", on=["raw"], emits=["t"]),
        ],
        maps=[
            grid_pb2.MapChange(spec=spec, change="schema", followers=2),
            grid_pb2.MapChange(spec=control_pb2.MapSpec(name="now", kind=1, derived=True), change="derived"),
            grid_pb2.MapChange(spec=control_pb2.MapSpec(name="unused", kind=3), change="same"),
        ],
        findings=[
            grid_pb2.PlanFinding(rule="clock", module="m", line=3, words="use write.time_ms"),
            grid_pb2.PlanFinding(rule="orphan", words="map 't'"),
        ],
        nodes=[
            grid_pb2.NodeVerdict(node=0),
            grid_pb2.NodeVerdict(node=2, error=errors_pb2.Error(code="TRIGGER_MODULE", message="no numpy")),
        ],
        samples=[
            grid_pb2.SampleDifference(map="raw", writes=5, same=3, rejected_after=2, unhandled=1),
            grid_pb2.SampleDifference(map="other", writes=2, same=2),
        ],
    )


def test_what_people_have_to_see() -> None:
    text = "\n".join(plan_lines(plan()))
    for words in (
        "plan abc: m (010101010101), the first code of this grid",
        "- gone",
        "raw -> nothing",
        "= 1",
        "its module changed",
        "2 subscriptions or replicas will see it; schema 2 from now on",
        "from now on written by triggers alone",
        "5 recent writes to raw: 2 would come out differently",
        "rejected: 0 by the code that is active, 2 by this",
        "1 with a schema number that no trigger handles",
        "2 recent writes to other: the same would come out",
        "m, line 3: [clock] use write.time_ms",
        "  [orphan] map 't'",
        "requires numpy>=1",
        "node 0 can load it",
        "node 2 CANNOT load it: no numpy",
    ):
        assert words in text, words
    assert "kept" not in text and "unused" not in text, "what stays as it is takes no line"


def test_in_one_line() -> None:
    assert plan_summary(plan()) == "-gone, ~moved, ~map raw, ~map now, 2 of 7 recent writes come out differently"
    assert plan_summary(grid_pb2.DeployPlan()) == "no trigger changes"
    assert finding_line(plan().findings[1]) == "[orphan] map 't'"


def test_what_was_not_tried_is_said() -> None:
    told = plan()
    told.samples.add(map="apart", untried="runs in a worker process")
    assert "recent writes to apart: not tried: runs in a worker process" in list(plan_lines(told))
    assert plan_summary(told).endswith("recent writes to apart were not tried")
    assert [sample["untried"] for sample in plan_record(told)["samples"]] == [None, None, "runs in a worker process"]


def test_as_data() -> None:
    record = plan_record(plan())
    assert record["nodes"][1]["error"] == {"code": "TRIGGER_MODULE", "message": "no numpy"}
    assert record["findings"][0] == {"rule": "clock", "module": "m", "line": 3, "words": "use write.time_ms"}
    assert record["replaces"] is None and record["samples"][0]["unhandled"] == 1
