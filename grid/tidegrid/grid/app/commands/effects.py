"""`tidegrid effects`: the effects of a module, run beside the grid; and what they have given up on."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.json_text import json_text, key_value
from tidegrid.grid.app.output import Output
from tidegrid.grid.app.process import Stopping
from tidegrid.grid.model.errors import ConfigurationError

if TYPE_CHECKING:
    from tidegrid.client import Grid
    from tidegrid.effects import EffectsRun, Failure, Parked, Progress, StateFile

SAY_SECONDS = 5.0
ERROR_SHOWN_MAX = 80


@client_command()
async def effects(
    call: Invocation,
    module: Annotated[
        str | None,
        typer.Argument(metavar="MODULE", show_default=False, help="flights.py, or the path of an installed module."),
    ] = None,
    state: Annotated[
        Path,
        typer.Option("--state", metavar="FILE", help="How far each effect is, and what is parked. Made if there is none."),
    ] = Path("effects.db"),
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="now|begin|EPOCH",
            help="Where an effect begins that has never run; an epoch's own changes are included. Others go on where they were.",
        ),
    ] = "now",
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="EFFECT", help="This effect of the module. Repeatable.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when all that is written by now has had its effect.")] = False,
    parked: Annotated[bool, typer.Option("--parked", help="List what effects have given up on and kept.")] = False,
    again: Annotated[
        list[str] | None,
        typer.Option(
            "--again", metavar="NUMBER|all",
            help="Give a parked change to its effect once more, as --parked numbers it. Repeatable. A runner that works takes it up.",
        ),
    ] = None,
) -> ExitCode:  # fmt: skip
    """Run the effects of a trigger module: mail, HTTP and other work outside the grid, at least once for every change.

    It is a client of the grid and runs beside it, until stopped. What is done is written to the state file before the
    next change of its turn, so it goes on where it was after any crash. It waits while no node answers. SIGTERM or
    Ctrl-C drains: calls that are under way end, and nothing new begins; a second one ends at once.

    \b
    Examples:
      $ tidegrid effects flights.py --at localhost:7411 --state effects.db
      $ tidegrid effects flights.py --state effects.db --from begin --once
      $ tidegrid effects --parked --state effects.db
      $ tidegrid effects --again 3 --state effects.db
    """
    if module is None:
        if not (parked or again):
            raise ConfigurationError("name a module, such as flights.py, or give --parked or --again")
        if only or once or start != "now":
            raise ConfigurationError("--only, --once and --from are about running effects: name a module too")
    elif parked:
        raise ConfigurationError("--parked lists what is in the state file, and runs nothing: leave the module away")
    if module is None or again:
        _on_file(call.output, state, parked, again or [])
    return ExitCode.OK if module is None else await _run(call, module, state, _start(start), only, once)


def _start(text: str) -> Any:
    """Raises ConfigurationError."""
    if text in ("now", "begin"):
        return text
    if text.isascii() and text.isdecimal() and 1 <= int(text) < 1 << 63:
        return int(text)
    raise ConfigurationError(f"--from {text!r}: write now, begin, or an epoch, 1 or more")


# What is parked --------------------------------------------------------------------------------------------------


def _on_file(output: Output, path: Path, parked: bool, again: list[str]) -> None:
    import sqlite3

    from tidegrid.effects import StateFile, translated

    if not path.exists():
        raise ConfigurationError(f"there is no state of effects in {path}; name the file with --state", file=str(path))
    try:
        file = StateFile(path)
        try:
            if again:
                _again(output, file, again)
            if parked:
                _list(output, file)
        finally:
            file.close()
    except sqlite3.Error as problem:
        raise translated(problem, path) from problem


def _again(output: Output, file: StateFile, wanted: list[str]) -> None:
    numbers = None
    if "all" not in wanted:
        wrong = [text for text in wanted if not (text.isascii() and text.isdecimal())]
        if wrong:
            raise ConfigurationError(f"--again {wrong[0]!r}: give a number that --parked shows, or all")
        numbers = [int(text) for text in wanted]
        missing = set(numbers) - {found.number for found in file.parked()}
        if missing:
            raise ConfigurationError(f"nothing is parked as {min(missing)}; --parked shows the numbers")
    marked = file.drive_again(numbers)
    many = f"{len(marked):,} parked changes are" if len(marked) != 1 else "1 parked change is"
    output.note(f"{many} to be driven again; a runner takes {'them' if len(marked) != 1 else 'it'} up")


def _list(output: Output, file: StateFile) -> None:
    found = file.parked()
    if output.as_json:
        for one in found:
            output.record(_record(one))
    elif found:
        output.show(_table(found))
    else:
        output.note("nothing is parked")


def _record(one: Parked) -> dict[str, Any]:
    event = one.event
    return {
        "number": one.number, "effect": one.effect, "map": event.map, "op": event.op, "key": key_value(event.key),
        "value": event.value, "version": event.version, "epoch": event.epoch, "time_ms": event.time_ms, "id": event.id,
        "tries": one.waiting.tried, "error": one.error, "parked_ms": one.parked_ms, "again": one.again,
    }  # fmt: skip


def _table(found: list[Parked]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("number", "effect", "map", "key", "epoch", "tries", "parked", "error"):
        table.add_column(name, justify="right" if name in ("number", "epoch", "tries") else "left")
    for one in found:
        event = one.event
        when = datetime.fromtimestamp(one.parked_ms / 1_000, UTC).isoformat(sep=" ", timespec="seconds")
        error = one.error.partition("\n")[0]
        error = error if len(error) <= ERROR_SHOWN_MAX else error[: ERROR_SHOWN_MAX - 3] + "..."
        cells = (
            str(one.number), one.effect, event.map, json_text(key_value(event.key)), f"{event.epoch:,}",
            str(one.waiting.tried), f"{when}{' (to be driven again)' if one.again else ''}", error,
        )  # fmt: skip
        table.add_row(*map(Text, cells))
    return table


# Running ---------------------------------------------------------------------------------------------------------


async def _run(call: Invocation, module: str, state: Path, start: Any, only: list[str] | None, once: bool) -> ExitCode:
    from tidegrid.effects import effect_module, run_effects

    found = effect_module(module)  # what is wrong with it shows before anybody is asked
    if only:
        found = found.only(only)
    report = _Report(call.output)
    stopping = Stopping(lambda name: call.output.note(f"{name}: ending when what is under way has ended ..."))
    async with call.connect() as grid:
        stopping.install()
        run = run_effects(grid, found, state=state, start=start, progress=report.progress, failure=report.failure)
        try:
            async with run:
                report.begin(run)
                await _follow(grid, run, stopping, once)
        finally:
            report.end()
        report.final(run)
    return ExitCode.OK


async def _follow(grid: Grid, run: EffectsRun, stopping: Stopping, once: bool) -> None:
    async def through() -> None:
        await grid.refresh()
        await run.wait(grid.token().epoch)

    tasks = [
        asyncio.ensure_future(through() if once else run.finished()),
        asyncio.create_task(stopping.requested.wait()),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Report:
    """How far each effect is: a line that changes on a terminal, a new one now and then elsewhere. And what failed."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._latest: dict[str, Progress] = {}
        self._said = time.monotonic()
        self._said_text = ""
        self._failures_said: dict[str, float] = {}
        self._status: Any = None

    def begin(self, run: EffectsRun) -> None:
        for progress in run.progress:
            self._output.note(f"{_text(progress)}; following {progress.map}")

    def progress(self, progress: Progress) -> None:
        self._latest[progress.effect] = progress
        if self._output.live:
            if self._status is None:
                self._status = self._output.console(stderr=True).status("")
                self._status.start()
            self._status.update("; ".join(map(_text, self._latest.values())))
        elif time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            text = "; ".join(map(_text, self._latest.values()))
            counts = "; ".join(_counts(latest) for latest in self._latest.values())
            if counts != self._said_text:
                self._said_text = counts
                self._output.note(text)

    def failure(self, failure: Failure) -> None:
        """What is tried again is told now and then, what is given up always."""
        now = time.monotonic()
        pause = failure.pause_seconds
        if pause is not None and now - self._failures_said.get(failure.effect, -SAY_SECONDS) < SAY_SECONDS:
            return
        self._failures_said[failure.effect] = now
        then = "given up" if pause is None else f"again in {pause:.1f} s"
        key = json_text(key_value(failure.event.key))
        self._output.note(f"{failure.effect}: try {failure.tries} for {key} failed, {then}: {failure.error}")

    def end(self) -> None:
        if self._status is not None:
            self._status.stop()

    def final(self, run: EffectsRun) -> None:
        for progress in run.progress:
            if self._output.as_json:
                self._output.record(_final_record(progress))
            self._output.answer(_text(progress))


def _final_record(progress: Progress) -> dict[str, Any]:
    return {
        "effect": progress.effect, "map": progress.map, "epoch": progress.epoch, "done": progress.done,
        "skipped": progress.skipped, "parked": progress.parked, "failed": progress.failed,
    }  # fmt: skip


def _counts(progress: Progress) -> str:
    named = (("done", progress.done), ("skipped", progress.skipped), ("parked", progress.parked),
             ("failed tries", progress.failed), ("waiting", progress.waiting + progress.running))  # fmt: skip
    return ", ".join(f"{count:,} {name}" for name, count in named if count or name == "done")


def _text(progress: Progress) -> str:
    behind = f", {progress.lag:,} epochs behind" if progress.lag else ""
    return f"{progress.effect}: {_counts(progress)}, at epoch {progress.epoch:,}{behind}"
