"""`tidegrid holds list` and `tidegrid holds release`."""

from __future__ import annotations

from typing import Annotated

import typer
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.status_report import holds as holds_of
from tidegrid.grid.app.status_report import holds_table

holds = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Who keeps old epochs readable; end a hold that is in the way."
)


@client_command()
async def list_holds(call: Invocation) -> None:
    """List the holds on history, the oldest epoch first.

    \b
    Examples:
      $ tidegrid holds list
      $ tidegrid holds list --json | jq -r 'select(.holds_back).owner'
    """
    async with call.connect(wait_ready=False) as grid:
        members = await grid.status()
    found = holds_of([member.status for member in members if member.status is not None])
    output = call.output
    if output.as_json:
        for hold in found:
            output.record(hold)
    elif found:
        output.show(holds_table(found))
    else:
        output.note("there are no holds; history goes as it gets old")


@client_command()
async def release(
    call: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="As `tidegrid holds list` says it.")],
) -> ExitCode:
    """End a hold, whoever has it. Its owner is told at its next use; what it held may go then.

    Exit code 1 if there is no hold of that name.

    \b
    Examples:
      $ tidegrid holds release "nightly report"
    """
    async with call.connect(wait_ready=False) as grid:
        members = await grid.status()
        known = {hold.name for member in members if member.status is not None for hold in member.status.holds}
        if name in known:
            await grid.release_hold(name)
    if name not in known:
        call.output.note(f"there is no hold {name!r}")
        return ExitCode.REFUSED
    if call.output.as_json:
        call.output.record({"released": name})
    call.output.answer(f"released {name}")
    return ExitCode.OK


holds.command("list")(list_holds)
holds.command("release")(release)
