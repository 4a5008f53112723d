"""`python -m bench [NAME ...] [--json]`: measures, shows what it is doing on stderr, ends with one JSON object on stdout."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from rich.console import Console
from rich.progress import Progress as ProgressDisplay
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from tidegrid.grid.model.errors import GridError

from bench.report import Figure, Progress, Run, as_line, show

# Each is a module of this package with a `run(progress)`, and the words that `--help` has for it.
BENCHES: Final = {
    "write_path": "triggered, durable writes/s in batches; the tight loop, Redis + Streams + a worker",
    "triggers": "triggered writes/s: inline, routed to other partitions, merged there, chained there; the tight loop",
    "regenerate": "raw writes/s through today's triggers; the tight loop; p99 of live put()s beside a dry run",
    "concurrent_puts": "256 concurrent durable put()s from one asyncio client; redis.asyncio, AOF always",
    "put_latency": "p50 of one durable put() at a time; redis.asyncio, AOF always",
    "groups": "commit groups/s of two keys, and p50 of one at a time; put() pairs, Redis MULTI/EXEC",
    "fan_out": "events/s to 8 subscribers in total; one subscriber on NATS JetStream",
    "replica_lag": "p99 from write to row in SQLite at 5,000 writes/s; tick + 15 ms",
    "recovery": "entries/s at restart from checkpoint and tail; 300,000 entries/s",
    "memory": "bytes per entry beyond key and value; 200 bytes",
    "close_latency": "from acknowledgement to closed epoch, 1, 3 and 8 nodes, idle to loaded; the formula of the design",
    "reads_as_of": "reads as of an epoch, 10 versions a key, and a key of 1,000,000; reads of the latest",
    "yardsticks": "the yardsticks alone: what Redis, JetStream and plain Python do on this machine",
}
ALL: Final = tuple(name for name in BENCHES if name != "yardsticks")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures the grid beside its yardsticks, in one run on this machine.",
        epilog="benches:\n" + "\n".join(f"  {name:16} {says}" for name, says in BENCHES.items()) + "\n\n"
        "examples:\n  python -m bench                     all of them\n"
        "  python -m bench write_path --json   one of them, one JSON object on the last line\n\n"
        "exit code: 0 measured, 1 could not measure, 2 wrong usage; a target that is missed is a figure, not a failure",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benches (default: all)")
    parser.add_argument("--json", action="store_true", help="no table, only the JSON object")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHES]:
        parser.error(f"there is no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")

    signal.signal(signal.SIGTERM, _stopped)  # so that servers started here are ended on the way out
    errors = Console(stderr=True)
    figures: list[Figure] = []
    failed = False
    with _display(errors) as progress:
        for name in options.names or ALL:
            try:
                run: Run = importlib.import_module(f"bench.{name}").run
                figures += run(lambda says, name=name: progress(f"{name}: {says}"))  # type: ignore[misc]
            except (GridError, ImportError, OSError) as error:
                errors.print(f"[red]error[/]: {name}: {error}", highlight=False)
                failed = True
            except KeyboardInterrupt:
                errors.print("stopped")
                return 130
    if figures:
        if not options.json:
            show(figures, Console())
        print(as_line(figures))
    return 1 if failed else 0


@contextmanager
def _display(console: Console) -> Iterator[Progress]:
    """A spinner with the time on a terminal, a line per step elsewhere."""
    if not console.is_terminal:
        yield lambda says: console.print(f"{says} ...", highlight=False)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with ProgressDisplay(*columns, console=console, transient=True) as display:
        task = display.add_task("starting", total=None)

        def progress(says: str) -> None:
            display.reset(task, description=says, total=None)

        yield progress


def _stopped(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
