"""A few seconds of each fault; `make faults` runs a minute of each."""

from __future__ import annotations

import pytest

from tests.faults.grid.campaign import FAULTS, Run

SECONDS = {"kill": 4.0}


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_answer_contradicts_another(fault: str) -> None:
    run = Run(fault, SECONDS.get(fault, 3.0), seed=1, evict_seconds=0.5, clients=3)
    await run.play()
    assert not run.book.anomalies, "\n".join(run.book.anomalies)
    assert run.counts and run.book.ok and run.epochs
    assert run.book.operations == run.book.ok + run.book.refused + run.book.failed + run.book.unknown
