"""Triggers in worker processes as users see them: what a worker does is what the node would do, and what it cannot do to
the node. Real processes, real limits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tidegrid import embedded
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.model.errors import GridError, GroupRefusedError, RejectedError, TriggerSuspendedError
from tidegrid.grid.runtime.local_grid import GridOptions
from tidegrid.grid.runtime.pool import WorkerOptions

APART = """
import os
from tidegrid.triggers import *
table("raw", key=("k",), affinity=1); table("out", like="raw"); table("far", key=("n:int",)); stream("end", key=("n:int",))
reference("names", key=("n:int",))
table("inline", key=("k",)); table("beside", like="inline")


@trigger(on="raw", emits=("out", "far"), isolation="process", budget=0.2)
def make(write, grid):
    value = write.value
    if value == "loop":
        while True:
            pass
    if value == "stubborn":
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
    if value == "die":
        os._exit(3)
    if value == "bomb":
        value = "x" * (1 << 40)
    if value == "secrets":
        yield Put("out", write.key, dict(os.environ))
        return
    if value == "open":
        open("/etc/hostname")
    if value == "socket":
        import socket
        socket.socket()
    if value == "fork":
        os.posix_spawn("/bin/true", ["true"], {})
    if value == "where":
        yield Put("out", write.key, os.getpid())
        return
    if value == "veto":
        raise Reject("not that")
    previous = grid.get("raw", write.key)
    yield Put("out", write.key, [write.version, write.previous, previous, grid.get("names", 1), grid.random.random() < 2])
    if isinstance(value, int):
        yield Put("far", value, write.key[0])


@trigger(on="far", emits="end", isolation="process", budget=0.2)
def go_on(write):
    yield Event("end", write.key, [write.value, __import__("os").getpid()])


@trigger(on="inline", emits="beside")
def near(write):
    yield Put("beside", write.key, __import__("os").getpid())
