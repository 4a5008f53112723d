"""The regeneration that a grid is at, if any: one at a time, for as long as somebody asks how far it is.

none --begin--> under way --> done (its report, or its error, is kept until another begins)
                          a dry run ends with what differs; any other goes on until readers see the new generation
                          --nobody asks, or `stop`--> none; its pieces stay, and it goes on there when asked for again
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.errors import CallerError, InUseError, StoppingError
from tidegrid.grid.runtime import switching
from tidegrid.grid.runtime.bases import Bases
from tidegrid.grid.runtime.clock import Clock
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.opening import fold_control
from tidegrid.grid.runtime.regeneration import Regeneration, RegenerationReport, forget_others
from tidegrid.grid.runtime.replay_crew import CrewOptions
from tidegrid.grid.runtime.replay_plan import ReplayPlan

BUILDING: Final = "loading it at the owners"
SWITCHING: Final = "switching"
PATIENCE_SECONDS: Final = 20.0  # after that nobody wants it any more


class Regenerations:
    def __init__(self, log: Log, bases: Bases, drivers: Sequence[Driver], clock: Clock) -> None:
        self._log = log
        self._bases = bases
        self._drivers = drivers
        self._clock = clock
        self._current: Regeneration | None = None
        self._task: asyncio.Task[RegenerationReport] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def current(self) -> Regeneration | None:
        """Under way, or done."""
        return self._current

    def begin(self, plan: ReplayPlan, options: CrewOptions, by: str | None) -> Regeneration:
        """`by`: who wants readers to see it, for people; None: it is a dry run. The same one, if it is under way, which goes on as it was begun. Raises InUseError,
        ConfigurationError, StoppingError."""
        if self._closed:
            raise StoppingError.of()
        current, task = self._current, self._task
        if current is not None and task is not None and not task.done():
            names = ", ".join(current.plan.maps)
            if current.plan.name == plan.name and current.dry_run == (by is None):
                if options in (current.options, CrewOptions()):
                    return current
                raise InUseError(
                    f"a regeneration of {names} is under way, by {current.options.words}: leave these options out to wait for it, or "
                    "stop the command that has begun it (Ctrl-C), and go on with others",
                    what="regeneration",
                )
            raise InUseError(
                f"a regeneration of {names} is under way, and there is one at a time; wait until it is done, or stop the command "
                "that has begun it (Ctrl-C)",
                what="regeneration",
            )
        made = self._current = Regeneration(self._log, plan, options, self._bases, by is None)
        self._task = asyncio.create_task(self._run(made, by))
        self.asked()
        return made

    async def _run(self, made: Regeneration, by: str | None) -> RegenerationReport:
        plan = made.plan
        kept = {plan.name, *(one.base for one in (await fold_control(self._log)).generations.regenerated())}
        self._bases.forget(kept)
        if isinstance(self._log, LocalLog):
            await asyncio.to_thread(forget_others, Path(self._log.directory), kept)
        report = await made.run()
        if by is not None:
            made.step(BUILDING)
            numbers = await switching.declare(self._log, plan, by, self._clock.instant().time_ms)
            await switching.complete(self._drivers, numbers)
            made.step(SWITCHING)
            acts_at = await switching.switch(self._log, numbers, by, self._clock.instant().time_ms)
            report.generations, report.seen_from = dict(numbers), acts_at
        return report

    async def report(self, seconds: float) -> RegenerationReport | None:
        """Of the current one; None: it is not done after so long. Raises what has ended it."""
        task = self._task
        assert task is not None
        self.asked()
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            return None
        if task.cancelled():
            raise CallerError("the regeneration was stopped, by somebody else perhaps; begin it again to go on")
        return task.result()

    def asked(self) -> None:
        """Somebody still wants it."""
        if self._watch is not None:
            self._watch.cancel()
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(PATIENCE_SECONDS, self._abandon)

    def _abandon(self) -> None:
        self._watch = None
        if self._task is not None and not self._task.done():
            self._task.cancel()

    async def stop(self) -> None:
        """Idempotent."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task

    async def close(self) -> None:
        self._closed = True
        await self.stop()
