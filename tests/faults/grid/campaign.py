"""Real nodes that talk by gRPC, clients that keep count, and one kind of fault, by seed.

    python -m tests.faults.grid.campaign --fault dead --seconds 60 --seed 1      or, all of them,    make faults

    dead     nodes are cut off from everything for good, and come back as new incarnations
    paused   nodes stand still, and go on later
    cut      nodes do not reach each other, but log and clients
    lossy    messages between nodes are lost, doubled and late
    all      one after the other of these, over bad links
    kill     the process with all nodes is killed -9, and started again

While they last, six workloads check every answer against models of their own (workloads.py). Then faults end, the
grid has to come to rest, everything is checked, the grid is restarted over its log, and everything is checked again.
The seed decides the faults and what clients ask; how both meet is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from tidegrid.client import Grid, connect

from tests.faults.grid.bank import ACCOUNTS, TRANSFERS, Bank
from tests.faults.grid.book import Book
from tests.faults.grid.chain import CHAIN, Chain
from tests.faults.grid.consequences import AGAIN, MIRROR, TALLY, TALLY_AGAIN, Consequences
from tests.faults.grid.cuts import Cuts
from tests.faults.grid.faults import NAMES
from tests.faults.grid.followers import Followers
from tests.faults.grid.hosts import GatedHost, Host, KilledHost
from tests.faults.grid.registers import REGISTERS, Registers
from tests.faults.grid.workloads import Stage, Workload

FAULTS = (*NAMES, "kill")
SETTLE_SECONDS = 60.0  # within which a grid without faults has to be at rest
CHECK_SECONDS = 180.0
START_SECONDS = 60.0


@dataclass(slots=True)
class Run:
    fault: str
    seconds: float
    seed: int
    nodes: int = 3
    evict_seconds: float = 3.0
    clients: int = 4
    hermits: int = 6
    pause: float = 0.02
    deadline: float = 10.0
    finish_seconds: float = 60.0  # for what clients have begun when faults end
    book: Book = field(default_factory=Book)
    counts: dict[str, int] = field(default_factory=dict)
    takeovers: int = 0
    epochs: int = 0
    phase: str = "starts"

    def host(self, directory: Path) -> Host:
        if self.fault == "kill":
            return KilledHost(directory, self.nodes, self.seed)
        return GatedHost(directory / "log", self.fault, self.nodes, self.evict_seconds, self.seed)

    def workloads(self) -> list[Workload]:
        registers = Registers()
        maps = (ACCOUNTS, TRANSFERS, REGISTERS, CHAIN, MIRROR, AGAIN, TALLY, TALLY_AGAIN)
        return [Bank(), registers, Chain(), Consequences(), Cuts(maps), Followers(maps, registers)]

    async def play(self) -> None:
        choose = random.Random(-self.seed)
        with tempfile.TemporaryDirectory(prefix=f"tidegrid-{self.fault}-{self.seed}-") as directory:
            host = self.host(Path(directory))
            self.counts = host.counts
            workloads = self.workloads()
            try:
                await host.start()
                async with self._clients(host, self.clients) as clients, self._clients(host, self.hermits) as hermits:
                    stage = Stage(self.book, choose, clients, self.pause, asyncio.Event(), hermits)
                    for workload in workloads:
                        await workload.prepare(stage)
                    await self._suffer(host, stage, workloads)
                    self.phase = "settles"
                    await self._within(SETTLE_SECONDS, host.heal(), host)
                    self.phase = "is checked"
                    for workload in workloads:
                        await self._within(CHECK_SECONDS, workload.check(stage), host)
                    self.epochs = max(int(grid.closed) for grid in clients)
                await host.stop()
                self.phase = "restarts"
                await host.start()
                async with self._clients(host, self.clients) as clients:
                    self.phase = "is checked again"
                    stage = Stage(self.book, choose, clients)
                    for workload in workloads:
                        await self._within(CHECK_SECONDS, workload.check_again(stage), host)
            finally:
                await host.stop()
            self.takeovers = await host.takeovers()
        self.phase = "has ended"

    async def _suffer(self, host: Host, stage: Stage, workloads: list[Workload]) -> None:
        assert stage.stop is not None
        working = [asyncio.ensure_future(run) for workload in workloads for run in workload.run(stage)]
        suffering = asyncio.ensure_future(host.suffer())
        self.phase = "suffers"
        try:
            await asyncio.wait([suffering, *working], timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            suffering.cancel()
            stage.stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await suffering
        self.phase = "settles"
        await self._within(SETTLE_SECONDS, host.heal(), host)
        self.phase = "finishes"
        await self._within(self.finish_seconds, asyncio.gather(*working), host)

    async def _within(self, seconds: float, work: Any, host: Host) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work
        except TimeoutError:
            self.book.anomaly(f"after {seconds:g} s the grid {self.phase} still:\n{host.state()}")
            raise

    @asynccontextmanager
    async def _clients(self, host: Host, count: int) -> AsyncIterator[list[Grid]]:
        async with contextlib.AsyncExitStack() as stack:
            clients: list[Grid] = []
            for number in range(count):
                addresses = host.addresses
                ordered = addresses[number % len(addresses) :] + addresses[: number % len(addresses)]
                async with asyncio.timeout(START_SECONDS):
                    clients.append(await stack.enter_async_context(connect(ordered, deadline=self.deadline)))
            yield clients

    def line(self) -> str:
        book = self.book
        suffered = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        return (
            f"{self.fault} (seed {self.seed}): {book.operations:,} operations, {book.ok:,} ok, {book.refused:,} refused, "
            f"{book.failed:,} failed, {book.unknown:,} unknown, {self.takeovers} takeovers, {suffered or 'nothing yet'}, "
            f"{len(book.anomalies)} anomalies"
        )

    def figures(self) -> dict[str, Any]:
        book = self.book
        return {
            "fault": self.fault, "seed": self.seed, "seconds": self.seconds, "nodes": self.nodes,
            "evict_seconds": self.evict_seconds, "operations": book.operations, "ok": book.ok, "refused": book.refused,
            "failed": book.failed, "unknown": book.unknown, "takeovers": self.takeovers, "epochs": self.epochs,
            "slowest_ok_s": round(book.slowest[0], 2), "faults": self.counts, "errors": book.errors,
            "anomalies": len(book.anomalies),
        }  # fmt: skip


async def show(run: Run, console: Console) -> None:
    """Plays it, with a line that moves."""
    started = time.monotonic()
    playing = asyncio.create_task(run.play())
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not playing.done():
            await asyncio.wait([playing], timeout=0.5)
            live.update(f"{time.monotonic() - started:5.0f} s  {run.phase:<18} {run.line()}", refresh=True)
    await playing


def main(kind: type[Run] = Run, name: str = "tests.faults.grid.campaign", description: str | None = __doc__) -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fault", choices=[*FAULTS, "each"], default="each")
    parser.add_argument("--seconds", type=float, default=60.0, help="that faults last [60]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument(
        "--evict-seconds", type=float, default=3.0, help="after which a node that is missed is put out [3]"
    )
    options = parser.parse_args()
    console, failed = Console(stderr=True), False
    for fault in FAULTS if options.fault == "each" else [options.fault]:
        run = kind(fault, options.seconds, options.seed, options.nodes, options.evict_seconds)
        try:
            asyncio.run(show(run, console))
        except Exception as error:
            run.book.anomaly(f"the run {run.phase} and broke: {error!r}")
            console.print_exception()
        print(run.line(), json.dumps(run.figures()), sep="\n", flush=True)
        if run.book.anomalies:
            failed = True
            print(f"seed {options.seed}, fault {fault}:", *run.book.anomalies[:20], sep="\n  ", flush=True)
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cpus", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
