"""`tidegrid generations`: the generations of derived tables, which one readers see, and going back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.model.errors import ConfigurationError

if TYPE_CHECKING:
    from tidegrid.v1 import grid_pb2


@client_command()
async def generations(
    call: Invocation,
    show: Annotated[
        list[str] | None,
        typer.Option("--show", metavar="MAP=N", help="Readers see generation N of this map from now on.", show_default=False),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", metavar="MAP=N", help="Let go of one that nobody sees: there is no way back to it.", show_default=False),
    ] = None,
) -> None:  # fmt: skip
    """List the generations of derived tables, or have readers see another one.

    Epochs: "seen" from which on, "made anew" from the raw writes below which. A regeneration makes one beside the live one, and shows it to readers, followers and replicas at one epoch. The old one is
    kept, and takes in what is written, until it is dropped: so there is a way back, which costs its memory.

    \b
    Examples:
      $ tidegrid generations
      $ tidegrid generations --show flights=1
      $ tidegrid generations --drop flights=2 --drop aircraft=2
    """
    shows, drops = _numbers(show or []), _numbers(drop or [])
    async with call.connect() as grid:
        if shows:
            await grid.show_generations(shows)
        if drops:
            await grid.drop_generations(drops)
        found = await grid.generations()
    output = call.output
    if output.as_json:
        for entry in found:
            output.record(_record(entry))
        return
    if not found:
        output.note("there is no derived table; `tidegrid deploy` makes some")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("map", "number", "seen", "rows", "made anew", "when", "by"):
        table.add_column(column, overflow="fold", justify="right" if column in ("number", "rows") else "left")
    for entry in found:
        table.add_row(
            entry.map,
            str(entry.number),
            _readers(entry),
            f"{entry.rows:,}",
            f"below {entry.since:,}" if entry.since else "",
            _when(entry.time_ms),
            entry.by,
        )
    output.show(table)
    for entry in found:
        if entry.problem:
            output.note(f"{entry.map}, generation {entry.number}: {entry.problem}")


def _readers(entry: grid_pb2.GenerationEntry) -> str:
    """From which epoch on readers see it."""
    if entry.seen:
        return f"from {entry.seen_from:,}" if entry.seen_from else "yes"
    return "no" if entry.complete else "loading"


def _numbers(texts: list[str]) -> dict[str, int]:
    made: dict[str, int] = {}
    for text in texts:
        name, separator, number = text.rpartition("=")
        if not separator or not name or not number.isdecimal():
            raise ConfigurationError(f"{text!r} names no generation; write MAP=N, such as flights=1")
        made[name] = int(number)
    return made


def _record(entry: grid_pb2.GenerationEntry) -> dict[str, Any]:
    return {
        "map": entry.map,
        "generation": entry.number,
        "seen": entry.seen,
        "seen_from": entry.seen_from or None,
        "complete": entry.complete,
        "rows": entry.rows,
        "since": entry.since or None,
        "time": _when(entry.time_ms) or None,
        "by": entry.by or None,
        "problem": entry.problem or None,
    }


def _when(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}" if time_ms else ""
