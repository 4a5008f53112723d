"""`tidegrid status`: the grid at a glance."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.status_report import status_record, status_view

if TYPE_CHECKING:
    from rich.console import RenderableType
    from tidegrid.client import Grid


@client_command()
async def status(
    call: Invocation,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, and show it anew, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, help="With --watch: how often.")] = 1.0,
) -> ExitCode:
    """Show nodes, ring, epochs, partitions, followers and their lag, and who holds time back.

    Exit code 3 if a node of the grid does not answer.

    \b
    Examples:
      $ tidegrid status
      $ tidegrid status --watch
      $ tidegrid status --json | jq .closed
    """
    async with call.connect(wait_ready=False) as grid:
        if watch:
            return await _watch(call, grid, every)
        record = await _ask(grid)
    _show(call, record)
    return _code(record)


async def _ask(grid: Grid) -> dict[str, Any]:
    await grid.refresh()
    return status_record(grid.id, grid.partitions, await grid.status())


async def _watch(call: Invocation, grid: Grid, every: float) -> ExitCode:
    output = call.output
    console = output.console()
    if output.as_json or not console.is_terminal:
        while True:
            _show(call, await _ask(grid))
            output.flush()
            await asyncio.sleep(every)
    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_group(await _ask(grid), console.width), refresh=True)
            await asyncio.sleep(every)


def _show(call: Invocation, record: dict[str, Any]) -> None:
    output = call.output
    if output.as_json:
        output.record(record)
    else:
        output.show(_group(record, output.console().width))


def _group(record: dict[str, Any], width: int) -> RenderableType:
    from rich.console import Group

    return Group(*status_view(record, width))


def _code(record: dict[str, Any]) -> ExitCode:
    return ExitCode.OK if all(node["answers"] for node in record["nodes"]) else ExitCode.NO_ANSWER
