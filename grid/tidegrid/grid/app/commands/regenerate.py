"""`tidegrid regenerate`: derived maps made anew by today's triggers, and what differs."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from tidegrid.grid.app.arguments import instant_from
from tidegrid.grid.app.confirmation import confirmed
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.model.errors import ConfigurationError

if TYPE_CHECKING:
    from tidegrid.client import Grid
    from tidegrid.v1 import grid_pb2


@client_command()
async def regenerate(
    call: Invocation,
    maps: Annotated[
        list[str] | None, typer.Argument(metavar="MAP", show_default=False, help="Derived tables; none: all of them.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="EPOCH|TIME", show_default=False,
            help="Only what was written from this epoch, or time, on; what was made of earlier writes stays as readers "
            "see it. \\[default: all there is]",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would differ, and leave it at that.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before readers see it.")] = False,
    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", min=0, max=256, help="Processes at the grid. \\[default: one per core but one]", show_default=False),
    ] = 0,
    rate: Annotated[
        float,
        typer.Option(
            "--rate", metavar="N", min=0, help="At most N raw writes a second, of all together. \\[default: any]",
            show_default=False,
        ),
    ] = 0.0,
    share: Annotated[
        float, typer.Option("--share", metavar="X", help="Each process works that share of its time, up to 1.")
    ] = 1.0,
    nice: Annotated[
        int, typer.Option("--nice", metavar="N", min=0, max=19, help="How far the processes stand back for others.")
    ] = 19,
) -> ExitCode:  # fmt: skip
    """Make derived tables anew, beside the live ones: today's triggers over all that was ever written.

    Raw writes of before today's code are run again, as they were stamped, with what their triggers looked up then; what
    today's code has made already is taken from the log. Then both generations are compared, as of one epoch, and, if you
    say so, readers, followers and replicas see the new one from one epoch on, in the past too; the old one is kept to go back
    to (`tidegrid generations`). Stop it (Ctrl-C), or let it be killed: begun again it goes on where it was.

    \b
    Examples:
      $ tidegrid regenerate flights aircraft --dry-run
      $ tidegrid regenerate flights
      $ tidegrid regenerate --yes --rate 5000
      $ tidegrid regenerate flights --workers 1 --share 0.5
      $ tidegrid regenerate flights --from 2026-11-01T00:00:00Z
      $ tidegrid regenerate flights --dry-run --json | jq .maps
    """
    from tidegrid.grid.app.regeneration_progress import RegenerationBar
    from tidegrid.grid.app.regeneration_report import report_lines, report_record

    output = call.output
    asks = not (yes or dry_run)
    if asks and (output.as_json or not sys.stdin.isatty()):
        raise ConfigurationError("nobody can be asked here; say --yes to switch, or --dry-run to see what would differ")
    begin = None if start is None else instant_from(start, "--from")
    if begin == 0:
        raise ConfigurationError(
            "--from is an epoch from 1 on, or a time; leave it out to regenerate from the beginning"
        )
    how = {"workers": workers, "nice": nice, "share": share, "rate": rate}

    async def run(grid: Grid, *, look: bool) -> grid_pb2.RegenerationReport:
        try:
            with RegenerationBar(output) as bar:
                return await grid.regenerate(*(maps or []), start=begin, dry_run=look, progress=bar, **how)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            output.note("stopped; the same command goes on where it was")
            raise

    async with call.connect() as grid:
        report = await run(grid, look=dry_run or asks)
        for line in report_lines(report):
            output.answer(line)
        if asks:
            output.flush()
            if not confirmed("have readers see this?"):
                output.note("nothing was switched")
                return ExitCode.REFUSED
            report = await run(grid, look=False)  # what is done is not done again
    if output.as_json:
        output.record(report_record(report))
    if dry_run:
        output.note("nothing was switched: this was a dry run")
    else:
        seen = ", ".join(f"{number} of {name}" for name, number in sorted(report.generations.items()))
        output.answer(
            f"readers see generation {seen} from epoch {report.seen_from:,} on; `tidegrid generations` goes back"
        )
    return ExitCode.OK
