"""A few seconds of some faults; `make faults` runs a minute of each."""

from __future__ import annotations

import pytest

from tests.faults.regeneration.campaign import RegenerationRun


@pytest.mark.parametrize("fault", ["dead", "paused", "cut", "lossy", "all", "kill"])
async def test_every_generation_is_what_its_code_makes_of_the_raw_writes(fault: str) -> None:
    run = RegenerationRun(fault, 4.0, seed=1, evict_seconds=0.5, clients=3, hermits=0)
    await run.play()
    assert not run.book.anomalies, "\n".join(run.book.anomalies)
    assert run.counts["regenerations"] and run.counts["tables compared"] and run.counts["raw writes"]
    assert run.book.operations == run.book.ok + run.book.refused + run.book.failed + run.book.unknown
