"""`tidegrid why`: where a row comes from."""

from __future__ import annotations

from typing import Annotated

import typer
from tidegrid.grid.app.arguments import AsOfOption, KeyArgument, MapArgument, instant_from, key_from
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.json_text import key_value

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
    if told is None:
        if output.as_json:
            output.record({"map": map_name, "key": key_value(parsed), "found": False})
        else:
            output.note("no version" if as_of is None else "no version as of then")
        return ExitCode.REFUSED
    if output.as_json:
        output.record({"found": True, **why_record(told)})
    else:
        output.show(why_tree(told))
    return ExitCode.OK
