"""Deployments through the client, three nodes in this process."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import AsyncIterator, Collection
from types import ModuleType
from typing import Any

import pytest
from tidegrid import embedded
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.model.errors import (
    ConfigurationError,
    DeadlineError,
    DeployNotAllowedError,
    DeployRefusedError,
    MapExistsError,
    RejectedError,
    StalePlanError,
    TooLargeError,
    TriggerModuleError,
)
from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.runtime.deployments import DeployPolicy, DeployRules
from tidegrid.grid.runtime.local_grid import GridOptions
from tidegrid.grid.runtime.opening import append_control, fold_control
from tidegrid.triggers.deployment import Module as Source
from tidegrid.v1.control_pb2 import ControlRecord, Deploy, Module
from tidegrid.v1.grid_pb2 import DeployContent, DeployPlan, DeployRequest
from tidegrid.v1.ring_pb2 import RehearseReply, RehearseRequest

HEAD = "from tidegrid.triggers import *\ntable('raw', key=('n:int',))\ntable('typed', like='raw')\n"


def code(number: int, more: str = "") -> tuple[str, str]:
    body = (
        f"@trigger(on='raw', emits='typed')\ndef f(write):\n    yield Put('typed', write.key, {{'code': {number}}})\n"
    )
    return "m", HEAD + more + body


@pytest.fixture
async def grid() -> AsyncIterator[EmbeddedGrid]:
    async with embedded.open(nodes=3, tick=0.005) as opened:
        yield opened


async def outputs(grid: EmbeddedGrid, of: Collection[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
    """(key, version) -> (epoch, code that made it), of everything that came out, once that of these writes has."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    missing = set(of)
    async with grid.map("typed").subscribe(after=0) as feed:
        async for batch in feed:
            for change in batch.changes:
                found[change.key[0], change.version] = (change.epoch, change.value["code"])
                missing.discard((change.key[0], change.version))
            if not missing:
                return found
    raise AssertionError("the feed ended")


