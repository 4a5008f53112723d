"""The demo of a regeneration on a few flights, without the kill; and that its checks can fail."""

from __future__ import annotations

from itertools import islice

from rich.console import Console
from rich.progress import Progress
from tidegrid import embedded

from examples.flights import data, regenerate_demo
from examples.flights.demo import TRIGGERS

ROWS = list(islice(data.flights(), 600))


async def test_it_holds_and_can_fail() -> None:
    story = regenerate_demo.Story(ROWS)
    writer = regenerate_demo.Writer(story)
    bar = Progress(console=Console(quiet=True))
    task = bar.add_task("", note="")
    async with embedded.open(nodes=3, triggers=[str(TRIGGERS)]) as grid:
        await regenerate_demo.begin(grid, story, writer)
        await regenerate_demo.regenerate(grid, story, bar, task)
        await regenerate_demo.finish(grid, story, writer)
        found = await regenerate_demo.checks(grid, story)
        assert all(check.holds for check in found) and len(story.epochs) == len(ROWS)
        flights, aircraft = await regenerate_demo.looked(grid, story.past)
        key = next(iter(flights))
        wrong = regenerate_demo._checks("x", ({**flights, key: -1.0}, aircraft), story.at(story.past), 0, story)
        assert not all(check.holds for check in wrong)
        tail = next(iter(aircraft))
        wrong = regenerate_demo._checks("x", (flights, {**aircraft, tail: None}), story.at(story.past), 0, story)
        assert not all(check.holds for check in wrong)
