"""`tidegrid parked`: writes that are stored and whose triggers failed; and `tidegrid parked redrive`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.json_text import json_text, key_value
from tidegrid.grid.model.errors import ConfigurationError
from typer.core import TyperGroup

if TYPE_CHECKING:
    from tidegrid.client import ParkedWrite, Redriven

MESSAGE_SHOWN_MAX = 200
SHOWN_MAX = 20  # of what was not redriven


class _ListByDefault(TyperGroup):
    """`tidegrid parked MAP` lists. A map that is called as a command: `tidegrid parked list redrive`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


parked = typer.Typer(
    cls=_ListByDefault,
    rich_markup_mode="rich",
    help="Writes that are stored and whose triggers failed: list them, run their triggers again.",
)


@client_command()
async def list_parked(
    call: Invocation,
    map_name: Annotated[str | None, typer.Argument(metavar="MAP", show_default=False, help="Only of this map.")] = None,
) -> None:
    """List parked writes: stored, visible, and without what their triggers would have made of them.

    \b
    Examples:
      $ tidegrid parked
      $ tidegrid parked orders.raw
      $ tidegrid parked list --json | jq -r .message
    """
    from tidegrid.client.parked import is_id

    if map_name is not None and is_id(map_name):
        raise ConfigurationError(f"{map_name} is an id; to list, give a map or nothing: tidegrid parked [MAP]")
    if map_name is not None:
        _check_form(map_name)
    async with call.connect() as grid:
        found = await grid.parked(map_name)
    output = call.output
    if output.as_json:
        for write in found:
            output.record(_record(write))
    elif found:
        output.show(_table(found))
    else:
        output.note("nothing is parked")


@client_command(deadline=60.0)
async def redrive(
    call: Invocation,
    which: Annotated[
        list[str] | None,
        typer.Argument(metavar="MAP|ID", show_default=False, help="A map, or ids as `tidegrid parked` says them."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is parked, of all maps.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also where a later version of the key was written: old outputs go over newer."),
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Forget them; nothing is made of them.")] = False,
) -> ExitCode:
    """Run the triggers in force now on parked writes again. What they make is of the epoch of now.

    One of which a later version was written is refused as superseded. One that fails again stays parked. Exit code 1 if
    anything stays parked.

    \b
    Examples:
      $ tidegrid parked redrive orders.raw
      $ tidegrid parked redrive 3.1042.0 3.1042.7
      $ tidegrid parked redrive --all --json
      $ tidegrid parked redrive 3.1042.0 --drop
    """
    from tidegrid.client.parked import is_id

    names = which or []
    ids = [name for name in names if is_id(name)]
    maps = [name for name in names if not is_id(name)]
    for name in maps:
        _check_form(name)
    if bool(ids) + bool(maps) + everything != 1 or len(maps) > 1:
        raise ConfigurationError("say what to redrive: a map, ids as `tidegrid parked` says them, or --all")
    async with call.connect() as grid:
        outcomes = await grid.redrive(*ids, map=maps[0] if maps else None, all=everything, force=force, drop=drop)
    output = call.output
    if output.as_json:
        for outcome in outcomes:
            output.record(outcome._asdict())
    else:
        _tell(call, outcomes)
    stays = any(outcome.outcome in ("failed", "superseded") for outcome in outcomes)
    return ExitCode.REFUSED if stays else ExitCode.OK


def _check_form(name: str) -> None:
    """Of what is no id: it may be half of one. Raises ConfigurationError."""
    if not name[:1].isalpha() and not name.startswith("_"):
        raise ConfigurationError(
            f"{name!r} is neither a map nor an id; an id is PARTITION.POSITION.ROW, such as 3.1042.0, as `tidegrid parked` says it"
        )


def _tell(call: Invocation, outcomes: list[Redriven]) -> None:
    counts = Counter(outcome.outcome for outcome in outcomes)
    named = ", ".join(f"{count:,} {word}" for word, count in sorted(counts.items()))
    call.output.answer(named or "nothing is parked")
    left = [outcome for outcome in outcomes if outcome.outcome not in ("redriven", "dropped")]
    for outcome in left[:SHOWN_MAX]:
        said = f": {outcome.message}" if outcome.message else ""
        call.output.note(f"{outcome.id} {outcome.outcome}{said}")
    if len(left) > SHOWN_MAX:
        call.output.note(f"and {len(left) - SHOWN_MAX:,} more; --json has them all")


def _record(write: ParkedWrite) -> dict[str, Any]:
    return {**write._asdict(), "key": key_value(write.key)}


def _table(found: list[ParkedWrite]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "map", "key", "version", "epoch", "tries", "message"):
        right = name in ("version", "epoch", "tries")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for write in found:
        message = write.message.partition("\n")[0]
        message = message if len(message) <= MESSAGE_SHOWN_MAX else message[: MESSAGE_SHOWN_MAX - 3] + "..."
        table.add_row(
            *map(
                Text,
                (
                    write.id,
                    write.map,
                    json_text(key_value(write.key)),
                    f"{write.version}{' (superseded)' if write.superseded else ''}",
                    f"{write.epoch:,}",
                    f"{write.tries:,}",
                    message,
                ),
            )
        )
    return table


parked.command("list")(list_parked)
parked.command("redrive")(redrive)
