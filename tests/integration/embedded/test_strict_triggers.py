"""A grid in development: a trigger that breaks its contract refuses the write, and says which rule, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from tidegrid import embedded
from tidegrid.grid.app.config import ServeOptions
from tidegrid.grid.app.serving import grid_options
from tidegrid.grid.model.errors import RejectedError
from tidegrid.grid.runtime.local_grid import GridOptions

TRIGGERS = """
from tidegrid.triggers import *
table("raw", key=("k",)); table("out", like="raw")
seen = []

@trigger(on="raw", emits="out")
def count(write, grid):
    if write.value == "count":
        seen.append(1)
    yield Put("out", write.key, [len(seen), write.value, grid.random.random()])
"""


@pytest.mark.parametrize("strict", [True, False])
async def test_strict_grid(tmp_path: Path, strict: bool) -> None:
    (tmp_path / "counting.py").write_text(TRIGGERS)
    options = GridOptions(strict=strict)
    async with embedded.open(triggers=[tmp_path / "counting.py"], options=options) as grid:
        raw, out = grid.map("raw"), grid.map("out")
        await raw.put("a", "plain")
        if strict:
            with pytest.raises(
                RejectedError, match=r"'count', module 'counting', line 10, .* gave Put\(.*, and again"
            ) as caught:
                await raw.put("b", "count")
            assert caught.value.failed and await raw.get("b") is None
        else:
            await raw.put("b", "count")
            assert (await out.get("b")).value[:2] == [1, "count"]
        await raw.put("c", "plain")
        assert (await out.get("c")).value[1] == "plain"


def test_strict_is_off_unless_asked_for() -> None:
    assert not grid_options(ServeOptions()).strict and grid_options(ServeOptions(strict=True)).strict
