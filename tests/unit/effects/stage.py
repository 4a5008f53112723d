"""A runner on a grid of dicts: modules made of functions, a clock to step, and what the effects were called with."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tidegrid.client import Grid
from tidegrid.effects import StateFile
from tidegrid.triggers import EffectEvent

from tests.unit.client.fake_grid import FakeGrid


def module_of(*declared: tuple[Callable[..., Any], dict[str, Any]]) -> ModuleType:
    """A module that declares each function as an effect with these options, on stream `s` unless they say otherwise."""
    module = ModuleType("author")
    for function, options in declared:
        module.__dict__.update(function=function, options={"on": "s", **options})
        exec("from tidegrid.triggers import effect\neffect(**options)(function)", module.__dict__)
    return module


def grid_of(nodes: int = 1) -> FakeGrid:
    fake = FakeGrid(partitions=4, nodes=nodes)
    fake.add_map("s", kind=2)
    fake.add_map("t")
    return fake


class SteppedClock:
    """`slept` has every pause that was asked for."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.time

    def time_ms(self) -> int:
        return int(self.time * 1_000)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        waker = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.time + seconds, len(self.slept), waker))
        await waker

    def step(self, seconds: float) -> None:
        self.time += seconds
        while self._sleepers and self._sleepers[0][0] <= self.time:
            waker = heapq.heappop(self._sleepers)[2]
            if not waker.done():
                waker.set_result(None)

    @property
    def pauses(self) -> list[float]:
        """Without the runner's own looks at its state file, once a second exactly."""
        return [seconds for seconds in self.slept if seconds != 1.0]


class Outside:
    """The world outside: keeps what it was asked, and fails as often as it is told to, by value."""

    def __init__(self, failures: dict[Any, int] | None = None) -> None:
        self.failures = dict(failures or {})
        self.events: list[EffectEvent] = []

    @property
    def values(self) -> list[Any]:
        return [event.value for event in self.events]

    def take(self, event: EffectEvent) -> None:
        self.events.append(event)
        left = self.failures.get(event.value, 0) if isinstance(event.value, str) else 0
        if left:
            self.failures[event.value] = left - 1
            raise ConnectionError(f"no line for {event.value}")


class Doors:
    """An effect that waits in front of a door, by value; `inside` is who is being served."""

    def __init__(self) -> None:
        self.doors: dict[Any, asyncio.Event] = {}
        self.inside: list[Any] = []
        self.left: list[Any] = []

    async def enter(self, event: EffectEvent) -> None:
        self.inside.append(event.value)
        try:
            await self.doors.setdefault(event.value, asyncio.Event()).wait()
            self.left.append(event.value)
        finally:
            self.inside.remove(event.value)

    def open(self, *values: Any) -> None:
        for value in values:
            self.doors.setdefault(value, asyncio.Event()).set()


async def write(fake: FakeGrid, grid: Grid, values: list[Any], map_name: str = "s", key: Any = None) -> int:
    """Closes an epoch that has them, in their order; of one key each, unless they share one."""
    for value in values:
        await grid.map(map_name).put(value if key is None else key, value)
    return fake.tick()


def cursor_of(state: Path, effect: str = "take") -> int:
    file = StateFile(state)
    try:
        return next(cursor.epoch for cursor in file.cursors() if cursor.effect == effect)
    finally:
        file.close()
