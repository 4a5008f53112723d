"""Calls an effect for one change until it is done, given up, or the runner stops.

    call -> returned: DONE
         -> raised: pause, call again ... -> GiveUp raised, or `retries` used up: what it failed with
         -> asked to stop while pausing: None; the change is as if it had never been taken

A call that is under way is never cut short for a stop. A plain function is called in a thread, as it may block.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from tidegrid.effects.clock import Clock
from tidegrid.effects.place import Waiting, event_of
from tidegrid.effects.retry import exhausted, pause_seconds
from tidegrid.triggers.blame import line_of, text_of
from tidegrid.triggers.effect import EffectDeclaration, EffectEvent, GiveUp

ERROR_TEXT_MAX: Final = 2_000


class Failure(NamedTuple):
    """A call that raised. `tries`: how many there were for this change; `pause_seconds` None: it was the last one."""

    effect: str
    event: EffectEvent
    error: str
    tries: int
    pause_seconds: float | None


class Outcome(NamedTuple):
    """`failure` None: done."""

    failure: Failure | None


DONE: Final = Outcome(None)


class Performer:
    """Of one effect. `said` is told every failure, as it happens."""

    def __init__(
        self,
        effect: EffectDeclaration,
        namespace: dict[str, Any],
        grid_id: bytes,
        clock: Clock,
        chance: random.Random,
        stopping: asyncio.Event,
        said: Callable[[Failure], None],
    ) -> None:
        self._effect = effect
        self._namespace = namespace
        self._grid_id = grid_id
        self._clock = clock
        self._chance = chance
        self._stopping = stopping
        self._said = said
        self._threads: ThreadPoolExecutor | None = None
        if not effect.asynchronous:
            self._threads = ThreadPoolExecutor(effect.concurrency, thread_name_prefix=f"tidegrid-effect-{effect.name}")

    async def perform(self, change: Waiting) -> Outcome | None:
        failures = 0
        while True:
            tries = change.tried + failures + 1
            event = event_of(change, self._grid_id, self._effect.name, self._effect.on, tries)
            error = await self._call(event)
            if error is None:
                return DONE
            failures += 1
            final = isinstance(error, GiveUp) or exhausted(self._effect, failures)
            pause = None if final else pause_seconds(self._effect, failures, self._chance.random())
            failure = Failure(self._effect.name, event, self._text(error), tries, pause)
            self._said(failure)
            if pause is None:
                return Outcome(failure)
            if not await self._paused(pause):
                return None

    async def _call(self, event: EffectEvent) -> BaseException | None:
        """What it raised."""
        function = self._effect.function
        if self._threads is not None:
            return await asyncio.get_running_loop().run_in_executor(self._threads, _raised, function, event)
        try:
            await function(event)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return error  # of something that the effect waited for
        except (Exception, SystemExit) as error:
            return error
        return None

    async def _paused(self, seconds: float) -> bool:
        """False if it was cut short, as the runner stops."""
        pausing = asyncio.ensure_future(self._clock.sleep(seconds))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([pausing, stopping], return_when=asyncio.FIRST_COMPLETED)
            return not self._stopping.is_set()
        finally:
            pausing.cancel()
            stopping.cancel()
            await asyncio.gather(pausing, stopping, return_exceptions=True)

    def _text(self, error: BaseException) -> str:
        line = line_of(error, self._namespace)
        text = text_of(error) if not isinstance(error, GiveUp) else f"it gave up: {error}"
        said = (f"line {line}: {text}" if line else text)[:ERROR_TEXT_MAX]
        return said.encode("utf-8", "replace").decode()  # the state file takes no lone surrogates

    def close(self) -> None:
        """Waits for nobody: a call that hangs goes on in its thread."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _raised(function: Callable[[EffectEvent], Any], event: EffectEvent) -> BaseException | None:
    """As a value, because a StopIteration cannot be raised out of a thread."""
    try:
        function(event)
    except BaseException as error:
        return error
    return None
