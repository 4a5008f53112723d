"""A node that does not read the control log, and is asked by who knows more of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.rpc.wire import carry_message
from tidegrid.grid.runtime.local_grid import GridOptions
from tidegrid.v1 import control_pb2, grid_pb2

from tests.faults.grid.faulty_grid import FaultyGrid
from tests.faults.grid.gate import GatedService

MAPS = "from tidegrid.triggers import table\ntable('told', key=('n:int',))\n"


@pytest.mark.parametrize("method", ["Deployments", "Generations", "Regenerate", "PlanDeploy", "Deploy"])
async def test_no_answer_is_older_than_what_its_asker_has_seen(tmp_path: Path, method: str) -> None:
    options = GridOptions(nodes=2, partitions=4, evict_seconds=60.0)
    grid = await FaultyGrid.open(tmp_path / "log", options, seed=1)
    try:
        one, deaf = (grid.nodes[NodeId(number)] for number in (0, 1))
        deaf.gate.deafen(True)
        content = grid_pb2.DeployContent(modules=[control_pb2.Module(name="told", source=MAPS)])
        deploying = asyncio.create_task(
            GatedService(grid.grid, one.driver).unary["Deploy"](grid_pb2.DeployRequest(content=content))
        )
        while not one.driver.node.control.deployments:
            await one.driver.turned()
        request: Any = {
            "Deployments": grid_pb2.DeploymentsRequest(),
            "Generations": grid_pb2.GenerationsRequest(),
            "Regenerate": grid_pb2.RegenerateRequest(name="other"),
            "PlanDeploy": grid_pb2.PlanDeployRequest(content=content),
            "Deploy": grid_pb2.DeployRequest(content=content),
        }[method]
        request.carry.CopyFrom(carry_message(one.driver.node))
        asking = asyncio.create_task(GatedService(grid.grid, deaf.driver).unary[method](request))
        done, _ = await asyncio.wait([asking], timeout=0.2)
        assert not done, "it does not know yet what it is asked about"
        deaf.gate.deafen(False)
        reply = await asking
        assert reply.carry.control >= request.carry.control
        if method == "Deployments":
            assert [list(found.modules) for found in reply.deployments] == [["told"]]
        await deploying
    finally:
        await grid.close()
