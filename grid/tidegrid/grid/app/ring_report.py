"""What `tidegrid ring` says: where the token is, how far time has come, and who holds it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tidegrid.grid.app.ring_drawing import draw_ring
from tidegrid.grid.app.status_report import held_back_text, hindrances, ring_nodes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from tidegrid.client import MemberStatus

_OF_A_NODE = ("node", "address", "token", "epoch", "closed", "limit", "rounds")


def ring_record(members: Sequence[MemberStatus]) -> dict[str, Any]:
    """`token`: the node that has it; None: on its way, or no node that answers has it. `closed_age_ms`: since the last
    close."""
    answered = [member.status for member in members if member.status is not None]
    newest = max(answered, key=lambda status: (status.closed, -status.closed_age_ms), default=None)
    nodes: list[dict[str, Any]] = []
    for member in members:
        status = member.status
        if status is None:
            nodes.append({"node": member.member.node, "address": member.member.address, "answers": False})
        else:
            partitions = [part.partition for part in status.partitions]
            told = {name: getattr(status, name) for name in _OF_A_NODE}
            nodes.append({**told, "partitions": partitions, "answers": True})
    return {
        "epoch": max((status.epoch for status in answered), default=0),
        "closed": newest.closed if newest is not None else 0,
        "closed_age_ms": newest.closed_age_ms if newest is not None else 0,
        "limit": max((status.limit for status in answered), default=0),
        "tick_ms": newest.tick_ms if newest is not None else 0,
        "token": next((status.node for status in answered if status.token in ("here", "resting")), None),
        "resting": any(status.token == "resting" for status in answered),
        "held_back_by": hindrances(answered),
        "nodes": nodes,
    }


def ring_view(record: dict[str, Any], width: int) -> RenderableType:
    from rich.text import Text

    return Text(
        "\n".join(
            [*_head(record), "", draw_ring(ring_nodes(record), width), "", held_back_text(record["held_back_by"])]
        )
    )


def _head(record: dict[str, Any]) -> list[str]:
    room = record["limit"] - record["epoch"] - 1
    token = (
        f"rests at node {record['token']}: nothing is to be closed" if record["resting"]
        else f"is at node {record['token']}" if record["token"] is not None
        else "is between two nodes"
    )  # fmt: skip
    return [
        f"epoch   {record['epoch']:,}",
        f"closed  {record['closed']:,}, {age_text(record['closed_age_ms'])} ago",
        f"limit   {record['limit']:,}, {room:,} above the epoch",
        f"token   {token}",
    ]


def age_text(milliseconds: int) -> str:
    seconds = milliseconds / 1_000
    if seconds < 10:
        return f"{milliseconds:,} ms"
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7_200 else f"{seconds / 3_600:,.0f} h"
