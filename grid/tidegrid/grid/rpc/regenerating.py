"""Regenerations as a client asks for them: begin one, ask how far it is, and what differs at the end.

Whoever may deploy may regenerate: it is the same code that runs, over all that was ever written.
"""

from __future__ import annotations

from typing import Final

from tidegrid.grid.engine.generation import Difference
from tidegrid.grid.model.error_message import error_message
from tidegrid.grid.model.errors import ConfigurationError, DeployNotAllowedError, GridError, StalePlanError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.rpc.wire import carry_message
from tidegrid.grid.runtime.deployments import DeployPolicy
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import LocalGrid
from tidegrid.grid.runtime.regeneration import Regeneration, RegenerationReport
from tidegrid.grid.runtime.replay_crew import CrewOptions
from tidegrid.grid.runtime.replay_plan import plan_of
from tidegrid.v1 import grid_pb2

_ANSWER_SECONDS: Final = 0.25  # a question waits so long for the end


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

    async def _regenerate(self, request: grid_pb2.RegenerateRequest, reply: grid_pb2.RegenerateReply) -> None:
        if self._grid.options.deploy.policy is DeployPolicy.OFF:
            raise DeployNotAllowedError(
                "this grid runs no code for clients, regenerations included; start it with --allow-deploy"
            )
        found = self._grid.regenerations
        if request.stop:
            if found.current is not None and found.current.plan.name == request.name:
                await found.stop()
            reply.name = request.name
            return
        if not request.dry_run:
            raise ConfigurationError(
                "a regenerated map cannot take the place of the live one yet; with --dry-run (dry_run=True) it is made "
                "beside it, and the difference is shown"
            )
        current = found.current
        if current is None or not request.name or current.plan.name != request.name:
            current = self._begin(request)
        reply.name = current.plan.name
        report = await found.report(_ANSWER_SECONDS)
        reply.progress.CopyFrom(_progress(current))
        if report is not None:
            reply.report.CopyFrom(self._report(current, report))

    def _begin(self, request: grid_pb2.RegenerateRequest) -> Regeneration:
        node = self._driver.node
        plan = plan_of(node.control, node.limits, request.maps)
        if request.name and plan.name != request.name:
            raise StalePlanError(
                "other code was deployed while this was being regenerated, so it has no end; begin again",
                plan=request.name,
                now=plan.name,
            )
        options = CrewOptions(request.workers, request.nice, request.share or 1.0, request.rate)
        return self._grid.regenerations.begin(plan, options.validate())

    def _report(self, made: Regeneration, report: RegenerationReport) -> grid_pb2.RegenerationReport:
        plan, tally = made.plan, report.tally
        deployed = self._driver.node.control.deployment_at(Epoch(plan.through + 1))
        return grid_pb2.RegenerationReport(
            hash=deployed.hash if deployed is not None else b"",
            acts_at=plan.before,
            as_of=plan.through,
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
