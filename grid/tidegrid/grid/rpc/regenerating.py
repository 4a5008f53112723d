"""Regenerations as a client asks for them: begin one, ask how far it is, and what differs at the end.

Whoever may deploy may regenerate: it is the same code that runs, over all that was ever written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tidegrid.grid.engine.generation import Difference
from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.model.error_message import error_message
from tidegrid.grid.model.errors import DeployNotAllowedError, GridError, StalePlanError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.rpc.wire import carry_message
from tidegrid.grid.runtime import switching
from tidegrid.grid.runtime.deployments import DeployPolicy
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import LocalGrid
from tidegrid.grid.runtime.opening import fold_control
from tidegrid.grid.runtime.regeneration import Regeneration, RegenerationReport
from tidegrid.grid.runtime.replay_crew import CrewOptions
from tidegrid.grid.runtime.replay_plan import plan_of
from tidegrid.grid.store.table import Table
from tidegrid.v1 import grid_pb2

_ANSWER_SECONDS: Final = 0.25  # a question waits so long for the end
_SEEN_SECONDS: Final = 20.0  # and then for the epoch from which on readers see it


class Regenerating:
    def __init__(self, grid: LocalGrid, driver: Driver) -> None:
        self._grid = grid
        self._driver = driver

    async def regenerate(self, request: grid_pb2.RegenerateRequest) -> grid_pb2.RegenerateReply:
        reply = grid_pb2.RegenerateReply()
        try:
            await self._regenerate(request, reply)
        except GridError as error:
            reply.error.CopyFrom(error_message(error))
        reply.carry.CopyFrom(carry_message(self._driver.node))
        return reply

    async def generations(self, request: grid_pb2.GenerationsRequest) -> grid_pb2.GenerationsReply:
        reply = grid_pb2.GenerationsReply()
        try:
            await self._generations(request)
            reply.generations.extend(self._listed())
        except GridError as error:
            reply.error.CopyFrom(error_message(error))
        reply.carry.CopyFrom(carry_message(self._driver.node))
        return reply

    async def _generations(self, request: grid_pb2.GenerationsRequest) -> None:
        grid = self._grid
        if request.show or request.drop:
            self._check_allowed()
        if request.show:
            numbers = {one.map: one.number for one in request.show}
            switching.check_kept(await fold_control(grid.log), numbers)
            await switching.complete(grid.drivers, numbers)
            acts_at = await switching.switch(grid.log, numbers, request.by, grid.clock.instant().time_ms)
            await self._seen(acts_at)
        if request.drop:
            gone = await switching.drop(grid.log, {one.map: one.number for one in request.drop})
            await grid.wait_seen(self._driver, Carry(b"", gone, Epoch(0)), _SEEN_SECONDS)

    async def _seen(self, acts_at: Epoch) -> None:
        """Returns when it is closed, so that whoever reads from now on sees it."""
        if acts_at and self._grid.options.tick is not None:
            for epoch in (Epoch(acts_at - 1), acts_at):  # the second may lie at the limit before the first is closed
                await self._grid.wait_closed(self._driver, epoch, _SEEN_SECONDS)

    def _listed(self) -> Iterator[grid_pb2.GenerationEntry]:
        control = self._driver.node.control
        known = control.generations
        for name, spec in sorted(control.declared.items()):
            if not (spec.derived and spec.stateful):
                continue
            for number in known.kept(name):
                declared = known.generation(name, number)
                switches = [one.acts_at for one in known.switches(name) if one.number == number]
                tables = self._tables(name, number)
                problems = [
                    error.message
                    for driver in self._grid.drivers
                    for (_, _, of, which), error in driver.node.tenure.builds.problems.items()
                    if (of, which) == (name, number)
                ]
                yield grid_pb2.GenerationEntry(
                    map=name, number=number, since=declared.since if declared is not None else 0,
                    seen=known.at(name, control.closed) == number, seen_from=max(switches, default=0),
                    complete=all(table is not None for table in tables),
                    rows=sum(table.live_count for table in tables if table is not None),
                    time_ms=declared.time_ms if declared is not None else 0,
                    by=declared.by if declared is not None else "", problem=problems[0] if problems else "",
                )  # fmt: skip

    def _tables(self, name: str, number: int) -> list[Table | None]:
        return [
            partition.tables.generation(name, number)
            for driver in self._grid.drivers
            for partition in driver.node.partitions.values()
            if partition.serving
        ]

    def _check_allowed(self) -> None:
        if self._grid.options.deploy.policy is DeployPolicy.OFF:
            raise DeployNotAllowedError(
                "this grid runs no code for clients, regenerations included; start it with --allow-deploy"
            )

    async def _regenerate(self, request: grid_pb2.RegenerateRequest, reply: grid_pb2.RegenerateReply) -> None:
        self._check_allowed()
        found = self._grid.regenerations
        if request.stop:
            if found.current is not None and found.current.plan.name == request.name:
                await found.stop()
            reply.name = request.name
            return
        current = found.current
        same = current is not None and (current.plan.name, current.dry_run) == (request.name, request.dry_run)
        if current is None or not same:
            current = await self._begin(request)
        reply.name = current.plan.name
        report = await found.report(_ANSWER_SECONDS)
        reply.progress.CopyFrom(_progress(current))
        if report is not None:
            await self._seen(report.seen_from)
            reply.report.CopyFrom(self._report(current, report))

    async def _begin(self, request: grid_pb2.RegenerateRequest) -> Regeneration:
        """By the code in force as the log says it: this node may not have heard yet of what the client has deployed."""
        control = await fold_control(self._grid.log)
        plan = plan_of(control, self._driver.node.limits, request.maps, Epoch(request.start))
        if request.name and plan.name != request.name:
            raise StalePlanError(
                "other code was deployed while this was being regenerated, so it has no end; begin again",
                plan=request.name,
                now=plan.name,
            )
        options = CrewOptions(request.workers, request.nice, request.share or 1.0, request.rate)
        by = None if request.dry_run else request.by or "somebody"
        return self._grid.regenerations.begin(plan, options.validate(), by)

    def _report(self, made: Regeneration, report: RegenerationReport) -> grid_pb2.RegenerationReport:
        plan, tally = made.plan, report.tally
        deployed = self._driver.node.control.deployment_at(Epoch(plan.through + 1))
        return grid_pb2.RegenerationReport(
            hash=deployed.hash if deployed is not None else b"",
            acts_at=plan.before,
            as_of=plan.through,
            start=plan.start,
            fresh_writes=made.progress().fresh_writes,
            writes=tally.writes,
            outputs=tally.outputs,
            rejected=tally.rejected,
            failed=tally.failed,
            parked=tally.parked - tally.redriven,
            redriven=tally.redriven,
            refused=[
                grid_pb2.RefusedWrite(map=one.map, key=one.key, message=one.message, failed=one.failed)
                for one in tally.samples
            ],
            maps=[_difference(name, found) for name, found in report.maps.items()],
            seconds=made.progress().seconds,
            generations=report.generations,
            seen_from=report.seen_from,
        )


def _progress(made: Regeneration) -> grid_pb2.RegenerationProgress:
    found = made.progress()
    return grid_pb2.RegenerationProgress(
        step=found.step, bytes_done=found.bytes_done, bytes=found.bytes, tasks_done=found.tasks_done,
        tasks=found.tasks, writes=found.writes, fresh_writes=found.fresh_writes, resumed=found.resumed,
        step_seconds=found.step_seconds, seconds=found.seconds,
    )  # fmt: skip


def _difference(name: str, found: Difference) -> grid_pb2.GenerationDifference:
    return grid_pb2.GenerationDifference(
        map=name, before=found.before, after=found.after, added=found.added, removed=found.removed,
        changed=found.changed, columns=found.columns,
        examples=[
            grid_pb2.GenerationExample(key=one.key, before=one.before, after=one.after) for one in found.examples
        ],
    )  # fmt: skip
