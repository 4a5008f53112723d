"""How much history stays in memory: the horizon, and the slices in which what lies before it is let go.

The horizon is grid-wide and a control record, so that every node answers alike for an epoch. Any node proposes to
move it: past what is older than `history_seconds`, or, when its superseded versions outweigh `history_bytes_max`,
half way to the last close (again, if that was not enough).

It does not pass a hold (ring/holds.py). A proposal names the holds that count no longer, which ends them: those that
have expired by the proposer's clock; and while versions outweigh HELD_BYTES_FACTOR x `history_bytes_max` though what
lies before the horizon is gone, those at the lowest held epoch, one such epoch a proposal. So history costs at most
that much memory, whoever holds it, and until then a hold that is kept up is kept.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.holds import Hold, HoldEnd
from tidegrid.v1.control_pb2 import ControlRecord, HoldReleased, Horizon

HELD_BYTES_FACTOR: Final = 2


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
        self._dirty = control.horizon > 0
        self.held_back_by: frozenset[str] = frozenset()  # names: what the last proposal did not pass

    def proposal(self, time_ms: int, history_bytes: int) -> ControlRecord | None:
        """The HORIZON to append now, if any, right after the control position that is applied here."""
        if time_ms < self._next_proposal_ms:
            return None
        self._next_proposal_ms = time_ms + int(self._options.proposal_seconds * 1000)
        horizon, wanted = self._control.horizon, self._wanted(time_ms, history_bytes)
        dropped = {hold: HoldEnd.EXPIRED for hold in self._control.holds if hold.expires_ms <= time_ms}
        low = self._lowest(dropped)
        too_large = not self._dirty and history_bytes > HELD_BYTES_FACTOR * self._options.history_bytes_max
        if too_large and low and low[0].epoch < wanted:
            dropped.update(dict.fromkeys(low, HoldEnd.TOO_LARGE))
            low = self._lowest(dropped)
        held = low if low and low[0].epoch < wanted else []
        self.held_back_by = frozenset(hold.name for hold in held)
        target = held[0].epoch if held else wanted
        if target <= horizon and not dropped:
            return None
        ends = [HoldReleased(name=hold.name, taken=hold.taken, cause=cause) for hold, cause in dropped.items()]
        return ControlRecord(horizon=Horizon(epoch=target, time_ms=time_ms, dropped=ends))

    def _wanted(self, time_ms: int, history_bytes: int) -> Epoch:
        """The horizon if nobody held it back."""
        control, target = self._control, self._control.horizon
        old = control.epoch_closed_at(time_ms - int(self._options.history_seconds * 1000))
        if old is not None:
            target = max(target, old)
        if history_bytes > self._options.history_bytes_max:
            target = max(target, Epoch(control.horizon + (control.closed - control.horizon + 1) // 2))
        return target

    def _lowest(self, without: Container[Hold]) -> list[Hold]:
        """The holds at the lowest held epoch."""
        left = [hold for hold in self._control.holds if hold not in without]
        lowest = min((hold.epoch for hold in left), default=None)
        return [hold for hold in left if hold.epoch == lowest]

    def look_again(self) -> None:
        """The horizon has moved, or a partition came from a checkpoint and the log after it."""
        self._dirty = True

    @property
    def pending(self) -> bool:
        return self._dirty

    def reclaim(self, partitions: Iterable[Partition], budget: int) -> int:
        """One bounded slice; returns the versions and sessions let go. 0: nothing is left to do for now."""
        done, horizon, pinned = 0, self._control.horizon, False
        for partition in partitions:
            done += partition.memory.expire()
            for _, table in partition.tables.every():
                if done >= budget:
                    return done
                done += table.reclaim(horizon, budget - done)
                pinned = pinned or table.horizon < horizon
        self._dirty = pinned
        return done
