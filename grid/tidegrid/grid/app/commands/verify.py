"""`tidegrid verify`: reads the whole history of a log and says what is wrong with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, command
from tidegrid.grid.app.output import Output

PROBLEMS_SHOWN_MAX = 20


@command
def verify(
    call: Invocation,
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="The data directory of a grid that is not running.")
    ] = Path("tidegrid-data"),
) -> ExitCode:
    """Check every record, index and checkpoint of a log. Changes nothing; exit code 4 if something is wrong.

    A start checks from the last checkpoint on; this checks the whole history, and goes on past a bad place.

    \b
    Examples:
      $ tidegrid verify
      $ tidegrid verify /var/lib/tidegrid --json
    """
    from tidegrid.grid.journal.verify import verify as verify_log

    output = call.output
    with _Progress(output) as progress:
        report = verify_log(directory, progress)
    if output.as_json:
        counts = {name: getattr(report, name) for name in _COUNTS}
        problems = [dataclasses.asdict(problem) for problem in report.problems]
        output.record({"directory": str(directory), "whole": report.whole, **counts, "problems": problems})
        return ExitCode.OK if report.whole else ExitCode.DATA
    for problem in report.problems[:PROBLEMS_SHOWN_MAX]:
        output.answer(f"{problem.file} at byte {problem.offset:,}: {problem.reason}")
    hidden = len(report.problems) - PROBLEMS_SHOWN_MAX
    if hidden > 0:
        output.answer(f"... and {hidden:,} more (all with --json)")
    compacted = f" ({report.compacted:,} of them compacted)" if report.compacted else ""
    output.answer(
        f"{report.records:,} records in {report.segments:,} segments{compacted}, {report.checkpoints:,} checkpoints, {report.bytes_read:,} bytes read"
    )
    if report.torn_bytes:
        output.answer(
            f"the end is torn ({report.torn_bytes:,} bytes that were never acknowledged); the next start cuts it"
        )
    if report.whole:
        output.answer("the log is whole")
        return ExitCode.OK
    output.answer(f"{len(report.problems):,} problems: restore the files named above from a copy; do not edit them")
    return ExitCode.DATA


_COUNTS = ("segments", "compacted", "batches", "records", "bytes_read", "checkpoints", "indexes_unusable", "torn_bytes")


class _Progress:
    def __init__(self, output: Output) -> None:
        self._output = output
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        if self._output.live:
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("verifying"),
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
                console=self._output.console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
