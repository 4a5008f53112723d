"""`tidegrid replica`: a map, kept in a SQL table."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.arguments import MapArgument
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.output import Output
from tidegrid.grid.app.process import Stopping, freeze_gc, tune_interpreter
from tidegrid.grid.model.errors import ConfigurationError

if TYPE_CHECKING:
    from tidegrid.client import Grid
    from tidegrid.replica import Progress, Replica

SAY_SECONDS = 5.0
FOREVER_SECONDS = 30 * 24 * 3600.0  # a deadline on the wire is a finite number of milliseconds


@client_command()
async def replica(
    call: Invocation,
    map_name: MapArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="URL", show_default=False, help="sqlite:///file.db, or sqlite:////directory/file.db"
        ),
    ],
    table: Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="The table, if it is not to be named as the map.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="FIELD=COLUMN", help="A column of another name than the value's field. Repeatable."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when all that is written by now is there.")] = False,
    until_epoch: Annotated[
        int | None, typer.Option("--until-epoch", metavar="EPOCH", min=1, help="End when all up to this epoch is there.")
    ] = None,
) -> ExitCode:  # fmt: skip
    """Keep a copy of a map in a SQLite table, and follow its changes until stopped.

    First a snapshot, then every change. Rows and position (table tidegrid_position) change in one transaction, so it
    goes on where it was after any crash. It waits while no node answers. SIGTERM or Ctrl-C ends it.

    \b
    Examples:
      $ tidegrid replica flights --to sqlite:///flights.db
      $ tidegrid replica flights --to sqlite:///flights.db --once && sqlite3 flights.db 'SELECT count(*) FROM flights'
      $ tidegrid replica delays --to sqlite:///flights.db --table late --rename minutes=late_by
    """
    from tidegrid.replica import Replica

    if once and until_epoch is not None:
        raise ConfigurationError("give either --once or --until-epoch")
    report = _Report(call.output, map_name, to)
    tune_interpreter()
    freeze_gc()
    stopping = Stopping(lambda name: call.output.note(f"{name}: ending ..."))
    async with call.connect() as grid:
        stopping.install()
        copy = Replica(grid, map_name, to, table=table, rename=_renamed(rename or ()), progress=report)
        async with copy:
            try:
                await _follow(grid, copy, stopping, once, until_epoch)
            finally:
                report.end()
        report.final(copy)
    return ExitCode.OK


async def _follow(grid: Grid, copy: Replica, stopping: Stopping, once: bool, until_epoch: int | None) -> None:
    if once:
        await grid.refresh()
        until_epoch = grid.token().epoch
    end = copy.finished() if until_epoch is None else copy.wait(until_epoch, deadline=FOREVER_SECONDS)
    tasks = [asyncio.ensure_future(end), asyncio.create_task(stopping.requested.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _renamed(given: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Raises ConfigurationError."""
    renamed: dict[str, str] = {}
    for pair in given:
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            raise ConfigurationError(f"--rename {pair!r}: write FIELD=COLUMN")
        renamed[field] = column
    return renamed


class _Report:
    """How far it is: a line that changes on a terminal, a new one now and then elsewhere."""

    def __init__(self, output: Output, map_name: str, to: str) -> None:
        self._output = output
        self._map = map_name
        self._to = to
        self._status: Any = None
        self._said = time.monotonic()
        self._live = False

    def __call__(self, progress: Progress) -> None:
        text = self._text(progress)
        if progress.live and not self._live:
            self._live = True
            self._output.note(f"{text}; following")
        if self._output.live:
            if self._status is None:
                self._status = self._output.console(stderr=True).status(text)
                self._status.start()
            self._status.update(text)
        elif not progress.live and time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            self._output.note(text)

    def _text(self, progress: Progress) -> str:
        behind = f", {progress.lag:,} epochs behind" if progress.lag else ""
        state = "" if progress.live else " (first copy)"
        return f"{self._map} -> {self._to}{state}: {progress.rows:,} rows written, at epoch {progress.epoch:,}{behind}"

    def end(self) -> None:
        if self._status is not None:
            self._status.stop()

    def final(self, copy: Replica) -> None:
        if self._output.as_json:
            self._output.record({"map": self._map, "to": self._to, "rows": copy.rows, "epoch": copy.epoch})
        self._output.answer(f"{self._map} -> {self._to}: {copy.rows:,} rows written, at epoch {copy.epoch:,}")
