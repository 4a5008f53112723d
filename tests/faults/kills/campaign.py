"""kill -9 at random moments: the serving process, the replica, or both, in the middle of a load; by seed.

    python -m tests.faults.kills.campaign --seeds 50 --first-seed 1      or    make faults

Each run loads the same rows under one named session while things die: the client lives on and retries through the
restart, or is given up and the whole load is repeated. At the end everything is compared with a model computed from
the CSV rows alone: every acknowledged write is there, once, under the version and epoch that its acknowledgement
said; nothing is doubled; the events are exactly the late departures; the replica holds the same rows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tidegrid.client import Grid, NamedSession, connect
from tidegrid.grid.model.errors import GridError

from examples.flights import data

TIDEGRID = str(Path(sys.executable).with_name("tidegrid"))
TRIGGERS = Path(data.__file__).with_name("flights.py")
NODES = 3
SECONDS_MAX = 120

Key = tuple[int, int, int, str, int, str]


def key_of(row: data.Row) -> Key:
    return int(row["year"]), int(row["month"]), int(row["day"]), row["carrier"], int(row["flight"]), row["origin"]


@dataclass(slots=True)
class Model:
    """What the rows amount to, by the rules of the example but none of its code."""

    rows: list[data.Row]
    keys: list[Key] = field(init=False)
    late: Counter[Key] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [key_of(row) for row in self.rows]
        assert len(set(self.keys)) == len(self.keys)
        late = (row for row in self.rows if row["dep_delay"] != "NA" and int(row["dep_delay"]) > 60)
        self.late = Counter(key_of(row) for row in late)


def free_ports(count: int) -> int:
    """The first of `count` free consecutive ports."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            for number in range(1, count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
            return port


class Child:
    """A command that can be killed and started again."""

    def __init__(self, name: str, directory: Path, *arguments: str) -> None:
        self.name = name
        self._arguments = arguments
        self._output = directory / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._output.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                TIDEGRID, *self._arguments, stdout=output, stderr=output
            )

    async def kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def end(self) -> int:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        return await self._process.wait()

    def story(self) -> str:
        return f"--- {self.name}\n{self._output.read_text()[-2000:]}"


