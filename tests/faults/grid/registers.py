"""Registers, each with one writer: what a client sees of them never goes back, through every takeover.

- read-your-writes: a client reads at least the version that it was acknowledged last;
- monotonic reads: at least the version that it has seen before;
- a linearizable read sees at least what any client was acknowledged before the read began;
- one history: a version of a key has one value, whoever is told of it, as acknowledgement or as read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import cast

from tidegrid.client import Grid
from tidegrid.client.moment import Consistency

from tests.faults.grid.book import NoAnswer
from tests.faults.grid.workloads import Stage

REGISTERS = "registers"


class Registers:
    def __init__(self, registers_each: int = 8) -> None:
        self._each = registers_each
        self._acknowledged: dict[str, int] = {}  # key -> version, by whomever
        self._content: dict[tuple[str, int], int] = {}  # (key, version) -> value
        self.epochs: dict[tuple[str, int], int] = {}  # (key, version) -> epoch, of acknowledged writes

    async def prepare(self, stage: Stage) -> None:
        await stage.clients[0].create_map(REGISTERS, key=("register",))

    def run(self, stage: Stage) -> list[Awaitable[None]]:
        keys = [f"{client}/{number}" for client in range(len(stage.clients)) for number in range(self._each)]
        runs: list[Awaitable[None]] = []
        for number, grid in enumerate(stage.clients):
            seen: dict[str, int] = {}
            own = [key for key in keys if key.startswith(f"{number}/")]
            runs.append(self._write(stage, grid, own[: len(own) // 2], seen))
            runs.append(self._write(stage, grid, own[len(own) // 2 :], seen))
            runs.append(self._read(stage, grid, keys, seen))
        runs += [self._read_alone(stage, grid, stage.choose.choice(keys)) for grid in stage.hermits]
        return runs

    async def _write(self, stage: Stage, grid: Grid, own: list[str], seen: dict[str, int]) -> None:
        registers, value = grid.map(REGISTERS), 0
        while not stage.stopped:
            await stage.think()
            key, value = stage.choose.choice(own), value + 1
            try:
                ack = await stage.book.write(f"put {key}", registers.put(key, value, deadline=stage.patience()))
                last = self._acknowledged.get(key, 0)
                stage.book.expect(ack.version > last, f"{key}: acknowledged as version {ack.version} after {last}")
                self._acknowledged[key] = max(last, ack.version)
                self._same(stage, key, ack.version, value)
                self.epochs[key, ack.version] = ack.epoch
                seen[key] = max(ack.version, seen.get(key, 0))
                if stage.choose.random() < 0.5:
                    await self._look(stage, grid, key, seen, stage.choose.random() < 0.3)
            except NoAnswer:
                continue

    async def _read(self, stage: Stage, grid: Grid, keys: list[str], seen: dict[str, int]) -> None:
        while not stage.stopped:
            await stage.think()
            try:
                await self._look(stage, grid, stage.choose.choice(keys), seen, stage.choose.random() < 0.3)
            except NoAnswer:
                continue

    async def _read_alone(self, stage: Stage, grid: Grid, key: str) -> None:
        seen: dict[str, int] = {}
        while not stage.stopped:
            await asyncio.sleep(stage.choose.uniform(0.1, 1.0))
            try:
                await self._look(stage, grid, key, seen, linearizable=True)
            except NoAnswer:
                continue

    async def _look(self, stage: Stage, grid: Grid, key: str, seen: dict[str, int], linearizable: bool) -> None:
        floor = seen.get(key, 0)
        if linearizable:
            floor = max(floor, self._acknowledged.get(key, 0))
        consistency: Consistency = "linearizable" if linearizable else "causal"
        entry = await stage.book.read(f"get {key}", grid.map(REGISTERS).get(key, consistency=consistency))
        version = entry.version if entry is not None else 0
        stage.book.expect(version >= floor, f"{key}: a {consistency} read finds version {version}, below {floor}")
        if entry is not None:
            seen[key] = max(version, seen.get(key, 0))
            self._same(stage, key, version, cast(int, entry.value))

    def _same(self, stage: Stage, key: str, version: int, value: int) -> None:
        known = self._content.setdefault((key, version), value)
        stage.book.expect(known == value, f"{key} at version {version} is {known}, and {value}")

    async def check(self, stage: Stage) -> None:
        for grid in stage.clients:
            epoch = await grid.wait_closed(max(self.epochs.values(), default=1))
            rows = {str(entry.key[0]): entry async for entry in grid.map(REGISTERS).scan(as_of=epoch)}
            for key, version in self._acknowledged.items():
                found = rows[key].version if key in rows else 0
                stage.book.expect(
                    found >= version, f"{key} is at version {found} in the end; {version} was acknowledged"
                )
                if key in rows:
                    self._same(stage, key, found, rows[key].value)

    async def check_again(self, stage: Stage) -> None:
        await self.check(stage)
