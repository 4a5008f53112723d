"""When rounds begin: kept at the origin, the lowest member.

    resting --wanted, or a heartbeat--> due --begun--> out --returned, somebody busy or a wake since--> due
                                                           --returned, nobody busy--> resting

A round begins one tick after the one before began, or at once if that is past: so a busy grid closes an epoch per
tick. An idle one of several nodes is gone round once a heartbeat, to see who is there; one node alone sends nothing
and holds no timer. Without a tick the user begins every round.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.ring.local import RingOptions
from tidegrid.grid.ring.token import NO_EPOCH


@dataclass(slots=True)
class Rounds:
    options: RingOptions
    due: float | None = None
    beat: float | None = None
    out: bool = False
    wanted: Epoch = NO_EPOCH  # the highest epoch that somebody asked to see closed
    count: int = 0
    _begun_at: float | None = None
    _wanted_again: bool = False  # since the round that is out began

    @property
    def resting(self) -> bool:
        return not self.out and self.due is None

    def want(self, now: float, epoch: Epoch) -> None:
        self.wanted = max(self.wanted, epoch)
        if self.out:
            self._wanted_again = True
        elif self.due is None:
            self._schedule(now)

    def begun(self, now: float) -> None:
        self.out, self.due, self.beat, self._wanted_again = True, None, None, False
        self._begun_at = now
        self.count += 1

    def returned(self, now: float, busy: bool, *, alone: bool) -> None:
        self.out = False
        if busy or self._wanted_again:
            self._schedule(now)
        self.beating(now, alone=alone)

    def beating(self, now: float, *, alone: bool) -> None:
        """From now on a round at least every heartbeat, unless there is nobody else."""
        self.beat = None if alone or self.options.tick is None or self.out else now + self.options.heartbeat

    def closed(self, closed: Epoch) -> None:
        if self.wanted <= closed:
            self.wanted = NO_EPOCH

    def rest(self) -> None:
        """Forget what is out: of another view, or of another origin."""
        self.out, self.due, self.beat = False, None, None

    def _schedule(self, now: float) -> None:
        if self.options.tick is not None:
            self.due = now if self._begun_at is None else max(now, self._begun_at + self.options.tick)
