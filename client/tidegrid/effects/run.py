"""All effects of a module, running beside the grid: `run_effects`.

    async with connect("localhost:7411") as grid:
        async with run_effects(grid, "flights.py", state="effects.db") as run:
            await run.finished()

The end of the block drains: calls that are under way end, and what became of them is written; nothing new begins.
When one effect ends with an error, the others are drained, and the block raises that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Literal

from tidegrid.client.grid import Grid
from tidegrid.effects.clock import Clock, SystemClock
from tidegrid.effects.module import EffectModule, effect_module
from tidegrid.effects.performing import Failure
from tidegrid.effects.runner import EffectRunner, Progress, Surroundings
from tidegrid.effects.state import State
from tidegrid.effects.state_file import Parked
from tidegrid.grid.model.errors import CallerError, ConfigurationError, DeadlineError

_log = logging.getLogger(__name__)

Start = Literal["now", "begin"] | int


class EffectsRun:
    """An async context manager. Made by `run_effects`."""

    def __init__(
        self,
        grid: Grid,
        module: EffectModule,
        state: Path,
        start: Start,
        progress: Callable[[Progress], None],
        failure: Callable[[Failure], None],
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._grid = grid
        self._module = module
        self._start = start
        self._state = State(state)
        self._around = Surroundings(grid, self._state, module.namespace, clock, chance, progress, failure)
        self._runners: list[EffectRunner] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def progress(self) -> list[Progress]:
        """By effect, as declared."""
        return [runner.progress for runner in self._runners]

    async def __aenter__(self) -> EffectsRun:
        """Raises InUseError, WrongGridError, UnknownMapError, ConfigurationError, EpochTooNewError (of `start`)."""
        try:
            effects = [(effect.name, effect.on) for effect in self._module.effects]
            for _, map_name in effects:
                await self._grid.map(map_name).spec()
            start = await self._first_epoch()
            await self._state.open(
                self._grid.id
            )  # a start that the grid refuses leaves no file, which would be bound to it
            await self._state.check(effects)
            self._runners = [EffectRunner(effect, self._around) for effect in self._module.effects]
            for runner in self._runners:
                await runner.begin(start)
        except BaseException:
            await self._state.close()
            raise
        self._task = asyncio.get_running_loop().create_task(self._run(), name="tidegrid effects")
        return self

    async def _first_epoch(self) -> int:
        """The cursor of an effect that has none yet."""
        start = self._start
        if start == "begin":
            return 0
        if isinstance(start, int) and not isinstance(start, bool) and start >= 1:
            await self._grid.wait_closed(start - 1)  # one that no grid has come to would have no effects for ever
            return start - 1
        if start != "now":
            raise ConfigurationError(
                f"start={start!r}: effects start 'now', at the 'begin', or from an epoch (1 or more)"
            )
        await self._grid.refresh()
        return self._grid.closed

    async def _run(self) -> None:
        running = [asyncio.create_task(runner.run(), name="tidegrid effects") for runner in self._runners]
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            await asyncio.wait(running)
        finally:  # something is left only if this is being cancelled
            for task in running:
                task.cancel()
            ended = await asyncio.gather(*running, return_exceptions=True)
        for problem in ended:
            if isinstance(problem, BaseException):
                raise problem

    def stop(self) -> None:
        """Begins the end: see above. Idempotent."""
        for runner in self._runners:
            runner.stop()

    async def finished(self) -> None:
        """Returns when the run has ended: after `stop`, or raising what ended it (EffectFailedError, say)."""
        await asyncio.shield(self._entered())

    def _entered(self) -> asyncio.Task[None]:
        if self._task is None:
            raise CallerError("effects are run as `async with run_effects(...) as run:`")
        return self._task

    async def wait(self, epoch: int, *, deadline: float | None = None) -> None:
        """Returns once each effect is through with everything at or below `epoch`, and with what is driven again.

        Raises DeadlineError, and what ended the run, if something did.
        """
        task = self._entered()
        arriving = asyncio.ensure_future(self._arrive(epoch, deadline))
        try:
            async with asyncio.timeout(deadline):
                await asyncio.wait([arriving, task], return_when=asyncio.FIRST_COMPLETED)
            if not arriving.done():
                await self.finished()
                raise CallerError("the run of effects has ended")
            await arriving
        except TimeoutError:
            at = min((progress.epoch for progress in self.progress), default=0)
            raise DeadlineError(
                f"the effects are at epoch {at}, not yet at {epoch}; wait longer", epoch=epoch
            ) from None
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)

    async def _arrive(self, epoch: int, deadline: float | None) -> None:
        await self._grid.wait_closed(epoch, deadline=deadline)  # wakes a grid at rest
        for runner in self._runners:
            await runner.arrived(epoch)

    async def parked(self) -> list[Parked]:
        """What effects have given up on and kept, the oldest first."""
        return await self._state.parked()

    async def drive_again(self, numbers: Iterable[int] | None = None) -> list[int]:
        """Gives parked changes to their effects once more (None: all). Returns their numbers."""
        driven = await self._state.drive_again(numbers)
        for runner in self._runners:
            runner.look_anew()
            await runner.look()
        return driven

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = self._entered()
        self.stop()
        try:
            with contextlib.suppress(Exception) if kind is not None else contextlib.nullcontext():
                await task
        finally:
            if not task.done():  # this was cancelled while it drained
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await self._state.close()


def run_effects(
    grid: Grid,
    module: EffectModule | ModuleType | Path | str,
    *,
    state: Path | str,
    start: Start = "now",
    only: Iterable[str] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    failure: Callable[[Failure], None] | None = None,
    clock: Clock | None = None,
    chance: random.Random | None = None,
) -> EffectsRun:
    """Runs the effects of a module (`flights.py`, `pkg.flights`, or a module that is imported), from where `state` is.

    `state` is a SQLite file, made if there is none; one run at a time works with it. `start` is for an effect that has
    never run: "now" (what is closed by now is passed over), "begin", or an epoch, whose own changes are included.
    `only`: these effects of the module. `progress` and `failure` are called as things happen; do not block in them.
    Without `failure`, calls that fail are logged as warnings.
    Raises TriggerModuleError, ConfigurationError; entering it raises more.
    """
    found = module if isinstance(module, EffectModule) else effect_module(module)
    if only is not None:
        found = found.only(only)
    return EffectsRun(
        grid, found, Path(state), start, progress, failure or _logged, clock or SystemClock(), chance or random.Random()
    )


def _logged(failure: Failure) -> None:
    event, pause = failure.event, failure.pause_seconds
    then = "that was the last try" if pause is None else f"next try in {pause:.1f} s"
    _log.warning(
        "effect %s failed on %s (try %d): %s; %s", failure.effect, event.id, failure.tries, failure.error, then
    )
