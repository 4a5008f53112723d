from __future__ import annotations

import pytest
from rich.console import Console
from tidegrid.client import MemberStatus
from tidegrid.grid.app.ring_report import age_text, ring_record, ring_view
from tidegrid.grid.app.status_report import status_record, status_view
from tidegrid.grid.model.errors import UnavailableError
from tidegrid.v1 import control_pb2, grid_pb2


def member(node: int, **told: object) -> MemberStatus:
    about = control_pb2.Member(node=node, address=f"host{node}:7411")
    if not told:
        return MemberStatus(about, None, UnavailableError("nothing answers", address=about.address))
    status = grid_pb2.NodeStatus(node=node, address=about.address, **told)  # type: ignore[arg-type]
    return MemberStatus(about, status, None)


HELD = [
    member(0, token="elsewhere", epoch=12, closed=10, limit=74, closed_age_ms=900, tick_ms=20),
    member(
        1, token="here", epoch=12, closed=10, limit=74, closed_age_ms=910,
        partitions=[grid_pb2.PartitionStatus(partition=3)], held_back_by="words",
        hindrance=grid_pb2.Hindrance(partition=3, node=1, epoch=11, age_ms=850, words="partition 3 of node 1 waits"),
    ),
    member(
        2, token="elsewhere", epoch=11, closed=9, limit=73, closed_age_ms=950,
        hindrance=grid_pb2.Hindrance(node=1, age_ms=950, words="node 1 does not take the token"),
    ),
    member(3),
]  # fmt: skip


def text(view: object) -> str:
    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_who_holds_time_back_is_named_the_oldest_first() -> None:
    partition = {"partition": 3, "node": 1, "epoch": 11, "age_ms": 850, "words": "partition 3 of node 1 waits"}
    node = {"partition": None, "node": 1, "epoch": 0, "age_ms": 950, "words": "node 1 does not take the token"}
    for record in (ring_record(HELD), status_record(b"g" * 16, 16, HELD)):
        assert record["held_back_by"] == [node, partition]
    shown = text(ring_view(ring_record(HELD), 120))
    assert "held back by node 1 does not take the token; partition 3 of node 1 waits" in shown
    assert "held back by node 1" in "".join(map(text, status_view(status_record(b"g" * 16, 16, HELD), 120)))


def test_who_holds_history_is_told_by_who_has_read_most_of_the_control_log() -> None:
    old = grid_pb2.HoldStatus(name="gone", owner="x", epoch=1)
    low = grid_pb2.HoldStatus(name="report", owner="ops", epoch=3, age_ms=125_000, left_ms=4_500)
    high = grid_pb2.HoldStatus(name="copy", owner="[/host], process 7", epoch=8, age_ms=1_000)
    seen = grid_pb2.HoldStatus(name="report", owner="ops", epoch=3, holds_back=True)
    members = [member(0, control=5, holds=[old, seen]), member(1, control=9, holds=[low, high]), member(2)]
    record = status_record(b"g" * 16, 16, members)
    assert record["holds"] == [
        {"name": "report", "owner": "ops", "epoch": 3, "age_ms": 125_000, "left_ms": 4_500, "holds_back": True},
        {"name": "copy", "owner": "[/host], process 7", "epoch": 8, "age_ms": 1_000, "left_ms": 0, "holds_back": False},
    ]
    shown = "".join(map(text, status_view(record, 120))).splitlines()
    report = next(line for line in shown if line.startswith("report"))
    assert all(words in report for words in ("ops", "2 min", "4 s", "held back by this"))
    assert "[/host], process 7" in "".join(shown), "free text, no markup"
    assert "expired" in next(line for line in shown if line.startswith("copy")) and "gone" not in "".join(shown)
    assert status_record(b"g" * 16, 16, [member(2)])["holds"] == []


def test_how_far_time_has_come() -> None:
    record = ring_record(HELD)
    told = {name: record[name] for name in ("epoch", "closed", "closed_age_ms", "limit", "token", "resting", "tick_ms")}
    assert told == {
        "epoch": 12, "closed": 10, "closed_age_ms": 900, "limit": 74, "token": 1, "resting": False, "tick_ms": 20,
    }  # fmt: skip
    assert [(node["node"], node["answers"]) for node in record["nodes"]] == [
        (0, True),
        (1, True),
        (2, True),
        (3, False),
    ]
    assert record["nodes"][1]["partitions"] == [3]
    shown = text(ring_view(record, 120))
    assert "10, 900 ms ago" in shown and "61 above the epoch" in shown and "is at node 1" in shown
    assert "node 1 ● token" in shown and "no answer" in shown


def test_a_token_that_rests_and_one_on_its_way() -> None:
    resting = ring_record([member(0, token="resting", epoch=2, closed=1, limit=9)])
    assert resting["token"] == 0 and resting["resting"] and resting["held_back_by"] == []
    shown = text(ring_view(resting, 120))
    assert "rests at node 0" in shown and "nothing holds time back" in shown
    assert "between two nodes" in text(ring_view(ring_record([member(0, token="elsewhere", epoch=2)]), 120))


def test_when_nobody_answers() -> None:
    record = ring_record([member(0)])
    assert (record["closed"], record["token"]) == (0, None)
    assert "no answer" in text(ring_view(record, 120))


@pytest.mark.parametrize(
    ("age", "said"), [(0, "0 ms"), (9_999, "9,999 ms"), (15_000, "15 s"), (600_000, "10 min"), (36_000_000, "10 h")]
)
def test_ages(age: int, said: str) -> None:
    assert age_text(age) == said
