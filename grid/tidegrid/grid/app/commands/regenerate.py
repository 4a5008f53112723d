"""`tidegrid regenerate`: derived maps made anew by today's triggers, and what differs."""

from __future__ import annotations

from typing import Annotated

import typer
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command


@client_command()
async def regenerate(
    call: Invocation,
    maps: Annotated[
        list[str] | None, typer.Argument(metavar="MAP", show_default=False, help="Derived tables; none: all of them.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would differ, and leave it at that. Required, so far.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", min=0, max=256, help="Processes at the grid. \\[default: one per core]", show_default=False),
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
    today's code has made already is taken from the log. Then both generations are compared, as of one epoch. Stop it
    (Ctrl-C), or let it be killed: begun again it goes on where it was. Who may deploy may regenerate.

    \b
    Examples:
      $ tidegrid regenerate flights aircraft --dry-run
      $ tidegrid regenerate --dry-run --rate 5000
      $ tidegrid regenerate flights --dry-run --workers 1 --share 0.5
      $ tidegrid regenerate flights --dry-run --json | jq .maps
    """
    from tidegrid.grid.app.regeneration_progress import RegenerationBar
    from tidegrid.grid.app.regeneration_report import report_lines, report_record

    output = call.output
    async with call.connect() as grid:
        with RegenerationBar(output) as bar:
            report = await grid.regenerate(
                *(maps or []), dry_run=dry_run, workers=workers, nice=nice, share=share, rate=rate, progress=bar
            )
    if output.as_json:
        output.record(report_record(report))
    for line in report_lines(report):
        output.answer(line)
    output.note("nothing was switched: this was a dry run")
    return ExitCode.OK
