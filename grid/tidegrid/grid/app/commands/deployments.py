"""`tidegrid deployments`: the trigger code there has been."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.invocation import Invocation, client_command

if TYPE_CHECKING:
    from tidegrid.client import DeploymentEntry


@client_command()
async def deployments(
    call: Invocation,
    resume: Annotated[
        str | None,
        typer.Option(metavar="TRIGGER", show_default=False, help="Run a trigger again that went over its time budget."),
    ] = None,
) -> None:
    """List the deployments of trigger code, the newest first: what, when, by whom, and from which epoch on.

    \b
    Examples:
      $ tidegrid deployments
      $ tidegrid deployments --resume translate
      $ tidegrid deployments --json | jq -r 'select(.state == "active").hash'
    """
    from tidegrid.grid.app.plan_report import short

    output = call.output
    async with call.connect(wait_ready=False) as grid:
        if resume is not None:
            resumed = await grid.resume(resume)
            output.note(f"{', '.join(resumed)} runs again" if resumed else f"no trigger {resume!r} is suspended")
            return
        found = (await grid.deployments())[::-1]
        members = await grid.status()
    suspended = [(one.status.node, s) for one in members if one.status is not None for s in one.status.suspended]
    for node, one in suspended:
        output.note(f"node {node}: trigger {one.trigger!r} has been suspended since {_when(one.since_ms)}: {one.words}")
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
