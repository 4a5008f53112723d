"""`tidegrid load`: files into a map."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TextIO

import typer
from tidegrid.grid.app.arguments import MapArgument
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.app.load_format import Format, format_of
from tidegrid.grid.app.output import Output
from tidegrid.grid.model.errors import ConfigurationError, GridError, OverloadError, PeerError

if TYPE_CHECKING:
    from tidegrid.client import Map
    from tidegrid.grid.app.load_source import Source
    from tidegrid.grid.app.loading import LoadCount, Refusals

DEADLINE_SECONDS = 60.0
LINE_SECONDS = 5.0
PIPE = Path("-")


@client_command(deadline=DEADLINE_SECONDS)
async def load(
    call: Invocation,
    map_name: MapArgument,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", show_default=False, help="CSV or JSON lines; - is stdin.")
    ],
    key: Annotated[
        str | None,
        typer.Option(
            "--key", "-k", metavar="COLUMN,...",
            help="The columns that make the key, in order. Without it: the map's own key fields.",
        ),
    ] = None,
    format_: Annotated[
        Format | None, typer.Option("--format", "-f", help="If the suffix (.csv, .jsonl, .ndjson) does not tell.")
    ] = None,
    errors: Annotated[
        Path | None,
        typer.Option("--errors", metavar="FILE", help="Write all refused rows there, as JSON lines with the reason."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Write the rows once more, also those that an earlier load has written.")
    ] = False,
    schema: Annotated[
        int | None, typer.Option("--schema", metavar="N", min=0, help="Schema number, if not the map's own.")
    ] = None,
) -> ExitCode:  # fmt: skip
    """Load files into a map. A row that was loaded before is not written twice.

    CSV rows are stored as dicts of the raw strings, JSON lines as they are. Each row is one durable write, with its
    own outcome. The same file loaded again, say after a crash, writes only what is missing (not so from a pipe),
    whatever was written to its keys since; --again writes all of it anew.
    Exit code 1 if rows were refused.

    \b
    Examples:
      $ tidegrid load flights.raw flights.csv --key year,month,day,carrier,flight,origin
      $ tidegrid load planes planes.csv --errors refused.jsonl
      $ tidegrid load events day1.jsonl day2.jsonl --json
      $ tail -f events.jsonl | tidegrid load events - --format jsonl
    """
    from tidegrid.grid.app.loading import LoadCount, Refusals

    output = call.output
    formats = [format_ or _format_of(path) for path in files]
    _check_errors(errors, files)
    refused = 0
    async with call.connect() as grid:
        to = grid.map(map_name)
        await to.spec()
        with _open_errors(errors) as errors_file:  # not before: what it has of an earlier load goes
            refusals = Refusals(output.note, errors_file)
            for path, kind in zip(files, formats, strict=True):
                count = LoadCount()
                try:
                    await _load(call, to, path, kind, key, count, refusals, again, schema)
                except BaseException:
                    if count.rows:  # otherwise the error says it all
                        _tell(output, path, map_name, count)
                    raise
                refused += count.refused
                _tell(output, path, map_name, count)
    return ExitCode.REFUSED if refused else ExitCode.OK


async def _load(
    call: Invocation,
    to: Map,
    path: Path,
    kind: Format,
    key: str | None,
    count: LoadCount,
    refusals: Refusals,
    again: bool,
    schema: int | None,
) -> None:
    from tidegrid.grid.app.load_source import Source
    from tidegrid.grid.app.loading import key_fields, load, session_of

    fields = key_fields(key, await to.spec())
    piped = path == PIPE
    session = None if again or piped else session_of(path, to.name, fields, kind, schema)

    def refuse(line: int, error: GridError, row: Any) -> None:
        refusals.add(source.name, count, line, error, row)

    with _opened(path) as file:
        source = Source("stdin" if piped else str(path), file, kind, fields, refuse)
        with _Progress(call.output, source, count, None if piped else _size_of(file)) as progress:
            try:
                await load(
                    to,
                    source,
                    count,
                    refusals,
                    session=session,
                    schema=schema,
                    deadline=call.connection.deadline,
                    piped=piped,
                    progress=progress,
                )
            except (PeerError, OverloadError) as error:
                hint = "; load the file again to go on: rows that are in are not written twice" if session else ""
                raise type(error)(f"{source.name}: {error.message}{hint}", **error.fields) from None


def _tell(output: Output, path: Path, map_name: str, count: LoadCount) -> None:
    if output.as_json:
        output.record(
            {
                "file": str(path),
                "map": map_name,
                "accepted": count.accepted,
                "repeated": count.repeated,
                "refused": count.refused,
                "parked": count.parked,
                "epoch": count.epoch,
                "seconds": round(count.seconds, 3),
                "rows_per_second": round(count.rate),
            }
        )
        return
    parts = [f"{count.accepted:,} rows written"]
    if count.repeated:
        parts.append(f"{count.repeated:,} left alone, as they were loaded before (--again writes them anew)")
    if count.refused:
        parts.append(f"{count.refused:,} refused")
    if count.parked:
        parts.append(f"{count.parked:,} parked without outputs (see `tidegrid parked`)")
    epoch = f", readable by all from epoch {count.epoch:,} on" if count.epoch else ""
    output.answer(f"{path}: {', '.join(parts)} in {count.seconds:.1f} s ({count.rate:,.0f} rows/s){epoch}")


def _format_of(path: Path) -> Format:
    """Raises ConfigurationError."""
    if path == PIPE:
        raise ConfigurationError("stdin has no suffix; say what it is with --format csv or --format jsonl")
    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file that can be loaded; check the path")
    return format_of(path)


def _size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _opened(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdin.buffer) if path == PIPE else path.open("rb")


def _check_errors(errors: Path | None, files: Sequence[Path]) -> None:
    for path in files:
        if errors is not None and path != PIPE and errors.exists() and errors.samefile(path):
            raise ConfigurationError(f"{errors} is to be loaded, and --errors would empty it; name another file")


def _open_errors(path: Path | None) -> contextlib.AbstractContextManager[TextIO | None]:
    if path is None:
        return contextlib.nullcontext()
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None


class _Progress:
    """A bar on a terminal, a line now and then elsewhere. `size` None: nobody knows how much is to come."""

    def __init__(self, output: Output, source: Source, count: LoadCount, size: int | None) -> None:
        self._output = output
        self._source = source
        self._count = count
        self._size = size
        self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        if self._output.live:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%" if self._size else ""),
                TextColumn("{task.fields[counts]}"),
                TimeRemainingColumn(),
                console=self._output.console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._source.name, total=self._size or None, counts="")
            self._bar.start()
        return self

    def __call__(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._position(), counts=self._counts())
        elif time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            share = f" ({self._position() * 100 // self._size} %)" if self._size else ""
            self._output.note(f"{self._source.name}{share}: {self._counts()}")

    def _position(self) -> int:
        return self._source.position() if self._size else 0

    def _counts(self) -> str:
        count = self._count
        there = f", {count.repeated:,} loaded before" if count.repeated else ""
        refused = f", {count.refused:,} refused" if count.refused else ""
        return f"{count.accepted:,} written{there}{refused}, {count.rate:,.0f} rows/s"

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
