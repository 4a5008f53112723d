"""`tidegrid deployments`: the trigger code there has been."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tidegrid.grid.app.invocation import Invocation, client_command

if TYPE_CHECKING:
    from tidegrid.client import DeploymentEntry


@client_command()
async def deployments(call: Invocation) -> None:
    """List the deployments of trigger code, the newest first: what, when, by whom, and from which epoch on.

    \b
    Examples:
      $ tidegrid deployments
      $ tidegrid deployments --json | jq -r 'select(.state == "active").hash'
    """
    from tidegrid.grid.app.plan_report import short

    async with call.connect(wait_ready=False) as grid:
        found = (await grid.deployments())[::-1]
    output = call.output
    if output.as_json:
        for entry in found:
            output.record(_record(entry))
        return
    if not found:
        output.note("no code is deployed; `tidegrid deploy flights.py` does that")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("hash", "state", "from epoch", "when", "by", "modules"):
        table.add_column(column, overflow="fold", justify="right" if column == "from epoch" else "left")
    for entry in found:
        table.add_row(
            short(entry.hash),
            entry.state,
            f"{entry.epoch:,}",
            _when(entry.time_ms) or "?",
            entry.by or "?",
            ", ".join(entry.modules) or "none",
        )
    output.show(table)


def _record(entry: DeploymentEntry) -> dict[str, Any]:
    return {
        "hash": entry.hash.hex(),
        "state": entry.state,
        "epoch": entry.epoch,
        "time_ms": entry.time_ms or None,
        "time": _when(entry.time_ms) or None,
        "by": entry.by or None,
        "modules": list(entry.modules),
        "python": entry.python,
        "requirements": list(entry.requirements),
        "maps": list(entry.maps),
    }


def _when(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}" if time_ms else ""