"""


@asynccontextmanager
async def opened(source: str = APART, nodes: int = 1) -> AsyncIterator[EmbeddedGrid]:
    options = GridOptions(workers=WorkerOptions(count=2))
    async with embedded.open(nodes=nodes, partitions=4, options=options) as grid:
        await grid.deploy(("module", source))
        yield grid


@pytest.fixture
async def grid() -> AsyncIterator[EmbeddedGrid]:
    async with opened() as grid:
        yield grid


async def test_it_runs_elsewhere_and_does_the_same(grid: EmbeddedGrid) -> None:
    raw, out = grid.map("raw"), grid.map("out")
    await grid.map("names").put(1, "one")
    await grid.wait_closed((await raw.put("other", "where")).epoch)
    pid = (await out.get("other")).value
    assert pid != os.getpid()
    for value in (10, 11):
        ack = await raw.put("a", value)
    await grid.wait_closed(ack.epoch)
    assert (await out.get("a")).value == [2, 10, 11, "one", True]
    assert (await grid.map("far").get(11)).value == "a"
    assert (await grid.map("far").get(10)).value == "a"


async def test_a_loop_is_killed_and_the_others_go_on(grid: EmbeddedGrid) -> None:
    raw, out = grid.map("raw"), grid.map("out")
    await raw.put("warm", 1)
    loops = [asyncio.create_task(raw.put(key, value)) for key, value in (("l", "loop"), ("s", "stubborn"))]
    others = await raw.put_many([(f"k{n}", n) for n in range(40)])
    near = await grid.map("inline").put("n", 1)
    for loop in loops:
        with pytest.raises(RejectedError, match="longer than its budget") as refused:
            await loop
        assert refused.value.trigger == "make" and refused.value.failed
    assert all(not isinstance(one, Exception) for one in others)
    await grid.wait_closed(max(near.epoch, *(one.epoch for one in others)))
    assert (await out.get("k7")).value[2] == 7 and await out.get("l") is None
    assert (await grid.map("beside").get("n")).value == os.getpid()


async def test_one_write_among_many_is_to_blame(grid: EmbeddedGrid) -> None:
    rows = [(f"k{n}", "loop" if n == 30 else n) for n in range(60)]
    outcomes = await grid.map("raw").put_many(rows)
    assert [at for at, one in enumerate(outcomes) if isinstance(one, RejectedError)] == [30]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("die", "exit code 3"),
        ("bomb", "MemoryError"),
        ("open", "Too many open files"),
        ("socket", "Too many open files"),
        ("veto", "rejected key"),
    ],
)
async def test_what_a_worker_may_not(grid: EmbeddedGrid, value: str, said: str) -> None:
    with pytest.raises(RejectedError, match=said):
        await grid.map("raw").put("a", value)
    assert (await grid.map("raw").put("a", 1)).version == 1


async def test_no_secret_is_in_its_environment(grid: EmbeddedGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGRID_TEST_SECRET", "secret")
    ack = await grid.map("raw").put("a", "secrets")
    await grid.wait_closed(ack.epoch)
    assert set((await grid.map("out").get("a")).value) <= {"LANG", "LC_CTYPE"}


async def test_parked_writes_of_a_worker_and_their_redrive() -> None:
    parking = APART.replace("budget=0.2)\ndef make", 'budget=0.2, on_error="park")\ndef make')
    async with opened(parking) as grid:
        raw = grid.map("raw")
        ack = await raw.put("a", "loop")
        assert ack.version == 1 and ack.parked is not None and "budget" in ack.parked
        assert (await raw.get("a")).value == "loop"
        await grid.deploy(("module", parking.replace('"loop"', '"no loop"')))
        outcomes = await grid.redrive(map="raw")
        assert [one.outcome for one in outcomes] == ["redriven"]
        assert (await grid.map("out").get("a")).value[:3] == [1, None, "loop"]


async def test_groups_with_isolated_writes(grid: EmbeddedGrid) -> None:
    async with grid.commit_group() as group:
        group.map("inline").put("a", 1)
        group.map("raw").put("a", 1)
        group.map("raw").put("b", 2)
        group.map("raw").put("a", 3)
    assert group.outcome is not None
    await grid.wait_closed(group.outcome.epoch)
    assert (await grid.map("out").get("a")).value[:3] == [2, 1, 3]
    with pytest.raises(GroupRefusedError, match="budget"):
        async with grid.commit_group() as group:
            group.map("raw").put("x", 1)
            group.map("raw").put("y", "loop")
    assert await grid.map("raw").get("x") is None


async def test_what_overruns_again_and_again_is_suspended(grid: EmbeddedGrid) -> None:
    raw = grid.map("raw")
    for _ in range(3):
        with pytest.raises(RejectedError, match="budget"):
            await raw.put("a", "loop")
    with pytest.raises(TriggerSuspendedError, match="deployments --resume make") as refused:
        await raw.put("a", 1)
    assert refused.value.trigger == "make"
    await grid.deploy(("module", APART + "# anew\n"))
    assert (await raw.put("a", 1)).version == 1


async def test_a_plan_says_what_it_did_not_try(grid: EmbeddedGrid) -> None:
    await grid.map("inline").put("n", 1)
    ack = await grid.map("raw").put("a", 1)
    await grid.wait_closed(ack.epoch)
    inline = APART.replace('isolation="process", ', "")
    for source in (APART + "# anew\n", inline):  # that of the active code is enough
        plan = (await grid.deploy(("module", source), dry_run=True)).plan
        found = {sample.map: (sample.writes, sample.untried) for sample in plan.samples}
        assert found == {"raw": (0, "runs in a worker process"), "inline": (1, "")}


async def test_an_inline_loop_is_stopped_and_then_suspended() -> None:
    inline = APART.replace('isolation="process", ', "")
    async with opened(inline) as grid:
        raw = grid.map("raw")
        for _ in range(3):
            with pytest.raises(RejectedError, match=r"line 1[34], failed.*longer than its budget"):
                await raw.put("a", "loop")
        with pytest.raises(TriggerSuspendedError):
            await raw.put("a", 1)
        assert (await grid.map("inline").put("n", 1)).version == 1


async def test_several_nodes_and_everything_is_gone_at_the_end() -> None:
    async with opened(nodes=3) as grid:
        acks = await grid.map("raw").put_many([(f"k{n}", n) for n in range(200)])
        await grid.wait_closed(max(one.epoch for one in acks))
        assert len([entry async for entry in grid.map("far").scan()]) == 200
        processes = grid.local.pool.processes
        assert 1 <= len(processes) <= 2
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_no_write_is_to_blame_for_workers_that_were_killed_while_they_were_idle(grid: EmbeddedGrid) -> None:
    raw, pool = grid.map("raw"), grid.local.pool
    await raw.put_many([(f"k{n}", n) for n in range(200)])
    processes = {worker.process for worker in (*pool._idle, *pool._busy)}
    while pool._busy:
        await asyncio.gather(*(raw.put(f"k{n}", n) for n in range(4)))
    for process in processes:
        process.kill()
        await asyncio.to_thread(process.wait)
    assert (await raw.put("after", 1)).version == 1
    assert processes.isdisjoint(worker.process for worker in (*pool._idle, *pool._busy))


async def test_a_machine_without_open_files_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, refused = socket.socketpair, [OSError(errno.EMFILE, "too many open files"), RuntimeError("of ours")]

    def no_pair() -> tuple[socket.socket, socket.socket]:
        if refused:
            raise refused.pop()
        return pair()

    async with opened() as grid:
        monkeypatch.setattr(socket, "socketpair", no_pair)
        for _ in range(2):
            with contextlib.suppress(GridError):
                await grid.map("raw").put("a", 1)
        ack = await grid.map("raw").put("a", 2)
        await grid.wait_closed(ack.epoch)
    assert not refused


async def test_a_turn_of_one_that_gives_up_is_anothers() -> None:
    async with opened() as grid:
        await grid.map("raw").put("a", 1)
        pool = grid.local.pool
        taken = [pool._idle.pop() for _ in pool._idle[:]]
        pool._busy.update(taken)
        code = taken[0].code
        while len(taken) < 2:
            taken.append(await pool._taken(code))
        one, other = (asyncio.create_task(pool._taken(code)) for _ in range(2))
        await asyncio.sleep(0)
        pool._give_back(taken.pop(), kept=True)
        one.cancel()
        taken.append(await asyncio.wait_for(other, 10.0))
        for worker in taken:
            pool._give_back(worker, kept=True)


async def test_a_suspended_trigger_shows_and_is_resumed(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(nodes=2) as grid:
        raw = grid.map("raw")
        for _ in range(3):
            with pytest.raises(RejectedError, match="budget"):
                await raw.put("a", "loop")
        told = [one for member in await grid.status() if member.status for one in member.status.suspended]
        assert [one.trigger for one in told] == ["make"] and "3 writes within" in told[0].words
        assert [record.levelname for record in caplog.records if "suspended" in record.message] == ["ERROR"]
        with pytest.raises(TriggerSuspendedError):
            await raw.put("a", 1)
        assert await grid.resume("another") == [] and await grid.resume("make") == ["make"]
        assert (await raw.put("a", 1)).version == 1
