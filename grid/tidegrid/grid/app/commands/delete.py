"""`tidegrid delete`: one delete."""

from __future__ import annotations

from typing import Annotated

import typer
from tidegrid.grid.app.arguments import KeyArgument, MapArgument, at, key_from
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.json_text import key_value


@client_command()
async def delete(
    call: Invocation,
    map_name: MapArgument,
    key: KeyArgument,
    if_version: Annotated[
        int | None, typer.Option("--if-version", metavar="N", min=0, help="Only if the key is at this version.")
    ] = None,
    schema: Annotated[
        int | None, typer.Option("--schema", metavar="N", min=0, help="Schema number, if not the map's own.")
    ] = None,
) -> None:
    """Remove the value of a key. That is a version too; what it was stays readable with --as-of.

    \b
    Examples:
      $ tidegrid delete planes N14228
      $ tidegrid delete planes N14228 --if-version 2
    """
    async with call.connect() as grid:
        of_map = grid.map(map_name)
        parsed = await key_from(key, of_map)
        ack = await of_map.delete(parsed, if_version=if_version, schema=schema)
    if call.output.as_json:
        call.output.record({"key": key_value(parsed), "version": ack.version, "epoch": ack.epoch})
    call.output.answer(f"deleted: {at(ack.version, ack.epoch)}")
