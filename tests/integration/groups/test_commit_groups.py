"""Three nodes and a client, over gRPC and in one process: groups are in the grid whole, or not at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tidegrid import embedded
from tidegrid.client import Grid, commit, connect
from tidegrid.client.grpc_transport import GrpcTransport
from tidegrid.grid.app.config import ServeOptions
from tidegrid.grid.app.serving import serve
from tidegrid.grid.model.errors import (
    ConflictError,
    DeadlineError,
    DerivedMapError,
    GroupRefusedError,
    InvalidKeyError,
    InvalidValueError,
    RejectedError,
    TooLargeError,
    UnavailableError,
    WrongKindError,
)
from tidegrid.grid.model.maps import MapKind
from tidegrid.v1 import control_pb2, grid_pb2

TRIGGERS = """
from tidegrid.triggers import Context, Event, Put, Reject, Write, stream, table, trigger

table("flights.raw", key=("number:int",))
table("flights", like="flights.raw")
stream("delays")

@trigger(on="flights.raw", emits=("flights", "delays"))
def translate(write: Write, grid: Context):
    row = write.value
    if not row["carrier"]:
        raise Reject("no carrier")
    yield Put("flights", write.key, {"carrier": row["carrier"], "delay": int(row["delay"])})
    if int(row["delay"]) > 60:
        yield Event("delays", write.key, {"minutes": int(row["delay"])})
