"""How far a regeneration is: a bar on a terminal, with its rate and when it ends, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from tidegrid.grid.app.output import Output

if TYPE_CHECKING:
    from tidegrid.v1 import grid_pb2

LINE_SECONDS: Final = 5.0
_RUNNING: Final = ("raw writes", "routed outputs")  # the steps in which triggers run


class RegenerationBar:
    def __init__(self, output: Output) -> None:
        self._output = output
        self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> RegenerationBar:
        if self._output.live:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[words]}"),
                console=self._output.console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=1.0, words="")
            self._bar.start()
        return self

    def __call__(self, found: grid_pb2.RegenerationProgress) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=found.step, completed=done(found), words=words(found))
        elif time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            self._output.note(f"{found.step} ({done(found) * 100:.0f} %): {words(found)}")

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def done(found: grid_pb2.RegenerationProgress) -> float:
    """The share of the step that is done."""
    if found.bytes:
        return min(1.0, found.bytes_done / found.bytes)
    return found.tasks_done / found.tasks if found.tasks else 0.0


def words(found: grid_pb2.RegenerationProgress) -> str:
    parts = [f"{found.tasks_done} of {found.tasks} partitions"]
    if found.step in _RUNNING:
        parts.append(f"{found.writes:,} writes")
        if found.fresh_writes and found.seconds > 0:
            parts.append(f"{found.fresh_writes / found.seconds:,.0f}/s")
    if found.resumed:
        parts.append(f"{found.resumed} parts were done already")
    share = done(found)
    if 0.02 < share < 1 and found.step_seconds > 1:
        left = found.step_seconds * (1 - share) / share
        parts.append(f"about {duration(left)} left of this step")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"
