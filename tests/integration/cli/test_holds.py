"""Holds over gRPC, and what `status` and `holds` say of them."""

from __future__ import annotations

import asyncio

import pytest
from tidegrid.client import connect
from tidegrid.grid.model.errors import HoldLostError

from tests.integration.cli.conftest import Served, call


def test_a_hold_shows_and_can_be_ended(fresh: Served, loop: asyncio.Runner) -> None:
    fresh.start("--memory", "--history-seconds", "0", "--hold-seconds", "600")
    assert call(fresh, "holds", "list", "--json").records == []
    assert "no holds" in call(fresh, "holds", "list").err
    assert call(fresh, "holds", "release", "nobody's").code == 1

    async def play() -> None:
        async with connect(fresh.address) as grid:
            table = await grid.create_map("t")
            await table.put("a", 1, ack="closed")
            async with grid.hold(name="nightly report", owner="ops at host", seconds=1e6) as hold:
                while True:
                    await table.put("a", 2, ack="closed")
                    record = await command("status", "--json")
                    if record["holds"][0]["holds_back"]:
                        break
                (told,) = record["holds"]
                assert (told["name"], told["owner"], told["epoch"]) == ("nightly report", "ops at host", hold.epoch)
                assert told["age_ms"] >= 0 and 0 < told["left_ms"] <= 600_000
                assert record["horizon"] == hold.epoch
                entry = await table.get("a", as_of=hold.epoch)
                assert entry is not None and entry.value == 1
                for shown in (await shown_by("status"), await shown_by("holds", "list")):
                    assert "nightly report" in shown and "ops at host" in shown and "held back by this" in shown
                listed = await command("holds", "list", "--json")
                assert listed["name"] == "nightly report"
                assert await shown_by("holds", "release", "nightly report") == "released nightly report\n"
                with pytest.raises(HoldLostError, match="released"):
                    await hold.move(hold.epoch + 1)

    async def command(*arguments: str) -> dict[str, object]:
        record: dict[str, object] = await asyncio.to_thread(lambda: call(fresh, *arguments).record)
        return record

    async def shown_by(*arguments: str) -> str:
        return await asyncio.to_thread(lambda: call(fresh, *arguments).out)

    asyncio.run(play())
