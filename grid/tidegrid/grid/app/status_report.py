"""What `tidegrid status` says, made of what each node says of itself: as one JSON object, or as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from tidegrid.grid.app.ring_drawing import RingNode, draw_ring

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from tidegrid.client import MemberStatus
    from tidegrid.v1 import grid_pb2

_TOKEN = {"here": "● token", "resting": "◌ token rests"}


def status_record(grid_id: bytes, partitions: int, members: Sequence[MemberStatus]) -> dict[str, Any]:
    answered = [member.status for member in members if member.status is not None]
    closed = max((status.closed for status in answered), default=0)
    nodes: list[dict[str, Any]] = []
    for member in members:
        if member.status is not None:
            nodes.append({**plain(member.status), "answers": True})
        else:
            assert member.error is not None
            error = {"code": member.error.code, "message": member.error.message}
            nodes.append(
                {"node": member.member.node, "address": member.member.address, "answers": False, "error": error}
            )
    return {
        "grid": grid_id.hex(),
        "partitions": partitions,
        "closed": closed,
        "epoch": max((status.epoch for status in answered), default=0),
        "horizon": max((status.horizon for status in answered), default=0),
        "held_back_by": hindrances(answered),
        "holds": holds(answered),
        "suspended": [{"node": status.node, **plain(one)} for status in answered for one in status.suspended],
        "parked": parked_counts(answered),
        "followers": [
            {"node": status.node, **plain(feed), "lag_epochs": max(0, closed - feed.after)}
            for status in answered
            for feed in status.feeds
        ],
        "nodes": nodes,
    }


def status_view(record: dict[str, Any], width: int) -> list[RenderableType]:
    from rich.text import Text

    held = record["held_back_by"]
    head = [
        f"grid {record['grid'][:8]}: epoch {record['epoch']:,}, closed up to {record['closed']:,}, history from {record['horizon']:,}",
        held_back_text(held),
    ]
    view: list[RenderableType] = [
        Text("\n".join(head)),
        Text(""),
        Text(draw_ring(ring_nodes(record), width)),
        Text(""),
        _nodes(record),
    ]
    silent = [node for node in record["nodes"] if not node["answers"]]
    view += [
        Text(f"node {node['node']} at {node['address']}: {node['error']['message']}", style="red") for node in silent
    ]
    view += [Text(""), _partitions(record), Text(""), _followers(record)]
    if record["holds"]:
        view += [Text(""), holds_table(record["holds"])]
    for one in record["suspended"]:
        words = f"node {one['node']}: trigger {one['trigger']!r}: {one['words']}"
        view += [Text(""), Text(words, style="red")]
    if record["parked"]:
        view += [Text(""), _parked(record)]
    return view


def parked_counts(answered: Sequence[grid_pb2.NodeStatus]) -> dict[str, int]:
    """How many writes of each map are parked."""
    counts: Counter[str] = Counter()
    for status in answered:
        for partition in status.partitions:
            counts.update({found.map: found.writes for found in partition.parked})
    return dict(sorted(counts.items()))


def hindrances(answered: Sequence[grid_pb2.NodeStatus]) -> list[dict[str, Any]]:
    """Who holds time back, the oldest first: partition (None: all of a node's), node, epoch, age_ms, words."""
    found = [plain(status.hindrance) for status in answered if status.HasField("hindrance")]
    return sorted(found, key=lambda hindrance: -hindrance["age_ms"])


def holds(answered: Sequence[grid_pb2.NodeStatus]) -> list[dict[str, Any]]:
    """Who holds history, the oldest epoch first, as told by who has read most of the control log.

    `holds_back`: without it the horizon would be further on, as far as any node has seen.
    """
    newest = max(answered, key=lambda status: status.control, default=None)
    back = {hold.name for status in answered for hold in status.holds if hold.holds_back}
    told = newest.holds if newest is not None else ()
    return [{**plain(hold), "holds_back": hold.name in back} for hold in told]


def held_back_text(held: Sequence[dict[str, Any]]) -> str:
    if not held:
        return "nothing holds time back"
    return f"time is held back by {'; '.join(hindrance['words'] for hindrance in held)}"


def ring_nodes(record: dict[str, Any]) -> list[RingNode]:
    nodes = []
    for node in sorted(record["nodes"], key=lambda node: node["node"]):
        name = f"node {node['node']}"
        if not node["answers"]:
            nodes.append(RingNode((name, "no answer")))
            continue
        token = _TOKEN.get(node["token"], "")
        nodes.append(
            RingNode(
                (
                    f"{name} {token}".rstrip(),
                    f"epoch {node['epoch']:,}",
                    f"{len(node['partitions'])} partitions",
                ),
                token=bool(token),
            )
        )
    return nodes


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        words = column.startswith("<")
        table.add_column(column.removeprefix("<"), justify="left" if words else "right", overflow="fold")
    return table


def _nodes(record: dict[str, Any]) -> Table:
    table = _table("node", "<address", "epoch", "closed", "writes", "outputs", "copies", "<log")
    for node in record["nodes"]:
        if node["answers"]:
            table.add_row(
                str(node["node"]), node["address"], f"{node['epoch']:,}", f"{node['closed']:,}", f"{node['writes']:,}",
                f"{node['outputs']:,}", f"{node['reference_epoch']:,}",
                "FULL" if node["storage_full"] else "ok",
            )  # fmt: skip
    return table


def _partitions(record: dict[str, Any]) -> Table:
    table = _table(
        "partition",
        "node",
        "<state",
        "term",
        "stamp",
        "entries",
        "history",
        "queued",
        "sessions",
        "to deliver",
        "arriving",
    )
    rows = [(part, node["node"]) for node in record["nodes"] if node["answers"] for part in node["partitions"]]
    for part, node in sorted(rows, key=lambda row: row[0]["partition"]):
        table.add_row(
            str(part["partition"]), str(node), part["state"], str(part["term"]), f"{part['stamp']:,}",
            f"{part['entries']:,}", size_text(part["history_bytes"]), f"{part['queued_writes']:,}", f"{part['sessions']:,}",
            f"{part['undelivered']:,}", f"{part['delivering']:,}",
        )  # fmt: skip
    return table


def _parked(record: dict[str, Any]) -> Table:
    table = _table("<parked writes of", "writes")
    for name, count in record["parked"].items():
        table.add_row(name, f"{count:,}")
    return table


def _followers(record: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    if not record["followers"]:
        return Text("no followers")
    table = _table("<follower", "<map", "node", "at epoch", "behind", "<reads from")
    for feed in record["followers"]:
        table.add_row(
            feed["peer"], feed["map"], str(feed["node"]), f"{feed['after']:,}", f"{feed['lag_epochs']:,}",
            "log" if feed["from_log"] else "memory",
        )  # fmt: skip
    return table


def holds_table(held: Sequence[dict[str, Any]]) -> Table:
    from rich.text import Text

    table = _table("<hold", "<owner", "epoch", "age", "expires in", "<history")
    for hold in held:
        table.add_row(
            Text(hold["name"]), Text(hold["owner"]), f"{hold['epoch']:,}", seconds_text(hold["age_ms"]),
            seconds_text(hold["left_ms"]) if hold["left_ms"] else "expired",
            "held back by this" if hold["holds_back"] else "",
        )  # fmt: skip
    return table


def seconds_text(milliseconds: int) -> str:
    seconds = milliseconds // 1_000
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"


def size_text(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def plain(message: Message) -> dict[str, Any]:
    """All fields, unset ones too, numbers as numbers (protobuf's own JSON makes strings of 64-bit ones)."""
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, str | bytes | int | float | bool):
            fields[field.name] = None if field.has_presence and not message.HasField(field.name) else value
        elif isinstance(value, Message):
            fields[field.name] = plain(value) if message.HasField(field.name) else None
        else:
            fields[field.name] = [plain(item) for item in value]
    return fields
