"""`tidegrid scan`: entries in key order."""

from __future__ import annotations

from typing import Annotated

import typer
from tidegrid.grid.app.arguments import (
    AsOfOption,
    AtLeastOption,
    LinearizableOption,
    MapArgument,
    MaxStalenessOption,
    NoWaitOption,
    entry_line,
    entry_record,
    key_from,
    moment_from,
)
from tidegrid.grid.app.invocation import Invocation, client_command


@client_command()
async def scan(
    call: Invocation,
    map_name: MapArgument,
    prefix: Annotated[
        str | None,
        typer.Option(
            "--prefix", metavar="KEY", help="Only keys that begin with these elements: 2013,1 or \\[2013, 1]."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", min=0, help="At most so many entries.")
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="From the highest key down.")] = False,
    as_of: AsOfOption = None,
    at_least: AtLeastOption = None,
    no_wait: NoWaitOption = False,
    max_staleness: MaxStalenessOption = None,
    linearizable: LinearizableOption = False,
) -> None:
    """Print entries in key order, one per line: key, tab, value.

    Without --as-of each page is read at its own moment; with it, the whole is one consistent cut.

    \b
    Examples:
      $ tidegrid scan flights --prefix 2013,1,1,UA --limit 5
      $ tidegrid scan planes --reverse -n 10
      $ tidegrid scan flights --as-of 812 --json > flights.jsonl
    """
    moment = moment_from(as_of, at_least, no_wait, max_staleness, linearizable)
    output = call.output
    count = 0
    async with call.connect() as grid:
        of_map = grid.map(map_name)
        first = None if prefix is None else await key_from(prefix, of_map, prefix=True)
        async for entry in of_map.scan(first, **moment, limit=limit, reverse=reverse):
            if output.as_json:
                output.record(entry_record(entry))
            else:
                output.answer(entry_line(entry))
            count += 1
    if not count and not output.as_json:
        output.note("no entries")
