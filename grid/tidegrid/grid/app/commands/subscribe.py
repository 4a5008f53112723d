"""`tidegrid subscribe`: a feed of changes, as lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.arguments import MapArgument
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.json_text import json_text, key_value
from tidegrid.grid.app.output import Output
from tidegrid.grid.model.errors import ConfigurationError

if TYPE_CHECKING:
    from tidegrid.client import Change


@client_command()
async def subscribe(
    call: Invocation,
    map_name: MapArgument,
    after: Annotated[
        int | None,
        typer.Option(
            "--after",
            metavar="EPOCH",
            min=0,
            help="Changes after this epoch, of any age; 0: from the beginning. Without it: from now on.",
        ),
    ] = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="First all entries as of an epoch, then the changes after it.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", min=1, help="End after so many changes.")
    ] = None,
    until_epoch: Annotated[
        int | None,
        typer.Option(
            "--until-epoch", metavar="EPOCH", min=1, help="End when all up to and including this epoch is printed."
        ),
    ] = None,
    until_now: Annotated[
        bool, typer.Option("--until-now", help="End when all that is written by now is printed.")
    ] = False,
    marks: Annotated[
        bool, typer.Option("--marks", help='Also say up to which epoch all has come, as {"mark": EPOCH}.')
    ] = False,
) -> None:
    """Print every change of a map as it becomes final, in epoch order, once.

    Each line has epoch, operation, key and value. To go on where it ended, give the last epoch you have in full
    (--marks says which) to --after. Survives restarts of nodes; Ctrl-C ends it.

    \b
    Examples:
      $ tidegrid subscribe delays
      $ tidegrid subscribe flights --snapshot --json
      $ tidegrid subscribe delays --after 0 --until-now --json > delays.jsonl
    """  # fmt: skip
    if snapshot and after is not None:
        raise ConfigurationError("a snapshot chooses its own epoch: give either --snapshot or --after")
    if until_now and until_epoch is not None:
        raise ConfigurationError("give either --until-epoch or --until-now")
    output = call.output
    left = limit
    async with call.connect() as grid:
        of_map = grid.map(map_name)
        await of_map.spec()
        if until_now:
            await grid.refresh()
            until_epoch = await grid.wait_closed(grid.token().epoch)  # also wakes a grid at rest
        if until_epoch is not None and not snapshot and until_epoch <= (grid.closed if after is None else after):
            return  # nothing of it is still to come
        wants_marks = marks or until_epoch is not None
        async with of_map.subscribe(after, snapshot=snapshot, marks=wants_marks) as feed:
            async for batch in feed:
                if until_epoch is not None and batch.epoch > until_epoch and not batch.snapshot:
                    return
                for section in batch.sections:
                    for change in section:
                        _print(output, change, batch.snapshot)
                        if left is not None:
                            left -= 1
                            if not left:
                                return
                if marks and not (batch.snapshot and not batch.live):
                    output.record({"mark": batch.epoch}) if output.as_json else output.answer(f"{batch.epoch}\tmark")
                sys.stdout.flush()
                if until_epoch is not None and batch.epoch >= until_epoch and (batch.live or not batch.snapshot):
                    return


def _print(output: Output, change: Change, snapshot: bool) -> None:
    if not output.as_json:
        op = "entry" if snapshot else change.op
        output.answer(f"{change.epoch}\t{op}\t{json_text(key_value(change.key))}\t{json_text(change.value)}")
        return
    record: dict[str, Any] = {
        "epoch": change.epoch, "op": change.op, "key": key_value(change.key), "value": change.value,
        "time_ms": change.time_ms, "partition": change.partition,
    }  # fmt: skip
    if snapshot:
        record["snapshot"] = True
    else:
        record.update(position=change.position, index=change.index)
    if change.version:
        record["version"] = change.version
    output.record(record)
