"""`tidegrid put`: one write."""

from __future__ import annotations

from typing import Annotated

import typer
from tidegrid.grid.app.arguments import KeyArgument, MapArgument, at, key_from, value_from
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.json_text import key_value
from tidegrid.grid.model.errors import ConfigurationError


@client_command()
async def put(
    call: Invocation,
    map_name: MapArgument,
    key: KeyArgument,
    value: Annotated[str, typer.Argument(metavar="VALUE", show_default=False, help="JSON; - reads it from stdin.")],
    if_version: Annotated[
        int | None,
        typer.Option("--if-version", metavar="N", min=0, help="Only if the key is at this version (0: absent)."),
    ] = None,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Only if the key has no value.")] = False,
    schema: Annotated[
        int | None, typer.Option("--schema", metavar="N", min=0, help="Schema number, if not the map's own.")
    ] = None,
    closed: Annotated[
        bool, typer.Option("--closed", help="Done means closed: the write is in every cut from then on.")
    ] = False,
) -> None:
    """Store a value under a key. Done means durable.

    \b
    Examples:
      $ tidegrid put planes N14228 '{"seats": 149}'
      $ tidegrid put flights.raw 2013,1,1,UA,1545,EWR '{"tailnum": "N14228", "dep_delay": "2"}'
      $ tidegrid put prices '"ACME"' 9.5 --if-version 3
      $ echo '{"seats": 149}' | tidegrid put planes N14228 - --if-absent --json
    """
    if if_absent and if_version is not None:
        raise ConfigurationError("give either --if-version or --if-absent")
    written = value_from(value)
    async with call.connect() as grid:
        to = grid.map(map_name)
        parsed = await key_from(key, to)
        ack = await to.put(
            parsed,
            written,
            if_version=if_version,
            if_absent=if_absent,
            schema=schema,
            ack="closed" if closed else "durable",
        )
    if call.output.as_json:
        told = {"key": key_value(parsed), "version": ack.version, "epoch": ack.epoch}
        call.output.record(told if ack.parked is None else {**told, "parked": ack.parked})
    call.output.answer(f"stored: {at(ack.version, ack.epoch)}")
    if ack.parked is not None:
        call.output.note(f"parked, without outputs: {ack.parked}")
