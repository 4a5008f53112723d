"""A few seeds of the kill -9 campaign; `make faults` runs many."""

from __future__ import annotations

import pytest

from tests.faults.kills.campaign import runs


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_loses_nothing_acknowledged_and_doubles_nothing(seed: int) -> None:
    for _, run in runs(seed, 1, rows=6_000):
        assert run.kills
