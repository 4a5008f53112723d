"""Why a row is so, where it was regenerated: made by today's code of what was written then, or by a trigger at the time."""

from __future__ import annotations

import pytest
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.model.errors import UnknownGenerationError

from tests.integration.embedded.regenerated import BODY, HEAD, code, grid, write

__all__ = ["grid"]

ROUTED = """
table("by_digit", key=("digit:int", "n:int"))          # of another partition, mostly
table("again", key=("n:int",))                         # set off by what was routed there

@trigger(on="raw", emits="by_digit")
def sort(write):
    yield Put("by_digit", (write.key[0] % 10, write.key[0]), FACTOR * write.value)

@trigger(on="by_digit", emits="again")
def back(write):
    yield Put("again", write.key[1], FACTOR * write.value)
"""


def routing(factor: int) -> tuple[str, str]:
    return "m", (HEAD + BODY + ROUTED).replace("FACTOR", str(factor))


def line(text: str) -> int:
    return next(number for number, found in enumerate(routing(3)[1].splitlines(), 1) if text in found)


async def test_why_tells_a_regenerated_row_from_one_that_its_trigger_made(grid: EmbeddedGrid) -> None:
    old = (await grid.deploy(routing(1))).plan.hash
    past = await write(grid, [(n, 1) for n in range(20)])
    changed = await grid.deploy(routing(3))
    await write(grid, [(n, 2) for n in range(10)])
    await grid.regenerate()
    doubled = grid.map("doubled")
    for n in range(20):
        new = await doubled.why(n)
        assert new is not None and (new.generation, new.since) == (2, changed.epoch)
        (lineage,) = new.lineages
        if n < 10:
            assert lineage.regenerated is None and new.value == {"value": 6} and not new.uncounted
            assert [version.value for version in new.earlier] == [{"value": 3}] and new.before == 0
            new = await doubled.why(n, as_of=past)
            assert new is not None
            (lineage,) = new.lineages
        made = lineage.regenerated
        assert made is not None and new.value == {"value": 3} and not lineage.broken
        assert (made.deployment, made.acts_at, made.deployment_then) == (changed.plan.hash, changed.epoch, old)
        (step,) = lineage.steps
        assert [run.yielded_line for run in step.triggers] == [line('Put("doubled"')]
        assert step.deployment == changed.plan.hash and lineage.raw == step.cause and not new.before
        assert (step.cause.map, step.cause.key, step.cause.value) == ("raw", (n,), 1)
        first = await grid.map("doubled", generation=1).why(n, as_of=past)
        assert first is not None and (first.generation, first.since, first.value) == (1, 0, {"value": 1})
        assert first.lineages[0].regenerated is None and first.lineages[0].steps[0].deployment == old
    with pytest.raises(UnknownGenerationError):
        await grid.map("doubled", generation=3).why(1)
    raw = await grid.map("raw").why(1)
    assert raw is not None and (raw.generation, raw.since) == (0, 0)
    await grid.show_generations({"doubled": 1})
    back = await doubled.why(15)
    assert back is not None and back.generation == 1 and back.lineages[0].regenerated is None


async def test_why_of_regenerated_rows_that_were_routed_or_folded(grid: EmbeddedGrid) -> None:
    await grid.deploy(routing(1))
    await write(grid, [(n, 1) for n in range(20)])
    changed = await grid.deploy(routing(3))
    await write(grid, [(3, 2)])
    await grid.regenerate()
    for n in range(20):
        routed = await grid.map("by_digit").why((n % 10, n))
        assert routed is not None and routed.generation == 2
        (lineage,) = routed.lineages
        assert (lineage.regenerated is None) == (n == 3) and not lineage.broken, lineage
        assert lineage.raw is not None and (lineage.raw.key, routed.value) == ((n,), 6 if n == 3 else 3)
        assert [run.name for run in lineage.steps[-1].triggers] == ["sort"]
        again = await grid.map("again").why(n)
        assert again is not None and again.value == (18 if n == 3 else 9)
        (lineage,) = again.lineages
        if n == 3:
            continue
        assert lineage.regenerated is not None and (lineage.raw is None) == bool(lineage.broken)
        if lineage.raw is not None:
            assert lineage.raw.key == (n,) and lineage.raw.map == "raw"
        else:
            assert lineage.regenerated.possible_count == 0 or lineage.regenerated.possible
    sums = await grid.map("sums").why(3)
    assert sums is not None and sums.value == {"count": 3, "sum": 12} and not sums.before and not sums.uncounted
    told = [(one.regenerated is not None, one.row.op, one.row.value, one.broken) for one in sums.lineages]
    assert told == [(False, "merge", 6, ""), (True, "merge", 3, ""), (True, "merge", 3, "")]
    assert sorted(one.raw.key[0] for one in sums.lineages if one.raw is not None) == [3, 3, 13]
    assert all(one.regenerated is None or one.regenerated.acts_at == changed.epoch for one in sums.lineages)


async def test_why_does_not_claim_what_the_code_does_not_put_out_again(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    await write(grid, [(1, 1)])
    clock = "import time\n" + HEAD + BODY.replace("FACTOR * write.value}", "time.time_ns()}").replace("FACTOR", "1")
    await grid.deploy(("m", clock))
    await grid.regenerate("doubled")
    found = await grid.map("doubled").why(1)
    assert found is not None
    (lineage,) = found.lineages
    made = lineage.regenerated
    assert made is not None and "something else" in lineage.broken and not lineage.steps and lineage.raw is None
    assert made.possible_count == 1 and made.possible[0].key == (1,) and made.possible[0].value == 1
