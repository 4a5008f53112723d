"""Regenerations while writers go on and nodes suffer (rounds.py), by seed; faults as in tests/faults/grid.

python -m tests.faults.regeneration.campaign --fault dead --seconds 60 --seed 1      or, all of them,    make faults
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.faults.grid.campaign import Run, main
from tests.faults.grid.hosts import GatedHost, Host, KilledHost
from tests.faults.grid.workloads import Workload
from tests.faults.regeneration.rounds import Rounds


@dataclass(slots=True)
class RegenerationRun(Run):
    """The last round may take its time. Nobody asks seldom."""

    finish_seconds: float = 180.0
    hermits: int = 0
    pause: float = 0.05

    def host(self, directory: Path) -> Host:
        if self.fault == "kill":
            return KilledHost(directory, self.nodes, self.seed, None)
        return GatedHost(directory / "log", self.fault, self.nodes, self.evict_seconds, self.seed, None)

    def workloads(self) -> list[Workload]:
        return [Rounds(self.counts)]


if __name__ == "__main__":
    sys.exit(main(RegenerationRun, "tests.faults.regeneration.campaign", __doc__))
