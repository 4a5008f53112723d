"""`tidegrid why`: where a row comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.arguments import AsOfOption, KeyArgument, MapArgument, instant_from, key_from
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.json_text import json_text, key_value
from tidegrid.grid.model.errors import GridError

if TYPE_CHECKING:
    from tidegrid.client import Grid

ROWS = 10


@client_command()
async def why(
    call: Invocation,
    map_name: MapArgument,
    key: KeyArgument,
    as_of: AsOfOption = None,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=1, help="How many operands, or earlier versions, to show.")
    ] = ROWS,
    generation: Annotated[
        int | None,
        typer.Option(
            "--generation",
            metavar="N",
            min=1,
            help="Of this generation of a derived table, not of the one that readers see.",
        ),
    ] = None,
) -> ExitCode:
    """Tell why a row is so: the raw writes behind it, which trigger of which deployment ran, and the steps between.

    Of the version that is current, or of the one seen as of an epoch. Exit code 1 if the key has had none. What a
    regeneration made is told as that: by which code, from which raw writes, and what was in force when they came.

    \b
    Examples:
      $ tidegrid why flights 2013,1,1,UA,1545,EWR
      $ tidegrid why airports EWR --rows 3
      $ tidegrid why flights 2013,1,1,UA,1545,EWR --as-of 812 --json | jq .lineages
      $ tidegrid why flights 2013,1,1,UA,1545,EWR --generation 1
    """
    from tidegrid.grid.app.why_report import why_record, why_tree

    output = call.output
    async with call.connect() as grid:
        of_map = grid.map(map_name, generation=generation)
        parsed = await key_from(key, of_map)
        told = await of_map.why(parsed, as_of=None if as_of is None else instant_from(as_of), rows=rows)
        derived = (await of_map.spec()).derived
        hint = await _parked_hint(grid, parsed) if told is None and derived and as_of is None else ""
    if told is None:
        if output.as_json:
            output.record({"map": map_name, "key": key_value(parsed), "found": False})
        else:
            when = "" if as_of is None else f" as of {as_of}"
            output.note(f"map {map_name!r} has no version of the key {json_text(key_value(parsed))}{when}{hint}")
        return ExitCode.REFUSED
    if output.as_json:
        output.record({"found": True, **why_record(told)})
    else:
        output.show(why_tree(told))
    return ExitCode.OK


async def _parked_hint(grid: Grid, key: Any) -> str:
    """Where the write may be that should have made the key; nothing where that cannot be asked."""
    try:
        found = await grid.parked()
    except GridError:
        return ""
    alike = next((write for write in found if write.key == key), None)
    if alike is not None:
        return f"; write {alike.id} to {alike.map!r} with this key is parked, without outputs: see `tidegrid parked {alike.map}`"
    if found:
        many = "1 write is" if len(found) == 1 else f"{len(found):,} writes are"
        return f"; {many} parked, without outputs: see `tidegrid parked`"
    return ""
