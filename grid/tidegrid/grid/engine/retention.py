"""How much history stays in memory: the horizon, and the slices in which what lies before it is let go.

The horizon is grid-wide and a control record, so that every node answers alike for an epoch. Any node proposes to
move it: past what is older than `history_seconds`, or, when its superseded versions outweigh `history_bytes_max`,
half way to the last close (again, if that was not enough).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.ring.control import ControlState
from tidegrid.v1.control_pb2 import ControlRecord, Horizon


@dataclass(frozen=True, slots=True)
class RetentionOptions:
    history_seconds: float = 3600.0  # longer: as-of reads reach further back, more memory
    history_bytes_max: int = 1024 * 1024 * 1024  # of superseded versions, per node
    proposal_seconds: float = 1.0  # at most one proposal in this time

    def validate(self) -> None:
        if self.history_seconds < 0 or self.history_bytes_max < 0:
            raise ConfigurationError("history_seconds and history_bytes_max are 0 or more")


class Retention:
    def __init__(self, control: ControlState, options: RetentionOptions) -> None:
        options.validate()
        self._control = control
        self._options = options
        self._next_proposal_ms = 0
        self._dirty = False

    def proposal(self, time_ms: int, history_bytes: int) -> ControlRecord | None:
        """The HORIZON to append now, if any."""
        if time_ms < self._next_proposal_ms:
            return None
        self._next_proposal_ms = time_ms + int(self._options.proposal_seconds * 1000)
        control, target = self._control, self._control.horizon
        old = control.epoch_closed_at(time_ms - int(self._options.history_seconds * 1000))
        if old is not None:
            target = max(target, old)
        if history_bytes > self._options.history_bytes_max:
            target = max(target, Epoch(control.horizon + (control.closed - control.horizon + 1) // 2))
        return ControlRecord(horizon=Horizon(epoch=target)) if target > control.horizon else None

    def moved(self, _horizon: Epoch) -> None:
        self._dirty = True

    @property
    def pending(self) -> bool:
        return self._dirty

    def reclaim(self, partitions: Iterable[Partition], budget: int) -> int:
        """One bounded slice; returns the versions and sessions let go. 0: nothing is left to do for now."""
        done = 0
        for partition in partitions:
            done += partition.memory.expire()
            for table in partition.tables.values():
                if done >= budget:
                    return done
                done += table.reclaim(self._control.horizon, budget - done)
        self._dirty = False
        return done