@dataclass(slots=True)
class Run:
    seed: int
    directory: Path
    model: Model
    kills: int = 0
    acks: dict[Key, tuple[int, int]] = field(default_factory=dict)  # key -> (version, epoch) as acknowledged first
    repeated: int = 0

    async def play(self) -> None:
        choose = random.Random(self.seed)
        port = free_ports(2 * NODES)
        address = f"127.0.0.1:{port}"
        serve = ["serve", "--nodes", str(NODES), "--port", str(port), "--peer-port", str(port + NODES)]
        serve += [
            "--data",
            str(self.directory / "log"),
            "--triggers",
            str(TRIGGERS),
            "--checkpoint-bytes",
            str(choose.choice([2_000_000, 8_000_000, 1_000_000_000])),
        ]
        database = self.directory / "flights.db"
        server = Child("serve", self.directory, *serve)
        replica = Child(
            "replica", self.directory, "replica", "flights", "--to", f"sqlite:///{database}", "--server", address
        )
        await server.start()
        try:
            async with connect(address, deadline=SECONDS_MAX) as grid:
                outcomes = await grid.map("planes").put_many((row["tailnum"], row) for row in data.planes())
                await grid.wait_closed(max(outcome.epoch for outcome in outcomes))
            await replica.start()
            for round_ in range(choose.randint(1, 3)):
                lives = choose.random() < 0.5
                await self._load_while_killing(address, server, replica, choose, lives, round_)
            async with connect(address, deadline=SECONDS_MAX) as grid:
                await self._load(grid)
                assert len(self.acks) == len(self.model.keys)
                await self._check_grid(grid)
                await self._check_replica(grid, replica, database)
        except BaseException:
            print(server.story(), replica.story(), sep="\n")
            raise
        finally:
            await replica.end()
            await server.end()

    async def _load(self, grid: Grid) -> None:
        session = NamedSession(f"kills {self.seed}".encode())
        pairs = zip(self.model.keys, self.model.rows, strict=True)
        row = 0
        async for outcomes in grid.map("flights.raw").put_stream(pairs, session=session):
            for outcome in outcomes:
                key = self.model.keys[row]
                row += 1
                if isinstance(outcome, GridError):
                    raise outcome
                if outcome.version == 0:  # accepted before, details let go
                    self.repeated += 1
                    self.acks.setdefault(key, (1, 0))
                    continue
                self.repeated += outcome.repeated
                known = self.acks.setdefault(key, (outcome.version, outcome.epoch))
                assert known[1] in (0, outcome.epoch) and known[0] == outcome.version, (
                    f"{key}: acknowledged as {known}, then as {outcome}"
                )

    async def _load_while_killing(
        self, address: str, server: Child, replica: Child, choose: random.Random, lives: bool, round_: int
    ) -> None:
        async with connect(address, deadline=SECONDS_MAX) as grid:
            loading = asyncio.create_task(self._load(grid))
            for _ in range(choose.randint(1, 2)):
                await asyncio.wait([loading], timeout=choose.uniform(0.0, 0.8))
                victims = choose.choice([[server], [server], [replica], [server, replica]])
                for victim in victims:
                    await victim.kill()
                    self.kills += 1
                for victim in victims:
                    await victim.start()
            if lives:
                await loading
            else:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)

    async def _check_grid(self, grid: Grid) -> None:
        late: Counter[Key] = Counter()
        names: set[tuple[int, int, int]] = set()
        closed = await grid.wait_closed(max(epoch for _, epoch in self.acks.values()) or grid.closed)
        raw = {entry.key: entry async for entry in grid.map("flights.raw").scan(as_of=closed)}
        typed = {entry.key: entry async for entry in grid.map("flights").scan(as_of=closed)}
        assert raw.keys() == typed.keys() == set(self.model.keys)
        for key, row in zip(self.model.keys, self.model.rows, strict=True):
            version, epoch = self.acks[key]
            entry = raw[key]
            assert entry.version == typed[key].version == version == 1, f"{key} is at version {entry.version}"
            assert epoch in (0, entry.epoch) and entry.value == row
            assert typed[key].epoch == entry.epoch
        async with grid.map("delays").subscribe(after=0, marks=True) as feed:
            last = 0
            async for batch in feed:
                assert batch.epoch >= last
                last = batch.epoch
                for change in batch.changes:
                    names.add((change.partition, change.position, change.index))
                    late[change.key] += 1
                if batch.epoch >= closed:
                    break
        assert late == self.model.late, (
            f"events are not the late departures: {late - self.model.late} too many, {self.model.late - late} missing"
        )
        assert len(names) == late.total()

    async def _check_replica(self, grid: Grid, replica: Child, database: Path) -> None:
        last = max(entry for _, entry in self.acks.values()) or grid.closed
        deadline = time.monotonic() + SECONDS_MAX
        while True:  # it is another process: its position table is what tells
            with (
                contextlib.suppress(sqlite3.OperationalError),
                contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as sql,
            ):
                found = sql.execute("SELECT epoch FROM tidegrid_position WHERE state = 'live'").fetchone()
                if found is not None and found[0] >= last:
                    break
            assert time.monotonic() < deadline, f"the replica does not reach epoch {last}"
            await asyncio.sleep(0.05)
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as sql:
            rows = sql.execute(
                "SELECT year, month, day, carrier, flight, origin, dep_delay, _version FROM flights"
            ).fetchall()
        wanted = {key: row["dep_delay"] for key, row in zip(self.model.keys, self.model.rows, strict=True)}
        assert len(rows) == len(wanted)
        for *key, delay, version in rows:
            said = wanted.pop(tuple(key))
            assert (None if said == "NA" else int(said)) == delay and version == 1


def runs(first_seed: int, seeds: int, rows: int) -> Iterator[tuple[int, Run]]:
    model = Model(list(islice(data.flights(), rows)))
    for seed in range(first_seed, first_seed + seeds):
        with tempfile.TemporaryDirectory(prefix=f"tidegrid-kills-{seed}-") as directory:
            run = Run(seed, Path(directory), model)
            asyncio.run(run.play())
            yield seed, run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.kills.campaign", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    kills = repeated = 0
    started = time.monotonic()
    for seed, run in runs(options.first_seed, options.seeds, options.rows):
        kills, repeated = kills + run.kills, repeated + run.repeated
        print(
            f"seed {seed}: {run.kills} kills, {len(run.acks):,} rows there once, {run.repeated:,} answered from request memory",
            flush=True,
        )
    print(json.dumps({"seeds": options.seeds, "first_seed": options.first_seed, "rows": options.rows, "kills": kills, "repeated": repeated, "anomalies": 0, "seconds": round(time.monotonic() - started), "python": sys.version.split()[0], "cpus": os.cpu_count()}))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