"""


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[Grid]:
    module = tmp_path / "flights.py"
    module.write_text(TRIGGERS)
    options = ServeOptions(memory=True, port=0, nodes=3, triggers=(str(module),), tick_ms=10)
    async with serve(options) as serving, connect(serving.nodes[0].address, deadline=30) as grid:
        yield grid


@asynccontextmanager
async def in_process(tmp_path: Path) -> AsyncIterator[Grid]:
    module = tmp_path / "flights.py"
    module.write_text(TRIGGERS)
    async with embedded.open(nodes=3, triggers=[module], tick=0.01, deadline=30) as grid:
        yield grid


@pytest.fixture(params=[served, in_process])
async def grid(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Grid]:
    async with request.param(tmp_path) as opened:
        yield opened


def flight(delay: int, carrier: str = "UA") -> dict[str, str]:
    return {"carrier": carrier, "delay": str(delay)}


async def test_a_group_over_all_nodes_is_in_one_epoch(grid: Grid) -> None:
    accounts = await grid.create_map("accounts")
    async with grid.commit_group() as group:
        for number in range(40):
            group.map("accounts").put(number, number)
    assert [ack.version for ack in group.outcome.acks] == [1] * 40
    entries = await accounts.get_many(range(40))
    assert [entry and entry.value for entry in entries] == list(range(40))
    assert {entry and entry.epoch for entry in entries} == {group.outcome.epoch}


async def test_a_conflict_in_one_part_keeps_all_of_it_out(grid: Grid) -> None:
    accounts = await grid.create_map("accounts")
    ack = await accounts.put(7, "before")
    with pytest.raises(GroupRefusedError) as caught:
        async with grid.commit_group() as group:
            for number in range(20):
                group.map("accounts").put(number, "after", if_version=ack.version + 1 if number == 7 else None)
    (reason,) = caught.value.reasons
    assert (reason.map, reason.key) == ("accounts", (7,))
    assert isinstance(reason.error, ConflictError)
    assert (reason.error.expected, reason.error.current) == (2, 1)
    found = await accounts.get_many(range(20))
    assert [entry.value for entry in found if entry is not None] == ["before"]
    async with grid.commit_group() as group:
        for number in range(20):
            group.map("accounts").put(number, "after", if_version=1 if number == 7 else None)
    assert group.outcome.acks[7].version == 2
    assert {entry and entry.value for entry in await accounts.get_many(range(20))} == {"after"}


async def test_the_reason_names_the_write_within_its_partition(grid: Grid) -> None:
    await grid.create_map("pairs", key=("a", "b:int"), affinity=1)  # all of one `a` in one partition
    with pytest.raises(GroupRefusedError) as caught:
        async with grid.commit_group() as group:
            for number in range(4):
                group.map("pairs").put(("x", number), number, if_version=5 if number == 2 else None)
    assert [reason.key for reason in caught.value.reasons] == [("x", 2)]


async def test_the_same_key_twice_is_written_twice_in_order(grid: Grid) -> None:
    accounts = await grid.create_map("accounts")
    async with grid.commit_group() as group:
        group.map("accounts").put("A", 1, if_absent=True)
        group.map("accounts").put("B", 1)
        group.map("accounts").put("A", 2, if_version=1)
        group.map("accounts").delete("A", if_version=2)
        group.map("accounts").put("A", 4, if_absent=True)
    assert [ack.version for ack in group.outcome.acks] == [1, 1, 2, 3, 4]
    found = await accounts.get("A")
    assert found is not None
    assert (found.value, found.version) == (4, 4)


async def test_triggers_run_and_may_refuse_the_whole(grid: Grid) -> None:
    await grid.create_map("log", kind=MapKind.STREAM)
    async with grid.map("delays").subscribe() as feed, grid.map("log").subscribe() as log:
        with pytest.raises(GroupRefusedError, match="no carrier") as caught:
            async with grid.commit_group() as group:
                group.map("flights.raw").put(1, flight(90))
                group.map("flights.raw").put(2, flight(90, carrier=""))
        (reason,) = caught.value.reasons
        assert isinstance(reason.error, RejectedError)
        assert (reason.key, reason.error.trigger) == ((2,), "translate")
        async with grid.commit_group() as group:
            group.map("flights.raw").put(3, flight(5))
            group.map("flights.raw").put(4, flight(95))
            group.map("log").put("loaded", [3, 4])
        batch = await anext(feed)
        assert batch.epoch == group.outcome.epoch
        assert [(change.key, change.value) for change in batch.changes] == [((4,), {"minutes": 95})]
        batch = await anext(log)
        assert (batch.epoch, [change.value for change in batch.changes]) == (group.outcome.epoch, [[3, 4]])
    found = await grid.map("flights").get_many([1, 2, 3, 4])
    assert [entry and entry.value["delay"] for entry in found] == [None, None, 5, 95]
    assert {entry.epoch for entry in found if entry is not None} == {group.outcome.epoch}


async def test_what_cannot_be_is_refused_with_its_reason(grid: Grid) -> None:
    await grid.create_map("log", kind=MapKind.STREAM)
    await grid.create_map("numbers", key=("n:int",))
    with pytest.raises(DerivedMapError):
        async with grid.commit_group() as group:
            group.map("flights").put(1, {})
    with pytest.raises(WrongKindError):
        async with grid.commit_group() as group:
            group.map("log").put(1, {}, if_version=1)
    with pytest.raises(GroupRefusedError) as caught:
        async with grid.commit_group() as group:
            group.map("numbers").put("one", {})
    assert isinstance(caught.value.reasons[0].error, InvalidKeyError)
    with pytest.raises(TooLargeError, match="one partition"):
        async with grid.commit_group() as group:
            for _ in range(3):
                group.map("numbers").put(1, "x" * 400_000)
    async with grid.commit_group() as group:  # as much, over several partitions
        for number in range(5):
            group.map("numbers").put(number, "x" * 400_000)
    assert group.outcome.epoch


async def test_a_group_is_whole_at_one_epoch_in_a_feed(grid: Grid) -> None:
    await grid.create_map("accounts")
    async with grid.map("accounts").subscribe() as feed:
        epochs = {}
        for value in range(5):
            async with grid.commit_group() as group:
                for number in range(10):
                    group.map("accounts").put(number, value)
            epochs[value] = group.outcome.epoch
        seen: dict[int, list[int]] = {value: [] for value in range(5)}
        async for batch in feed:
            for change in batch.changes:
                seen[change.value].append(batch.epoch)
            if sum(map(len, seen.values())) == 50:
                break
    assert seen == {value: [epoch] * 10 for value, epoch in epochs.items()}


async def test_transfers_keep_the_total_at_every_closed_epoch(grid: Grid) -> None:
    accounts = await grid.create_map("accounts")
    names = list(range(12))
    async with grid.commit_group(ack="closed") as opening:
        for name in names:
            opening.map("accounts").put(name, 100)
    assert grid.closed >= opening.outcome.epoch
    done = refused = 0

    async def clerk(seed: int) -> None:
        nonlocal done, refused
        chance = random.Random(seed)
        moved = 0
        while moved < 6:
            one, other = chance.sample(names, 2)
            amount = chance.randrange(1, 30)
            paying, paid = await accounts.get_many([one, other])
            assert paying is not None and paid is not None
            try:
                async with grid.commit_group() as group:
                    group.map("accounts").put(one, paying.value - amount, if_version=paying.version)
                    group.map("accounts").put(other, paid.value + amount, if_version=paid.version)
            except GroupRefusedError as error:
                assert all(isinstance(reason.error, ConflictError) for reason in error.reasons)
                refused += 1
                continue
            mine = await accounts.get(one)  # of any owner, and it has the group
            assert mine is not None and mine.version > paying.version
            done, moved = done + 1, moved + 1

    clerks = [asyncio.create_task(clerk(seed)) for seed in range(8)]
    audited = 0
    epoch = opening.outcome.epoch
    while not all(clerk.done() for clerk in clerks):
        closed = await grid.wait_closed(epoch + 1) if audited else grid.closed
        for epoch in range(epoch, closed + 1):  # noqa: B020 (where the last one ended)
            entries = await accounts.get_many(names, as_of=epoch)
            assert sum(entry.value for entry in entries if entry is not None) == 1_200, f"as of {epoch}"
            audited += 1
        if all(clerk.done() for clerk in clerks):
            break
        await asyncio.wait(clerks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*clerks)
    assert done == 48
    last = await accounts.get_many(names)
    assert sum(entry.version for entry in last if entry is not None) == 2 * done + len(names)
    assert sum(entry.value for entry in last if entry is not None) == 1_200
    assert audited > 1


async def test_other_writes_of_a_partition_are_not_starved_by_groups(tmp_path: Path) -> None:
    async with embedded.open(partitions=1, deadline=30) as grid:
        accounts = await grid.create_map("accounts")
        groups = 0
        ended = False

        async def committer(name: int) -> None:
            nonlocal groups
            while not ended:
                async with grid.commit_group() as group:
                    group.map("accounts").put(name, 1)
                groups += 1

        committers = [asyncio.create_task(committer(name)) for name in range(16)]
        for value in range(5):
            before = groups
            await accounts.put("x", value)
            assert groups - before < 300, "a put waits for few groups"
        ended = True
        await asyncio.gather(*committers)
        assert groups


async def test_groups_need_no_ticks(tmp_path: Path) -> None:
    async with embedded.open(nodes=3, tick=None) as grid:
        accounts = await grid.create_map("accounts")
        closed = grid.closed
        async with grid.commit_group() as group:
            for number in range(10):
                group.map("accounts").put(number, number)
        assert [entry and entry.value for entry in await accounts.get_many(range(10))] == list(range(10))
        assert grid.closed == closed < group.outcome.epoch
        assert await grid.tick() >= group.outcome.epoch
        assert (await accounts.get(3, as_of=group.outcome.epoch)) is not None


class LossyTransport(GrpcTransport):
    """Loses answers to commits after the node has done its work: so many, or all of the node that is asked first."""

    def __init__(self) -> None:
        super().__init__()
        self.lose = 0
        self.lose_first = False
        self.asked: list[int] = []

    async def call(self, member: control_pb2.Member, method: str, request: Any, timeout: float) -> Any:
        reply = await super().call(member, method, request, timeout)
        if method == "Commit":
            self.asked.append(member.node)
            self.lose -= 1
            if self.lose >= 0 or (self.lose_first and member.node == self.asked[0]):
                raise UnavailableError("the connection broke", address=member.address)
        return reply


async def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "GRACE_SECONDS", 0.01)
    options = ServeOptions(memory=True, port=0, nodes=3, tick_ms=10)
    transport = LossyTransport()
    async with serve(options) as serving:
        async with connect(serving.nodes[0].address, deadline=30, transport=transport) as grid:
            accounts = await grid.create_map("accounts")

            async def write(version: int) -> None:
                async with grid.commit_group() as group:
                    for number in range(12):
                        group.map("accounts").put(number, "x", if_version=version - 1)
                assert [ack.version for ack in group.outcome.acks] == [version] * 12
                found = await accounts.get_many(range(12))
                assert {entry and (entry.version, entry.epoch) for entry in found} == {(version, group.outcome.epoch)}

            transport.lose = 2
            await write(1)
            assert len(transport.asked) == 3
            assert len(set(transport.asked)) == 1, "the same node"
            transport.asked, transport.lose_first = [], True
            monkeypatch.setattr(commit, "ATTEMPT_SECONDS", 0.2)
            await write(2)
            assert len(set(transport.asked)) > 1, "another one when the first is out of time"
            transport.lose_first, transport.lose = False, 1
            with pytest.raises(GroupRefusedError):  # a refusal is the same when it is asked for again
                await write(2)
            assert {entry and entry.version for entry in await accounts.get_many(range(12))} == {2}
        await transport.close()


async def test_a_group_that_cannot_have_its_partitions_ends_by_its_deadline(tmp_path: Path) -> None:
    async with embedded.open(nodes=3, tick=None) as grid:
        await grid.create_map("accounts")
        stopped = grid.local.drivers[2].node
        stopped.stop()
        sent = [driver._peers.send for driver in grid.local.drivers]
        for driver in grid.local.drivers:  # nobody hears of node 2, nor it of others
            driver._peers.send = lambda to, envelope, send=sent[0]: None  # type: ignore[method-assign,misc]
        with pytest.raises(DeadlineError, match="nothing of it was stored"):
            async with grid.commit_group(deadline=0.3) as group:
                for number in range(10):
                    group.map("accounts").put(number, number)
        assert await grid.map("accounts").get(0) is None


async def test_a_node_refuses_what_is_no_group(grid: Grid) -> None:
    await grid.create_map("accounts")
    dispatcher = grid._dispatcher
    member = dispatcher.lane(dispatcher.partitions[0]).member
    for request, kind in (
        (grid_pb2.CommitRequest(group=b"x" * 16), InvalidValueError),
        (grid_pb2.CommitRequest(group=b"", writes=[_batch(0)]), InvalidValueError),
        (grid_pb2.CommitRequest(group=b"x" * 65, writes=[_batch(0)]), InvalidValueError),
        (grid_pb2.CommitRequest(group=b"x" * 16, writes=[_batch(999)]), InvalidValueError),
        (grid_pb2.CommitRequest(group=b"x" * 16, writes=[_batch(0, 1_001)]), TooLargeError),
    ):
        request.carry.CopyFrom(dispatcher.causality.carry())
        reply = await dispatcher.transport.call(member, "Commit", request, 10)
        assert reply.error.code == kind.code
        assert not reply.epoch


def _batch(partition: int, count: int = 1) -> grid_pb2.WriteBatch:
    return grid_pb2.WriteBatch(
        partition=partition,
        session=b"\x01" + bytes(23),
        first_sequence=1,
        map="accounts",
        keys=[b"k"] * count,
        values=[b"\x01"] * count,
    )


async def test_two_groups_of_one_client_at_once(grid: Grid) -> None:
    accounts = await grid.create_map("accounts")

    async def run(value: int) -> list[int]:
        async with grid.commit_group() as group:
            for number in range(10):
                group.map("accounts").put(number, value)
        return [ack.version for ack in group.outcome.acks]

    versions = await asyncio.gather(*map(run, range(6)))
    assert sorted(versions) == [[version] * 10 for version in range(1, 7)]
    assert len({entry and entry.value for entry in await accounts.get_many(range(10))}) == 1


def test_the_example_of_the_docs_runs() -> None:
    text = (Path(__file__).parents[3] / "docs" / "groups.md").read_text()
    program = text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(compile(program, "docs/groups.md", "exec"), names)
