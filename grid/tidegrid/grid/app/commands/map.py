"""`tidegrid map create` and `tidegrid map list`."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import typer
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.model.maps import KeyField, MapKind, MapSpec

maps = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Declare maps, or list those there are.")


class Kind(enum.StrEnum):
    TABLE = "table"
    STREAM = "stream"
    REFERENCE = "reference"


@client_command()
async def create(
    call: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="Letters, digits, _ - and .")],
    key: Annotated[
        str,
        typer.Option(
            "--key",
            "-k",
            metavar="FIELD[:TYPE],...",
            help="The elements of a key, each of type str, int, float, bool, bytes or any. Without: any key goes.",
        ),
    ] = "",
    kind: Annotated[
        Kind,
        typer.Option(
            "--kind",
            help="table: state and its changes; stream: events only; reference: small, and copied to every node, so that triggers can look it up.",
        ),
    ] = Kind.TABLE,
    affinity: Annotated[
        int,
        typer.Option(
            "--affinity",
            metavar="N",
            min=0,
            help="Keys with equal first N elements share a partition, where a trigger sees them all. 0: the whole key.",
        ),
    ] = 0,
    schema: Annotated[
        int, typer.Option("--schema", metavar="N", min=0, help="Schema number of writes that name none.")
    ] = 0,
) -> None:
    """Declare a map, and return when it takes writes. Once more is no error if it is the same.

    \b
    Examples:
      $ tidegrid map create prices --key symbol
      $ tidegrid map create flights.raw --key year:int,month:int,day:int,carrier,flight:int,origin
      $ tidegrid map create planes --key tailnum --kind reference
    """
    fields = tuple(KeyField.parse(part.strip()) for part in key.split(",") if part.strip())
    spec = MapSpec(name, MapKind[kind.name], fields, affinity, schema=schema).validate()
    async with call.connect() as grid:
        made = await (await grid.create_map(spec)).spec()
    if call.output.as_json:
        call.output.record(_record(made))
    call.output.answer(f"map {made.name}: {made.kind.name.lower()}, key {_key_text(made)}")


@client_command()
async def list_maps(call: Invocation) -> None:
    """List the maps of the grid.

    \b
    Examples:
      $ tidegrid map list
      $ tidegrid map list --json
    """
    async with call.connect() as grid:
        found = sorted(grid.maps.values(), key=lambda spec: spec.name)
    output = call.output
    if output.as_json:
        for spec in found:
            output.record(_record(spec))
        return
    if not found:
        output.note("there are no maps; declare one with `tidegrid map create`, or in a trigger module")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("map", "kind", "key", "affinity", "written by"):
        table.add_column(column, overflow="fold")
    for spec in found:
        affinity = str(spec.affinity) if spec.affinity else "whole key"
        table.add_row(
            spec.name, spec.kind.name.lower(), _key_text(spec), affinity, "triggers" if spec.derived else "you"
        )
    output.show(table)


def _record(spec: MapSpec) -> dict[str, Any]:
    return {
        "map": spec.name,
        "kind": spec.kind.name.lower(),
        "key": [f"{part.name}:{part.type}" for part in spec.key],
        "affinity": spec.affinity,
        "derived": spec.derived,
        "schema": spec.schema,
    }


def _key_text(spec: MapSpec) -> str:
    parts = [part.name if part.type == "str" else f"{part.name}:{part.type}" for part in spec.key]
    return ",".join(parts) or "any"


maps.command("create")(create)
maps.command("list")(list_maps)
