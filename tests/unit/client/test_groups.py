from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator

import pytest
from tidegrid.client import Grid, commit, connect
from tidegrid.grid.model.errors import (
    BusyError,
    CallerError,
    ConflictError,
    DeadlineError,
    DerivedMapError,
    FormatError,
    GroupRefusedError,
    InvalidKeyError,
    InvalidValueError,
    OutcomeUnknownError,
    RejectedError,
    StoppingError,
    TooLargeError,
    UnavailableError,
    UnknownMapError,
)
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.v1 import grid_pb2

from tests.unit.client.fake_grid import FakeGrid, until

KEYS = [f"key {index}" for index in range(8)]  # in all four partitions


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts that are over soon."""
    monkeypatch.setattr(commit, "ATTEMPT_SECONDS", 0.05)
    monkeypatch.setattr(commit, "GRACE_SECONDS", 0.01)


@pytest.fixture
async def three(fake: FakeGrid) -> AsyncIterator[Grid]:
    """A client of three nodes."""
    fake.nodes, fake.owners = 3, [partition % 3 for partition in range(4)]
    async with connect("node0:1", deadline=5, transport=fake.transport()) as opened:
        yield opened


def value_of(fake: FakeGrid, key: str, map_name: str = "m") -> bytes | None:
    found = fake.find(map_name, encode_key(key))
    return found[3] if found else None


async def test_a_group_is_one_request_and_one_epoch(fake: FakeGrid, grid: Grid) -> None:
    async with grid.commit_group() as group:
        for index, key in enumerate(KEYS):
            group.map("m").put(key, index)
        group.map("m").delete(KEYS[0])
        assert not fake.commits
    assert len(fake.commits) == 1
    assert group.outcome.epoch == fake.epoch
    assert [ack.version for ack in group.outcome.acks] == [1] * len(KEYS) + [2]
    assert {ack.epoch for ack in group.outcome.acks} == {fake.epoch}
    assert await grid.map("m").get(KEYS[0]) is None
    assert [entry and entry.value for entry in await grid.map("m").get_many(KEYS[1:])] == list(range(1, 8))


async def test_writes_of_a_partition_keep_their_order_over_maps_and_schemas(fake: FakeGrid, grid: Grid) -> None:
    fake.add_map("n")
    async with grid.commit_group() as group:
        group.map("m").put("k", 1)
        group.map("m").put("k", 2, if_version=1)
        group.map("n").put("k", 3)
        group.map("m").put("k", 4, schema=7)
        group.map("m").put("k", 5)
    (_, request) = fake.commits[0]
    assert [(batch.map, batch.schema, len(batch.keys)) for batch in request.writes] == [
        ("m", 0, 2),
        ("n", 0, 1),
        ("m", 7, 1),
        ("m", 0, 1),
    ]
    sequences = [batch.first_sequence for batch in request.writes]
    assert sequences == [1, 3, 4, 5]
    assert {batch.lowest_unanswered for batch in request.writes} == {1}
    assert [ack.version for ack in group.outcome.acks] == [1, 2, 1, 3, 4]


async def test_a_block_that_raises_commits_nothing(fake: FakeGrid, grid: Grid) -> None:
    with pytest.raises(ZeroDivisionError):
        async with grid.commit_group() as group:
            group.map("m").put("a", 1)
            raise ZeroDivisionError
    assert not fake.commits
    with pytest.raises(CallerError, match="no outcome"):
        _ = group.outcome


async def test_an_empty_group_asks_nobody(fake: FakeGrid, grid: Grid) -> None:
    async with grid.commit_group() as group:
        pass
    assert not fake.commits
    assert group.outcome == (0, ())


async def test_a_group_takes_writes_in_its_block_only(grid: Grid) -> None:
    group = grid.commit_group()
    with pytest.raises(CallerError, match="within its block"):
        group.map("m").put("a", 1)
    async with group:
        group.map("m").put("a", 1)
    with pytest.raises(CallerError, match="within its block"):
        group.map("m").delete("a")
    with pytest.raises(CallerError, match="used once"):
        await group.__aenter__()


async def test_what_is_wrong_shows_at_the_call(fake: FakeGrid, grid: Grid) -> None:
    async with grid.commit_group() as group:
        target = group.map("m")
        with pytest.raises(InvalidKeyError):
            target.put(float("nan"), 1)
        with pytest.raises(InvalidValueError):
            target.put("a", object())
        with pytest.raises(CallerError, match="either"):
            target.put("a", 1, if_version=3, if_absent=True)
        with pytest.raises(CallerError, match="if_version"):
            target.delete("a", if_version=-1)
        with pytest.raises(CallerError, match="schema"):
            target.put("a", 1, schema=-1)
    assert not fake.commits
    with pytest.raises(CallerError, match="durable"):
        grid.commit_group(ack="soon")  # type: ignore[arg-type]


async def test_too_large_a_group_is_refused_at_the_call(fake: FakeGrid) -> None:
    fake.limits = Limits(group_writes_max=3, message_bytes_max=2_000)
    async with connect("node0:1", transport=fake.transport()) as grid:
        with pytest.raises(TooLargeError, match="4 writes"):
            async with grid.commit_group() as group:
                for index in range(4):
                    group.map("m").put(index, index)
        with pytest.raises(TooLargeError, match="bytes"):
            async with grid.commit_group() as group:
                group.map("m").put(1, "x" * 1_000)
                group.map("m").put(2, "x" * 1_000)
    assert not fake.commits


async def test_an_unknown_map_shows_at_the_end_with_near_names(fake: FakeGrid, grid: Grid) -> None:
    fake.add_map("accounts")
    with pytest.raises(UnknownMapError, match="accounts"):
        async with grid.commit_group() as group:
            group.map("acounts").put("A", 1)
    async with grid.commit_group() as group:  # one that this client had not heard of
        group.map("accounts").put("A", 1)
    assert group.outcome.epoch


async def test_a_refused_group_names_every_key_with_its_reason(fake: FakeGrid, grid: Grid) -> None:
    await grid.map("m").put("a", 1)
    await grid.map("m").put("b", 1)
    with pytest.raises(GroupRefusedError) as caught:
        async with grid.commit_group() as group:
            group.map("m").put("z", 1)
            group.map("m").put("b", 2, if_absent=True)
            group.map("m").put("a", 2, if_version=7)
    error = caught.value
    assert [(reason.map, reason.key) for reason in error.reasons] == [("m", ("b",)), ("m", ("a",))]
    conflict = error.reasons[1].error
    assert isinstance(conflict, ConflictError)
    assert (conflict.expected, conflict.current) == (7, 1)
    assert error.message.startswith("nothing of the group was stored: m ('b',): expected an absent key")
    assert "m ('a',): expected version 7, but the key is at version 1" in error.message
    assert value_of(fake, "z") is None
    again = pickle.loads(pickle.dumps(error))
    assert [reason.key for reason in again.reasons] == [("b",), ("a",)]
    assert again.message == error.message


async def test_a_veto_keeps_its_message_and_many_reasons_are_cut_short(fake: FakeGrid, grid: Grid) -> None:
    fake.refuse_writes = lambda batch, index: RejectedError("no carrier", trigger="t", line=3, key="k", failed=False)
    with pytest.raises(GroupRefusedError, match=r"no carrier.*and 3 more") as caught:
        async with grid.commit_group() as group:
            for key in KEYS:
                group.map("m").put(key, 1)
    assert [reason.key for reason in caught.value.reasons] == [(key,) for key in KEYS]
    assert all(reason.error.trigger == "t" for reason in caught.value.reasons)


async def test_a_lost_answer_is_asked_for_again_at_the_same_node(fake: FakeGrid, three: Grid) -> None:
    fake.lose_answers = 2
    async with three.commit_group() as group:
        for key in KEYS:
            group.map("m").put(key, 1)
    nodes = [node for node, _ in fake.commits]
    assert nodes == [nodes[0]] * 3
    assert len({(request.group, str(request.writes)) for _, request in fake.commits}) == 1
    assert len(fake.applied) == len(set(fake.applied)) == len(KEYS)
    assert [ack.version for ack in group.outcome.acks] == [1] * len(KEYS)


@pytest.mark.usefixtures("quick")
async def test_another_node_is_asked_when_the_attempt_is_over(fake: FakeGrid, three: Grid) -> None:
    loop = asyncio.get_running_loop()
    fake.gate.clear()
    fake.lose_answers = 1

    async def run() -> int:
        async with three.commit_group() as group:
            group.map("m").put("k", 1)
        return group.outcome.acks[0].version

    running = asyncio.create_task(run())
    await until(lambda: fake.commits)
    asked, first = loop.time(), fake.commits[0][0]
    fake.down.add(first)
    fake.owners = [(first + 1) % 3] * 4
    fake.view += 1
    fake.gate.set()  # it does its work, and its answer is lost
    assert await running == 1
    assert fake.commits[-1][0] != first
    assert loop.time() - asked >= 0.05, "nobody else is asked while the first may be at it"
    assert len(fake.applied) == 1


async def test_a_node_that_was_not_reached_is_passed_over_at_once(fake: FakeGrid, three: Grid) -> None:
    spec = await three.map("m").spec()
    assert spec.name == "m"
    owner = fake.owners[fake.partition_of("m", encode_key("k"))]
    fake.down.add(owner)
    async with three.commit_group(deadline=commit.ATTEMPT_SECONDS / 2) as group:  # no time to wait for it
        group.map("m").put("k", 1)
    assert [node for node, _ in fake.commits] != [owner]
    assert group.outcome.acks[0].version == 1


async def test_a_limit_of_the_moment_goes_again_and_a_stopping_node_is_left(fake: FakeGrid, three: Grid) -> None:
    fake.refuse.extend([BusyError.of("the queue", 1), StoppingError.of(), DeadlineError("not in time")])
    async with three.commit_group() as group:
        group.map("m").put("k", 1)
    nodes = [node for node, _ in fake.commits]
    assert nodes[0] == nodes[1]
    assert len(set(nodes[1:])) == 3
    assert group.outcome.acks[0].version == 1


async def test_what_refuses_the_whole_ends_it(fake: FakeGrid, grid: Grid) -> None:
    fake.refuse.append(DerivedMapError.of("m"))
    with pytest.raises(DerivedMapError):
        async with grid.commit_group() as group:
            group.map("m").put("k", 1)
    assert len(fake.commits) == 1


async def test_the_deadline_says_whether_the_outcome_is_known(fake: FakeGrid, grid: Grid) -> None:
    fake.refuse.extend(BusyError.of("the queue", 1) for _ in range(1_000))
    with pytest.raises(BusyError, match="nothing of the group was stored"):
        async with grid.commit_group(deadline=0.05) as group:
            group.map("m").put("k", 1)
    fake.refuse.clear()
    fake.swallow_answers = 1_000
    with pytest.raises(DeadlineError, match="unknown whether"):
        async with grid.commit_group(deadline=0.05) as group:
            group.map("m").put("k", 1)
    fake.swallow_answers = 0
    fake.commits.clear()
    async with grid.commit_group() as group:
        group.map("m").put("k", 2)
    request = fake.commits[0][1]
    assert request.writes[0].lowest_unanswered == request.writes[0].first_sequence, "what is given up is let go"


async def test_an_expired_session_is_renewed_unless_an_answer_was_lost(fake: FakeGrid, grid: Grid) -> None:
    fake.refuse.append(OutcomeUnknownError("the session has expired"))
    async with grid.commit_group() as group:
        group.map("m").put("k", 1)
    (_, first), (_, second) = fake.commits
    assert first.group != second.group
    assert first.writes[0].session != second.writes[0].session
    assert group.outcome.acks[0].version == 1
    fake.lose_answers = 1
    fake.after_loss = OutcomeUnknownError("the session has expired")
    with pytest.raises(OutcomeUnknownError):
        async with grid.commit_group() as group:
            group.map("m").put("k", 2)
    assert len(fake.commits) == 4


async def test_groups_have_a_session_of_their_own_that_ends_in_good_time(fake: FakeGrid, grid: Grid) -> None:
    fake.session_epochs = 10
    await grid.refresh()
    sessions = []
    for _ in range(4):
        async with grid.commit_group() as group:
            group.map("m").put("k", 1)
        sessions.append(fake.commits[-1][1].writes[0].session)
        fake.tick(4)
    await grid.map("m").put("k", 1)
    assert sessions[0] == sessions[2] != sessions[3]
    assert fake.requests[-1].writes[0].session not in sessions


async def test_groups_at_once_name_different_writes_and_hold_the_watermark(fake: FakeGrid, grid: Grid) -> None:
    async def run(value: int) -> int:
        async with grid.commit_group() as group:
            group.map("m").put("k", value)
        return group.outcome.acks[0].version

    fake.gate.clear()
    groups = [asyncio.create_task(run(value)) for value in range(5)]
    await until(lambda: len(fake.commits) == 5)
    fake.gate.set()
    assert sorted(await asyncio.gather(*groups)) == [1, 2, 3, 4, 5]
    assert sorted(request.writes[0].first_sequence for _, request in fake.commits) == [1, 2, 3, 4, 5]
    assert {request.writes[0].lowest_unanswered for _, request in fake.commits} == {1}
    assert len({request.group for _, request in fake.commits}) == 5


async def test_what_a_group_was_told_of_time_goes_out_with_the_next_request(fake: FakeGrid, grid: Grid) -> None:
    fake.epoch = 90
    async with grid.commit_group() as group:
        group.map("m").put("k", 1)
    await grid.map("m").get("k")
    assert group.outcome.epoch == 90
    assert fake.requests[-1].carry.epoch == 90


async def test_ack_closed_waits_for_the_close(fake: FakeGrid, grid: Grid) -> None:
    async def run() -> int:
        async with grid.commit_group(ack="closed") as group:
            group.map("m").put("k", 1)
        return grid.closed

    running = asyncio.create_task(run())
    await until(lambda: fake.commits and fake._changed)
    assert not running.done()
    fake.tick()
    assert await running == fake.closed >= 5


async def test_an_answer_that_does_not_fit_is_an_error(
    fake: FakeGrid, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "commit", lambda request: grid_pb2.CommitReply(epoch=5))
    with pytest.raises(FormatError, match="does not fit"):
        async with grid.commit_group() as group:
            group.map("m").put("k", 1)


async def test_a_cancelled_group_gives_its_names_up(fake: FakeGrid, grid: Grid) -> None:
    async def run() -> None:
        async with grid.commit_group() as group:
            group.map("m").put("k", 1)

    fake.gate.clear()
    running = asyncio.create_task(run())
    await until(lambda: fake.commits)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    fake.gate.set()
    async with grid.commit_group() as group:
        group.map("m").put("k", 2)
    batch = fake.commits[-1][1].writes[0]
    assert (batch.first_sequence, batch.lowest_unanswered) == (2, 2)


async def test_a_group_that_is_stored_and_not_closed_in_time_says_so(fake: FakeGrid, grid: Grid) -> None:
    with pytest.raises(DeadlineError, match="the group is durable, but its epoch 5 did not close") as late:
        async with grid.commit_group(ack="closed", deadline=0.2) as group:
            group.map("m").put(1, 1)
    assert group.outcome.epoch == late.value.fields["epoch"] == 5


async def test_a_closed_client_commits_nothing(fake: FakeGrid) -> None:
    async with connect("node0:1", transport=fake.transport()) as grid:
        await grid.map("m").spec()
    with pytest.raises(CallerError, match="closed"):
        async with grid.commit_group() as group:
            group.map("m").put("k", 1)
    assert not fake.commits


async def test_nobody_answers_until_the_deadline(fake: FakeGrid, grid: Grid) -> None:
    await grid.map("m").spec()
    fake.down.add(0)
    with pytest.raises((UnavailableError, DeadlineError)):
        async with grid.commit_group(deadline=0.1) as group:
            group.map("m").put("k", 1)
