"""`tidegrid ring`: time going round."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.ring_report import ring_record, ring_view

if TYPE_CHECKING:
    from tidegrid.client import Grid


@client_command()
async def ring(
    call: Invocation,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.02, help="How often it is shown.")] = 0.2,
) -> ExitCode:
    """Watch the ring: where the token is, the epoch, what is closed, and who holds time back.

    Goes on until Ctrl-C. Exit code 3 with --once if a node of the grid does not answer.

    \b
    Examples:
      $ tidegrid ring
      $ tidegrid ring --once
      $ tidegrid ring --every 1 --json | jq .closed
    """
    async with call.connect(wait_ready=False) as grid:
        if not once:
            return await _watch(call, grid, every)
        record = await _ask(grid)
    _show(call, record)
    return ExitCode.OK if all(node["answers"] for node in record["nodes"]) else ExitCode.NO_ANSWER


async def _ask(grid: Grid) -> dict[str, Any]:
    await grid.refresh()
    return ring_record(await grid.status())


def _show(call: Invocation, record: dict[str, Any]) -> None:
    output = call.output
    if output.as_json:
        output.record(record)
    else:
        output.show(ring_view(record, output.console().width))


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
            live.update(ring_view(await _ask(grid), console.width), refresh=True)
            await asyncio.sleep(every)