async def test_at_each_epoch_the_outputs_are_those_of_the_code_active_at_it(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    raw, writing, acknowledged = grid.map("raw"), True, {}

    async def write(first: int) -> None:
        count = 0
        while writing:
            key = first + 10 * (count % 7)
            ack = await raw.put(key, {"count": count})
            acknowledged[key, ack.version] = ack.epoch
            count += 1

    writers = [asyncio.create_task(write(first)) for first in range(10)]
    acts_at = []
    for number in (2, 3, 4):
        done = await grid.deploy(code(number))
        acts_at.append((done.epoch, number))
        assert done.plan.replaces and not done.plan.unchanged
    back = await grid.deploy(rollback=True)
    acts_at.append((back.epoch, 3))
    for _ in range(20):
        ack = await raw.put(1000, {})
        acknowledged[1000, ack.version] = ack.epoch
    writing = False
    await asyncio.gather(*writers)
    found = await outputs(grid, acknowledged)
    codes = {number for _, number in found.values()}
    assert codes == {1, 2, 3, 4}
    for name, (epoch, number) in found.items():
        active = next((made for since, made in reversed(acts_at) if since <= epoch), 1)
        assert number == active, f"{name} at epoch {epoch}"
    for name, epoch in acknowledged.items():
        assert found[name][0] == epoch, "a write and what follows from it are of one epoch"


async def test_a_plan_shows_and_changes_nothing(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    for number in range(6):
        await grid.map("raw").put(number, {})
    async with grid.map("typed").subscribe(after=0):
        done = await grid.deploy(code(2, "stream('late')\n"), dry_run=True)
    plan = done.plan
    assert done.epoch is None and len(await grid.deployments()) == 1
    assert [(change.name, change.change) for change in plan.triggers] == [("f", "changed")]
    maps = {change.spec.name: change for change in plan.maps}
    assert {name: change.change for name, change in maps.items()} == {"raw": "same", "typed": "same", "late": "added"}
    assert [verdict.node for verdict in plan.nodes if not verdict.HasField("error")] == [0, 1, 2]
    (sample,) = plan.samples
    assert (sample.map, sample.writes, sample.same) == ("raw", 6, 0), "of the partitions of all three nodes"
    (output,) = sample.outputs
    assert (output.map, output.changed, dict(output.columns)) == ("typed", 6, {"code": 6})
    assert "late" not in grid.maps


async def test_followers_count_once_however_many_nodes_serve_them(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    async with grid.map("typed").subscribe(after=0) as one, grid.map("typed").subscribe(after=0) as two:
        ack = await grid.map("raw").put(1, {}, ack="closed")
        for feed in (one, two):
            async for batch in feed:
                if batch.epoch >= ack.epoch:
                    break
        plan = (await grid.deploy(code(2), dry_run=True)).plan
    assert {change.spec.name: change.followers for change in plan.maps} == {"raw": 0, "typed": 2}


async def test_who_is_asked_may_say_no(grid: EmbeddedGrid) -> None:
    asked: list[DeployPlan] = []
    done = await grid.deploy(code(1), confirm=lambda plan: bool(asked.append(plan)))
    assert done.epoch is None and asked == [done.plan] and await grid.deployments() == []
    done = await grid.deploy(code(1), confirm=lambda plan: True, by="release 7")
    (entry,) = await grid.deployments()
    assert (entry.epoch, entry.state, entry.by, entry.modules) == (done.epoch, "active", "release 7", ("m",))
    assert entry.time_ms > 1_600_000_000_000 and entry.python and entry.hash == done.plan.hash


async def test_the_same_again_is_no_deployment(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    again = await grid.deploy(code(1))
    assert again.plan.unchanged and again.epoch is None and len(await grid.deployments()) == 1


async def test_a_stale_plan_is_refused(grid: EmbeddedGrid) -> None:
    plan = (await grid.deploy(code(1), dry_run=True)).plan
    await grid.create_map("meanwhile")
    content = DeployContent(modules=[Module(name="m", source=code(1)[1])])
    request = DeployRequest(content=content, plan=plan.id)
    until = asyncio.get_running_loop().time() + 10
    with pytest.raises(StalePlanError, match="look at a new plan") as caught:
        await grid._dispatcher.ask("Deploy", request, until)
    assert caught.value.plan == plan.id != caught.value.now
    request.plan = caught.value.now
    reply = await grid._dispatcher.ask("Deploy", request, until)
    assert reply.acts_at and not reply.unchanged
    twice = await grid._dispatcher.ask("Deploy", request, until)  # an answer that was lost is asked for again
    assert twice.unchanged and twice.acts_at == reply.acts_at


async def test_two_who_deploy_at_once(grid: EmbeddedGrid) -> None:
    """Both have seen a plan of the same grid: one of them has to look again."""
    results = await asyncio.gather(grid.deploy(code(1)), grid.deploy(code(2)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, StalePlanError)]
    assert len(refused) == 1 and len(await grid.deployments()) == 1


async def test_back_to_an_earlier_one(grid: EmbeddedGrid) -> None:
    with pytest.raises(ConfigurationError, match="no earlier deployment"):
        await grid.deploy(rollback=True)
    hashes = [(await grid.deploy(code(number))).plan.hash.hex() for number in (1, 2, 3)]
    done = await grid.deploy(rollback=hashes[0][:10])
    assert done.plan.hash.hex() == hashes[0]
    await grid.map("raw").put(1, {})
    entry = await grid.map("typed").get(1)
    assert entry is not None and entry.value == {"code": 1}
    found = await grid.deployments()
    assert [entry.hash.hex() for entry in found] == [*hashes, hashes[0]]
    assert [entry.state for entry in found] == ["past", "past", "past", "active"]
    with pytest.raises(ConfigurationError, match="no deployment begins"):
        await grid.deploy(rollback="0123456789")
    with pytest.raises(ConfigurationError, match="nothing to deploy"):
        await grid.deploy()
    with pytest.raises(ConfigurationError, match="either modules, or"):
        await grid.deploy(code(1), rollback=True)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def (", "line 1"),
        ("import no_such_module_at_all", "not installed here"),
        (HEAD + "@trigger(on='rwa')\ndef f(w): ...", "did you mean raw"),
        (HEAD + "@trigger(on='raw', emits='direct')\ndef f(w): ...", "clients write directly"),
        ("from tidegrid.triggers import *\ntable('direct', key=('x',))", "exists with another"),
        ("__requires__ = 'no-such-distribution>=2'", "pip install 'no-such-distribution>=2'"),
        ("__requires__ = ('python>=9',)\nimport nothing", "this is Python"),
        ("__requires__ = 'msgpack<0.1'", "installed here is"),
    ],
)
async def test_what_does_not_load_is_refused_before_anything_is_asked(
    grid: EmbeddedGrid, source: str, said: str
) -> None:
    await grid.create_map("direct")
    with pytest.raises(TriggerModuleError, match=said):
        await grid.deploy(("m", source), confirm=lambda plan: pytest.fail("there is no plan"))
    assert await grid.deployments() == []


async def test_what_no_record_holds_is_refused_with_the_plan(grid: EmbeddedGrid) -> None:
    with pytest.raises(TooLargeError, match="source text of the deployment"):
        await grid.deploy(("m", f"X = {'x' * 1_000_000!r}"), dry_run=True)


# A node that cannot --------------------------------------------------------------------------------------------------

_where = contextvars.ContextVar("_where", default=0)


@pytest.fixture
def picky(grid: EmbeddedGrid, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module to import that is missing on node 2 alone."""
    module = ModuleType("picky_of_a_test")

    def __getattr__(name: str) -> str:
        if name == "HERE" and _where.get() == 2:
            raise ImportError("numpy is broken on this machine")
        return name

    module.__dict__["__getattr__"] = __getattr__
    monkeypatch.setitem(sys.modules, "picky_of_a_test", module)
    peers = grid.local.drivers[0]._peers
    answer = peers._answers[NodeId(2)]

    async def on_node_2(request: RehearseRequest) -> RehearseReply:
        token = _where.set(2)
        try:
            return await answer(request)
        finally:
            _where.reset(token)

    peers.answer_with(NodeId(2), on_node_2)
    return "from picky_of_a_test import HERE\n"


async def test_a_node_that_cannot_load_it_is_named_and_nothing_happens(grid: EmbeddedGrid, picky: str) -> None:
    await grid.deploy(code(1))
    with pytest.raises(DeployRefusedError, match=r"node 2 cannot take it.*numpy is broken") as caught:
        await grid.deploy(code(2, picky), confirm=lambda plan: pytest.fail("nobody is asked"))
    assert caught.value.node == 2 and "numpy" in caught.value.reason
    plan = (await grid.deploy(code(2, picky), dry_run=True)).plan
    assert [verdict.HasField("error") for verdict in plan.nodes] == [False, False, True]
    (entry,) = await grid.deployments()
    await grid.map("raw").put(1, {})
    found = await grid.map("typed").get(1)
    assert entry.state == "active" and found is not None and found.value == {"code": 1}


async def test_the_deployment_asks_again_whatever_the_plan_said(grid: EmbeddedGrid, picky: str) -> None:
    service = grid._dispatcher.transport._service(0)
    with pytest.raises(DeployRefusedError, match="node 2"):
        await service.deploying.activate([Source(*code(1, picky))], "me", "", 10.0)
    assert await grid.deployments() == []


async def test_a_node_that_does_not_answer_is_one_that_cannot(grid: EmbeddedGrid) -> None:
    grid.local.drivers[0]._peers._answers.pop(NodeId(1))
    with pytest.raises(DeployRefusedError, match=r"node 1 .*is not there; start it") as caught:
        await grid.deploy(code(1))
    assert caught.value.node == 1 and await grid.deployments() == []


async def test_who_joins_while_it_is_asked_is_asked_too(grid: EmbeddedGrid) -> None:
    peers, asked = grid.local.drivers[0]._peers, []
    service = grid._dispatcher.transport._service(0)
    joined = None

    async def answer(request: RehearseRequest) -> RehearseReply:
        nonlocal joined
        asked.append(1)
        if joined is None:
            joined = await grid.local.add_node(NodeId(3), "embedded:3", "embedded:3", peers)
            peers.join(NodeId(3), joined.receive)
            peers.answer_with(NodeId(3), fourth)
            while NodeId(3) not in grid.local.drivers[0].node.control.view.members:
                await grid.local.drivers[0].turned()
        return RehearseReply()

    async def fourth(request: RehearseRequest) -> RehearseReply:
        asked.append(3)
        return RehearseReply()

    peers.answer_with(NodeId(1), answer)
    reply = await service.deploying.activate([Source(*code(1))], "me", "", 20.0)
    assert reply.acts_at and asked == [1, 1, 3]


async def test_code_that_comes_past_the_question_stops_the_node(grid: EmbeddedGrid) -> None:
    """Nobody asked: the record is in the log all the same, and a node that cannot run it says so and stops."""
    deploy = Deploy(hash=b"h" * 32, modules=[Module(name="m", source="import no_such_module_at_all")])
    log = grid.local.log
    await append_control(log, await fold_control(log), lambda _: ControlRecord(deploy=deploy))
    await grid.local.failed.wait()
    assert isinstance(grid.local.failure, TriggerModuleError)
    assert "cannot run, so it stops" in str(grid.local.failure) and "no_such_module_at_all" in str(grid.local.failure)


async def test_a_start_with_code_that_does_not_load_is_refused(tmp_path) -> None:
    async with embedded.open(tmp_path / "data", triggers=[]) as grid:
        deploy = Deploy(hash=b"h" * 32, modules=[Module(name="m", source="import gone_of_a_test")], python="2.7")
        sys.modules["gone_of_a_test"] = ModuleType("gone_of_a_test")
        try:
            log = grid.local.log
            await append_control(log, await fold_control(log), lambda _: ControlRecord(deploy=deploy))
            await grid.local.ready()
        finally:
            del sys.modules["gone_of_a_test"]
        before = len((await fold_control(log)).view.members), (await fold_control(log)).view.position
    with pytest.raises(
        TriggerModuleError, match=r"node 0 cannot run the deployed code 68686868 \(m, deployed with Python 2.7"
    ):
        async with embedded.open(tmp_path / "data"):
            pytest.fail("it opened")
    path = tmp_path / "fixed.py"
    path.write_text(code(9)[1])
    async with embedded.open(tmp_path / "data", triggers=[path]) as grid:  # other code mends it
        await grid.map("raw").put(1, {})
        found = await grid.map("typed").get(1)
        assert found is not None and found.value == {"code": 9}
        assert (await fold_control(grid.local.log)).view.position > before[1], "the refused start left no view behind"


# Who may -------------------------------------------------------------------------------------------------------------


async def test_off_refuses_code_and_plans_and_says_how_to_turn_it_on(tmp_path) -> None:
    options = GridOptions(deploy=DeployRules(DeployPolicy.OFF))
    path = tmp_path / "m.py"
    path.write_text(code(1)[1])
    async with embedded.open(options=options, triggers=[path]) as grid:  # what is given at the start is not asked for
        for arguments in ({}, {"dry_run": True}):
            with pytest.raises(DeployNotAllowedError, match="--allow-deploy"):
                await grid.deploy(code(2), **arguments)
        with pytest.raises(DeployNotAllowedError):
            await grid.deploy(rollback=True)
        (entry,) = await grid.deployments()
        assert entry.by.endswith("at the start of the grid")


async def test_installed_takes_listed_hashes_and_what_is_installed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_rules_of_a_test.py").write_text(code(2)[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    async with embedded.open() as free:
        listed = (await free.deploy(code(1), dry_run=True)).plan.hash.hex()
    options = GridOptions(deploy=DeployRules(DeployPolicy.INSTALLED, (listed[:16],)))
    async with embedded.open(nodes=2, options=options) as grid:
        await grid.deploy(code(1))
        done = await grid.deploy("shop_rules_of_a_test")
        assert done.epoch is not None
        for foreign in (code(3), ("shop_rules_of_a_test", code(3)[1]), ("os", "")):
            with pytest.raises(DeployNotAllowedError, match="--allow-hash"):
                await grid.deploy(foreign)


async def test_each_node_has_the_last_word_on_what_it_runs(grid: EmbeddedGrid) -> None:
    reply = await grid.local.drivers[0].ask(NodeId(1), RehearseRequest(grid_id=b"another"), 5.0)
    assert reply.error.code == "WRONG_GRID"
    object.__setattr__(grid.local.options, "deploy", DeployRules(DeployPolicy.OFF))
    request = RehearseRequest(grid_id=grid.id, modules=[Module(name="m", source="x = 1")])
    reply = await grid.local.drivers[0].ask(NodeId(1), request, 5.0)
    assert reply.error.code == "DEPLOY_NOT_ALLOWED"


# Packages, schemas, steps --------------------------------------------------------------------------------------------


async def test_a_package_is_deployed_whole(grid: EmbeddedGrid, tmp_path) -> None:
    package = tmp_path / "rules"
    package.mkdir()
    (package / "__init__.py").write_text(HEAD + "from .rows import typed\n"
        "@trigger(on='raw', emits='typed')\ndef f(write):\n    yield Put('typed', write.key, typed(write.value))\n")  # fmt: skip
    (package / "rows.py").write_text("def typed(value): return {'code': value}\n")
    done = await grid.deploy(package)
    assert list(done.plan.modules) == ["rules", "rules.rows"]
    await grid.map("raw").put(1, 5)
    found = await grid.map("typed").get(1)
    assert found is not None and found.value == {"code": 5}
    (package / "rows.py").write_text("def typed(value): return {'code': -value}\n")
    done = await grid.deploy(package)
    assert [change.change for change in done.plan.triggers] == ["module"]
    assert done.plan.samples[0].outputs[0].changed == 1


async def test_a_deployment_may_give_a_map_another_schema_number(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    done = await grid.deploy(("m", code(1)[1].replace("key=('n:int',)", "key=('n:int',), schema=2")))
    assert {change.spec.name: change.change for change in done.plan.maps}["raw"] == "schema"
    await grid.refresh()
    assert grid.maps["raw"].schema == 2
    with pytest.raises(MapExistsError):
        await grid.create_map("raw", key=("n:int",), schema=3)


async def test_time_that_is_stepped_by_hand_is_stepped_until_the_code_acts() -> None:
    async with embedded.open(nodes=2, tick=None) as grid:
        done = await grid.deploy(code(1))
        assert done.epoch is not None and grid.local.drivers[0].node.control.closed >= done.epoch - 1
        await grid.map("raw").put(1, {})
        rejecting = ("m", HEAD + "@trigger(on='raw', emits='typed')\ndef f(write): raise Reject('no more')\n")
        await grid.deploy(rejecting)
        with pytest.raises(RejectedError, match="no more"):
            await grid.map("raw").put(2, {})


async def test_a_restart_knows_who_and_when(tmp_path) -> None:
    async with embedded.open(tmp_path / "data") as grid:
        await grid.deploy(("m", "__requires__ = ('msgspec>=0.1',)\n" + code(1)[1]), by="me")
        before = await grid.deployments()
        await grid.local.checkpoint()
    async with embedded.open(tmp_path / "data") as grid:
        assert await grid.deployments() == before
        assert before[0].requirements == ("msgspec>=0.1",) and before[0].by == "me"


async def test_a_plan_after_a_restart_samples_the_tables(tmp_path) -> None:
    async with embedded.open(tmp_path / "data") as grid:
        await grid.deploy(code(1))
        for number in range(5):
            await grid.map("raw").put(number, {})
    async with embedded.open(tmp_path / "data") as grid:
        plan = (await grid.deploy(code(2), dry_run=True, sample=3)).plan
        assert plan.samples[0].writes == 3 and plan.samples[0].same == 0


async def test_a_memory_log_is_enough() -> None:
    async with embedded.open(log=MemoryLog()) as grid:
        assert (await grid.deploy(code(1))).epoch is not None


async def test_who_asks_again_after_a_deadline_waits_until_it_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with embedded.open(nodes=3, tick=0.02) as grid:
        await grid.deploy(code(1))
        waited: list[int] = []

        async def wait(_driver: object, epoch: int, _seconds: float) -> None:
            waited.append(epoch)
            raise DeadlineError("not yet")

        with monkeypatch.context() as patched, pytest.raises(DeadlineError):
            patched.setattr(grid.local, "wait_closed", wait)
            await grid.deploy(code(2), deadline=0.2)
        pending = (await fold_control(grid.local.log)).deployments[-1]
        waited.clear()
        real = grid.local.wait_closed

        async def note(driver: Any, epoch: Any, seconds: float) -> None:
            waited.append(epoch)
            await real(driver, epoch, seconds)

        monkeypatch.setattr(grid.local, "wait_closed", note)
        again = await grid.deploy(code(2))
        assert again.plan.unchanged and waited == [pending.acts_at - 1]
        assert (await grid.deployments())[-1].state == "active"
