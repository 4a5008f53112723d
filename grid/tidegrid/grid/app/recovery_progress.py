"""Says that the log is being read when that takes more than two seconds: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from typing import Any

from tidegrid.grid.app.output import Output
from tidegrid.grid.model.ids import PartitionId

QUIET_SECONDS = 2.0
LINE_SECONDS = 5.0


class RecoveryProgress:
    """A `Progress` of the runtime: called as (partition, entries of it so far)."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._began = time.monotonic()
        self._said = self._began + QUIET_SECONDS - LINE_SECONDS
        self._entries: dict[PartitionId, int] = {}
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, partition: PartitionId, entries: int) -> None:
        self._entries[partition] = entries
        now = time.monotonic()
        if now - self._began < QUIET_SECONDS:
            return
        if self._output.live:
            self._show()
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            self._output.note(f"reading the log: {self.entries:,} entries, partition {partition} ...")

    @property
    def entries(self) -> int:
        return sum(self._entries.values())

    def _show(self) -> None:
        if self._bar is None:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("reading the log"),
                BarColumn(),
                TextColumn("{task.completed:,} entries, {task.fields[partitions]} partitions"),
                TimeElapsedColumn(),
                console=self._output.console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=None, partitions=0)
            self._bar.start()
        self._bar.update(self._task, completed=self.entries, partitions=len(self._entries))

    def end(self) -> None:
        """Idempotent."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        seconds = time.monotonic() - self._began
        if self._entries and seconds >= QUIET_SECONDS:
            self._output.note(f"read {self.entries:,} entries in {seconds:.1f} s ({self.entries / seconds:,.0f}/s)")
