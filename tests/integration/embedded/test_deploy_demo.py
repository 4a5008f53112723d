"""The demo of a deployment on a small part of the CSV file, three nodes in this process; and its checks can fail."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from tidegrid import embedded
from tidegrid.grid.model.errors import GridError, TriggerModuleError

from examples.flights import data, deploy_demo
from examples.flights.demo import TRIGGERS, load_planes

ROWS = list(islice(data.flights(), 2_000))


async def played(version_1: Path = TRIGGERS) -> tuple[deploy_demo.Story, deploy_demo.Found]:
    story = deploy_demo.Story(len(ROWS))
    async with embedded.open(nodes=3, tick=0.005, triggers=[version_1]) as grid:
        await load_planes(grid)
        await deploy_demo.play(grid, ROWS, story, Progress(console=Console(quiet=True)))
        return story, await deploy_demo.look(grid, story)


def wrong(story: deploy_demo.Story, found: deploy_demo.Found) -> list[str]:
    checked = deploy_demo.checks(story, found, ROWS)
    return [f"{check.what}: {check.found}, not {check.expected}" for check in checked if not check.holds]


async def test_each_flight_shows_which_code_it_met() -> None:
    story, found = await played()
    assert wrong(story, found) == []
    old = sum(epoch < story.activation for epoch in story.epochs)
    assert len(ROWS) // 4 <= old <= len(ROWS) * 3 // 4
    assert story.activation <= story.between < max(story.epochs)
    assert found.aircraft_between != found.aircraft


async def test_what_is_wrong_is_seen() -> None:
    story, found = await played()
    tail, sums = next(iter(found.aircraft.items()))
    for change in ("flights", "late_minutes", "last_airport", "last_at"):
        changed = {**found.aircraft, tail: {**sums, change: 99_999}}
        assert wrong(story, deploy_demo.Found(found.epochs, found.speeds, changed, found.aircraft_between))
        assert wrong(story, deploy_demo.Found(found.epochs, found.speeds, found.aircraft, changed))
    for key in list(found.speeds)[::400]:
        other = None if found.speeds[key] == deploy_demo.ABSENT else deploy_demo.ABSENT
        speeds = {**found.speeds, key: other}
        assert wrong(story, deploy_demo.Found(found.epochs, speeds, found.aircraft, found.aircraft_between))
        epochs = {**found.epochs, key: found.epochs[key] + 1}
        assert wrong(story, deploy_demo.Found(epochs, found.speeds, found.aircraft, found.aircraft_between))
    assert story.deployed is not None
    later = story.deployed._replace(epoch=max(story.epochs))
    assert wrong(deploy_demo.Story(story.total, story.epochs, deployed=later, between=story.between), found)


async def test_a_deployment_that_is_refused_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "flights.py"
    broken.write_text("table('flights.raw')\n")
    monkeypatch.setattr(deploy_demo, "VERSION_2", broken)
    with pytest.raises(TriggerModuleError, match=re.escape("'table' is not defined")) as refused:
        await played()
    assert isinstance(refused.value, GridError)
