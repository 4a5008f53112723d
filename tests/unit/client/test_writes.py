from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tidegrid.client import Ack, Grid, connect
from tidegrid.grid.model.errors import (
    BusyError,
    CallerError,
    ConflictError,
    DeadlineError,
    InvalidKeyError,
    OutcomeUnknownError,
    RejectedError,
    StoppingError,
    TooLargeError,
    UnavailableError,
    UnknownMapError,
    WrongGridError,
    WrongOwnerError,
)
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import decode_value
from tidegrid.v1 import grid_pb2

from tests.unit.client.fake_grid import FakeGrid, FakeTransport, until


def stored(fake: FakeGrid, key: object) -> list[object]:
    chain = fake.chains.get(("m", encode_key(key)), [])
    return [None if value is None else decode_value(value) for _, _, _, value in chain]


def once(fake: FakeGrid) -> bool:
    return len(set(fake.applied)) == len(fake.applied)


async def test_put_get_delete(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    assert await m.put("a", {"n": 1}) == Ack(1, 5, False)
    assert await m.put(("a",), {"n": 2}) == Ack(2, 5, False)
    entry = await m.get("a")
    assert entry is not None and (entry.key, entry.value, entry.version, entry.epoch) == (("a",), {"n": 2}, 2, 5)
    assert await m.delete("a") == Ack(3, 5, False)
    assert await m.get("a") is None
    assert stored(fake, "a") == [{"n": 1}, {"n": 2}, None]
    assert [entry and entry.value for entry in await m.get_many(["a", "b"])] == [None, None]


async def test_concurrent_puts_share_messages(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.put("first", 0)
    fake.requests.clear()
    acks = await asyncio.gather(*(m.put(index, index) for index in range(1000)))
    assert len(acks) == 1000 and all(ack.version == 1 for ack in acks)
    assert len(fake.requests) <= 3
    assert sum(len(batch.keys) for request in fake.requests for batch in request.writes) == 1000
    assert once(fake)


async def test_what_comes_while_the_window_is_full_is_collected(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.put("first", 0)
    fake.requests.clear()
    fake.gate.clear()
    puts = []
    for index in range(50):
        puts.append(asyncio.ensure_future(m.put(index, index)))
        for _ in range(5):
            await asyncio.sleep(0)
    assert len(fake.requests) == 2  # the window
    fake.gate.set()
    await asyncio.gather(*puts)
    assert len(fake.requests) == 3
    assert once(fake)


async def test_sequences_are_consecutive_and_the_watermark_follows(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    for index in range(20):
        await m.put(index % 3, index)
    seen: dict[int, int] = {}
    for request in fake.requests:
        for batch in request.writes:
            assert batch.first_sequence == seen.get(batch.partition, 0) + 1
            assert batch.lowest_unanswered == batch.first_sequence
            assert len(batch.session) == 24 and batch.session[0] == 1
            assert int.from_bytes(batch.session[8:16], "big") <= fake.epoch
            seen[batch.partition] = batch.first_sequence + len(batch.keys) - 1


async def test_a_lost_answer_is_asked_again_and_doubles_nothing(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    fake.lose_answers = 3
    ack = await m.put("a", 1)
    assert ack.repeated and ack.version == 1
    assert stored(fake, "a") == [1]
    assert once(fake)


async def test_many_lost_answers_under_load(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")

    async def writer(name: int) -> None:
        for index in range(30):
            if (name + index) % 13 == 0:
                fake.lose_answers = 1
            await m.put((name, index), index)

    await asyncio.gather(*(writer(name) for name in range(20)))
    assert once(fake)
    assert len(fake.chains) == 600 and all(len(chain) == 1 for chain in fake.chains.values())


async def test_refusals_are_tried_again(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    fake.refuse.extend(
        [BusyError.of("the queue", 5), StoppingError.of(), WrongOwnerError("moved", partition=0, owner=1, view=2)]
    )
    assert (await m.put("a", 1)).version == 1
    assert stored(fake, "a") == [1]
    fake.refuse.append(BusyError.of("the queue", 5))
    entry = await m.get("a")
    assert entry is not None and entry.value == 1


async def test_only_what_was_refused_goes_again(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    refused: set[tuple[int, int]] = set()

    def refuse(batch: object, index: int) -> BusyError | RejectedError | None:
        sequence = (batch.partition, batch.first_sequence + index)  # type: ignore[attr-defined]
        if sequence[1] % 3 == 0:
            return RejectedError("not this one", trigger="t", line=1)
        if sequence[1] % 2 == 0 and sequence not in refused:
            refused.add(sequence)
            return BusyError.of("the queue", 5)
        return None

    fake.refuse_writes = refuse
    outcomes = await asyncio.gather(*(m.put(index, index) for index in range(100)), return_exceptions=True)
    rejected = [outcome for outcome in outcomes if isinstance(outcome, RejectedError)]
    assert len(fake.applied) + len(rejected) == 100 and refused and rejected
    assert once(fake)
    # Nothing is open: the next write tells that all before it were answered.
    fake.refuse_writes = None
    await asyncio.gather(*(m.put(index, index) for index in range(100)))
    last = {batch.partition: batch for batch in fake.requests[-1].writes}
    assert all(batch.lowest_unanswered == batch.first_sequence for batch in last.values())


async def test_busy_until_the_deadline_is_the_error(fake: FakeGrid, grid: Grid) -> None:
    fake.refuse_writes = lambda batch, index: BusyError.of("the queue", 5)
    with pytest.raises(BusyError):
        await grid.map("m").put("a", 1, deadline=0.1)
    assert not fake.applied


async def test_no_answer_until_the_deadline_is_an_unknown_outcome(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    fake.swallow_answers = 1
    with pytest.raises(DeadlineError, match=r"unknown.*get"):
        await m.put("a", 1, deadline=0.1)
    assert stored(fake, "a") == [1]
    await m.put("a", 2)
    assert stored(fake, "a") == [1, 2]
    first, second = (request.writes[0] for request in fake.requests)
    assert second.first_sequence == first.first_sequence + 1  # a name is never used twice
    assert second.lowest_unanswered == second.first_sequence


async def test_a_lost_answer_and_then_no_node_is_an_unknown_outcome(fake: FakeGrid, grid: Grid) -> None:
    fake.lose_answers = 1
    put = asyncio.ensure_future(grid.map("m").put("a", 1, deadline=0.2))
    await until(lambda: fake.applied)
    fake.kill(0)
    with pytest.raises(DeadlineError, match="unknown"):
        await put


async def test_a_dead_node_is_named(fake: FakeGrid, grid: Grid) -> None:
    fake.kill(0)
    with pytest.raises(UnavailableError, match=r"node0:1.*not stored"):
        await grid.map("m").put("a", 1, deadline=1.0)
    with pytest.raises(UnavailableError):
        await grid.map("m").get("a", deadline=1.0)


async def test_killed_in_flight_and_back_again(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    fake.gate.clear()
    put = asyncio.ensure_future(m.put("a", 1))
    await until(lambda: fake.requests)
    hellos = fake.hellos
    fake.kill(0)
    await until(lambda: fake.hellos > hellos + 1)
    fake.gate.set()
    fake.down.clear()
    assert (await put).version == 1
    assert stored(fake, "a") == [1]


async def test_partitions_that_move_take_their_writes_along() -> None:
    fake = FakeGrid(partitions=4, nodes=2)
    fake.add_map("m")
    async with connect("node0:1", transport=fake.transport()) as grid:
        m = grid.map("m")
        await asyncio.gather(*(m.put(index, 1) for index in range(50)))
        for partition in (0, 2):
            fake.move(partition, 1)
        await asyncio.gather(*(m.put(index, 2) for index in range(50)))
        assert [entry and entry.value for entry in await m.get_many(range(50))] == [2] * 50
        fake.move(1, 0)
        assert [entry and entry.value for entry in await m.get_many(range(50))] == [2] * 50
    assert once(fake) and all(len(chain) == 2 for chain in fake.chains.values())


async def test_cancelled_puts_do_not_hurt_the_others(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    fake.gate.clear()
    puts = [asyncio.ensure_future(m.put(index, index)) for index in range(40)]
    await until(lambda: fake.requests)
    later = [asyncio.ensure_future(m.put(100 + index, index)) for index in range(40)]
    await asyncio.sleep(0)
    for index in range(0, 40, 2):
        puts[index].cancel()
        later[index].cancel()
    fake.gate.set()
    done = await asyncio.gather(*puts, *later, return_exceptions=True)
    assert sum(isinstance(outcome, Ack) for outcome in done) == 40
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in done) == 40
    assert once(fake)


async def test_a_put_that_was_cancelled_before_it_was_sent_is_not_sent(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    fake.kill(0)
    puts = [asyncio.ensure_future(m.put(1, index, if_absent=index == 4)) for index in range(5)]
    deletes = [asyncio.ensure_future(m.delete(1)) for _ in range(2)]
    hellos = fake.hellos
    await until(lambda: fake.hellos > hellos)
    later = [asyncio.ensure_future(m.put(1, 10 + index)) for index in range(4)]
    later.append(asyncio.ensure_future(m.delete(1)))
    later.append(asyncio.ensure_future(m.put(1, 15, if_absent=True)))
    await asyncio.sleep(0)
    for index in (0, 2):
        later[index].cancel()
    fake.down.clear()
    await asyncio.gather(*puts, *deletes, *later, return_exceptions=True)
    assert stored(fake, 1) == [0, 1, 2, 3, None, None, 11, 13, None, 15]


async def test_conditions(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    ack = await m.put("a", 1, if_absent=True)
    with pytest.raises(ConflictError) as caught:
        await m.put("a", 2, if_absent=True)
    assert caught.value.current == 1
    assert (await m.put("a", 2, if_version=ack.version)).version == 2
    results = await asyncio.gather(*(m.put("a", index, if_version=2) for index in range(5)), return_exceptions=True)
    assert sum(isinstance(result, Ack) for result in results) == 1
    with pytest.raises(ConflictError):
        await m.delete("a", if_version=1)
    assert (await m.delete("a", if_version=3)).version == 4


async def test_bad_input_costs_no_message(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    with pytest.raises(InvalidKeyError):
        await m.put(float("nan"), 1)
    with pytest.raises(TooLargeError):
        await m.put("a", "x" * 600_000)
    with pytest.raises(TooLargeError):
        await m.put("x" * 5000, 1)
    for wrong in ({"schema": -1}, {"if_version": -1}, {"schema": 1 << 32}, {"if_version": 1, "if_absent": True}):
        with pytest.raises(CallerError):
            await m.put("a", 1, **wrong)  # type: ignore[arg-type]
    with pytest.raises(CallerError, match="as_of"):
        await m.get("a", as_of=0)
    assert not fake.requests
    fake.add_map("flights")
    with pytest.raises(UnknownMapError, match="flights"):
        await grid.map("flihgts").put("a", 1)
    await grid.map("flights").put("a", 1)  # a map that was declared after we connected


async def test_sessions_are_renewed_by_epochs(fake: FakeGrid) -> None:
    fake.session_epochs = 10
    async with connect("node0:1", transport=fake.transport()) as grid:
        m = grid.map("m")
        sessions = []
        for _ in range(4):
            await m.put("a", 1)
            sessions.append(fake.requests[-1].writes[0].session)
            fake.tick(2)
            await m.get("a")
        assert sessions[0] == sessions[1] == sessions[2] != sessions[3]
        assert int.from_bytes(sessions[3][8:16], "big") > int.from_bytes(sessions[0][8:16], "big")
        assert fake.requests[-2].writes[0].first_sequence == 1


async def test_an_idle_client_whose_session_has_expired(fake: FakeGrid) -> None:
    fake.session_epochs = 10
    expired: list[bytes] = []

    def refuse(batch: grid_pb2.WriteBatch, index: int) -> OutcomeUnknownError | None:
        if int.from_bytes(batch.session[8:16], "big") + 10 >= fake.epoch:
            return None
        expired.append(batch.session)
        return OutcomeUnknownError("this session has expired")

    fake.refuse_writes = refuse
    async with connect("node0:1", transport=fake.transport()) as grid:
        m = grid.map("m")
        await m.put("a", 1)
        fake.tick(50)
        assert (
            await m.put("a", 2)
        ).version == 2  # nothing was applied under the old name: it is written under a new one
        assert expired and stored(fake, "a") == [1, 2]
        fake.tick(50)
        outcomes = await m.put_many((index, index) for index in range(100))
        assert all(isinstance(outcome, Ack) for outcome in outcomes)
        # After a lost answer nobody knows, and the client must not guess.

        async def pass_time(request: grid_pb2.ExchangeRequest) -> None:
            if fake.lose_answers:
                fake.tick(50)

        fake.before_answer = pass_time
        fake.lose_answers = 1
        with pytest.raises(OutcomeUnknownError):
            fake.memory.clear()
            put = asyncio.ensure_future(m.put("b", 1))
            await until(lambda: not fake.lose_answers)
            fake.memory.clear()
            await put
    assert stored(fake, "b") == [1]


async def test_outcome_unknown_passes_up(fake: FakeGrid, grid: Grid) -> None:
    fake.refuse_writes = lambda batch, index: OutcomeUnknownError("expired")
    with pytest.raises(OutcomeUnknownError):
        await grid.map("m").put("a", 1)


async def test_another_grid_at_the_same_address(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.put("a", 1)
    fake.kill(0)
    fake.grid_id = b"H" * 16
    fake.down.clear()
    with pytest.raises(WrongGridError):
        await grid.refresh()


async def test_another_grid_when_the_owner_is_looked_for_anew(
    fake: FakeGrid, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that stops has answered as it was; whoever answers at its address now is another grid."""
    m = grid.map("m")
    hello = FakeTransport.hello

    async def replaced(*arguments: Any) -> grid_pb2.HelloReply:
        reply = await hello(*arguments)
        reply.carry.grid_id = b"H" * 16
        return reply

    monkeypatch.setattr(FakeTransport, "hello", replaced)
    for ask in (lambda: m.put("a", 1), lambda: m.get("a")):
        fake.refuse.append(StoppingError("the node is stopping"))
        async with asyncio.timeout(30):
            with pytest.raises(WrongGridError, match="another grid answers than before"):
                await ask()


async def test_large_values_are_spread_over_messages() -> None:
    fake = FakeGrid(partitions=1, limits=Limits(message_bytes_max=100_000, batch_writes_max=50))
    fake.add_map("m")
    async with connect("node0:1", transport=fake.transport()) as grid:
        m = grid.map("m")
        await asyncio.gather(
            *(m.put(index, "x" * 9_000) for index in range(60)), *(m.put(1000 + index, 1) for index in range(200))
        )
        assert all(request.ByteSize() < 100_000 for request in fake.requests)
        assert all(len(batch.keys) <= 50 for request in fake.requests for batch in request.writes)
    assert once(fake) and len(fake.applied) == 260


async def test_the_token_goes_out_with_every_request(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    fake.tick(3)
    await m.put("a", 1)
    assert grid.token() == (fake.grid_id, fake.control, fake.epoch)
    await m.get("a")
    carry = fake.requests[-1].carry
    assert (carry.grid_id, carry.control, carry.epoch) == grid.token()


async def test_closing_finishes_what_is_in_flight(fake: FakeGrid) -> None:
    async with connect("node0:1", transport=fake.transport()) as grid:
        fake.gate.clear()
        put = asyncio.ensure_future(grid.map("m").put("a", 1))
        await until(lambda: fake.requests)
        asyncio.get_running_loop().call_later(0.02, fake.gate.set)
    assert (await put).version == 1
    with pytest.raises(CallerError, match="closed"):
        await grid.map("m").put("a", 1)


async def test_closing_gives_up_after_the_deadline(fake: FakeGrid) -> None:
    async with connect("node0:1", deadline=0.2, transport=fake.transport()) as grid:
        fake.swallow_answers = 1
        put = asyncio.ensure_future(grid.map("m").put("a", 1))
        await until(lambda: fake.requests)
    with pytest.raises((DeadlineError, CallerError)):
        await put


async def test_nothing_answers() -> None:
    fake = FakeGrid(nodes=2)
    fake.down = {0, 1}
    with pytest.raises(UnavailableError, match="node0:1"):
        async with connect("node0:1", deadline=0.1, transport=fake.transport()):
            pass
    with pytest.raises(UnavailableError, match="node0:1, node1:1"):
        async with connect(["node0:1", "node1:1"], deadline=0.1, transport=fake.transport()):
            pass
    fake.down = {0}
    async with connect(["node0:1", "node1:1"], deadline=1, transport=fake.transport()) as grid:
        assert grid.partitions == 4


async def test_a_grid_that_is_still_starting() -> None:
    fake = FakeGrid()
    fake.ready = False
    with pytest.raises(DeadlineError, match="starting"):
        async with connect("node0:1", deadline=0.05, transport=fake.transport()):
            pass
    async with connect("node0:1", deadline=0.05, transport=fake.transport(), wait_ready=False):
        pass
    asyncio.get_running_loop().call_later(0.02, setattr, fake, "ready", True)
    async with connect("node0:1", deadline=5, transport=fake.transport()):
        pass
