"""`tidegrid history`: what a key has been."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from tidegrid.grid.app.arguments import KeyArgument, MapArgument, key_from
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.json_text import json_text


@client_command()
async def history(
    call: Invocation,
    map_name: MapArgument,
    key: KeyArgument,
    after: Annotated[
        int, typer.Option("--after", metavar="EPOCH", min=0, help="Only versions of later epochs (exclusive).")
    ] = 0,
    through: Annotated[
        int | None, typer.Option("--through", metavar="EPOCH", min=1, help="Only up to this epoch (inclusive).")
    ] = None,
) -> ExitCode:
    """Print every version of a key, oldest first: version, epoch, time, value.

    Deletions too, and of any age: what memory no longer holds is looked for in the log. Exit code 1 if there is none.

    \b
    Examples:
      $ tidegrid history planes N14228
      $ tidegrid history flights 2013,1,1,UA,1545,EWR --after 812 --json
    """
    output = call.output
    count = 0
    async with call.connect() as grid:
        of_map = grid.map(map_name)
        async for version in of_map.history(await key_from(key, of_map), after=after, through=through):
            if output.as_json:
                output.record(
                    {
                        "version": version.version,
                        "epoch": version.epoch,
                        "time_ms": version.time_ms,
                        "deleted": version.deleted,
                        "value": version.value,
                    }
                )
            else:
                written = datetime.fromtimestamp(version.time_ms / 1000, UTC)
                value = "(deleted)" if version.deleted else json_text(version.value)
                output.answer(f"{version.version}\t{version.epoch}\t{written:%Y-%m-%d %H:%M:%S}Z\t{value}")
            count += 1
    if not count and not output.as_json:
        output.note("no versions")
    return ExitCode.OK if count else ExitCode.REFUSED
