"""`tidegrid get`: one read."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from tidegrid.grid.app.arguments import (
    AsOfOption,
    AtLeastOption,
    KeyArgument,
    LinearizableOption,
    MapArgument,
    MaxStalenessOption,
    NoWaitOption,
    at,
    entry_record,
    key_from,
    moment_from,
)
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.json_text import json_text, key_value


@client_command()
async def get(
    call: Invocation,
    map_name: MapArgument,
    key: KeyArgument,
    as_of: AsOfOption = None,
    at_least: AtLeastOption = None,
    no_wait: NoWaitOption = False,
    max_staleness: MaxStalenessOption = None,
    linearizable: LinearizableOption = False,
) -> ExitCode:
    """Print the value of a key as JSON; exit code 1 if it has none.

    Without options: the latest, which includes all that was acknowledged before.

    \b
    Examples:
      $ tidegrid get planes N14228
      $ tidegrid get flights 2013,1,1,UA,1545,EWR
      $ tidegrid get flights '\\[2013, 1, 1, "UA", 1545, "EWR"]' --as-of 812
      $ tidegrid get prices '"ACME"' --as-of 2026-01-31T12:00:00Z --json
    """
    moment = moment_from(as_of, at_least, no_wait, max_staleness, linearizable)
    async with call.connect() as grid:
        of_map = grid.map(map_name)
        parsed = await key_from(key, of_map)
        entry = await of_map.get(parsed, **moment)
    output = call.output
    if entry is None:
        if output.as_json:
            output.record({"key": key_value(parsed), "found": False})
        else:
            output.note("no value")
        return ExitCode.REFUSED
    if output.as_json:
        output.record({**entry_record(entry), "found": True})
        return ExitCode.OK
    output.answer(json_text(entry.value, indent=2 if sys.stdout.isatty() else None))
    written = datetime.fromtimestamp(entry.time_ms / 1000, UTC)
    output.note(f"{at(entry.version, entry.epoch)}, written {written:%Y-%m-%d %H:%M:%S} UTC")
    return ExitCode.OK
