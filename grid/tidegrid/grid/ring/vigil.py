"""What a node does while it wants time to go on: wake the origin, and in the end take the token for lost.

    content --wants--> wanting --a token that carries the want was here, or nothing is wanted any more--> content
                       wanting: a Wake to the origin unless the last token carried the want, again until one comes;
                                no token for max(10 rotations, 200 ms), later by rank: it is lost, begin a round

Local timers only, and none while content and alone: with others a token comes by at every heartbeat. The rotation is estimated from the intervals between sightings of a busy
token, since a token that found nobody busy rests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tidegrid.grid.ring.local import RingOptions

ROTATION_MAX: Final = 1.0  # seconds; a longer interval is a loss, not a rotation
_WEIGHT: Final = 0.2


@dataclass(slots=True)
class Vigil:
    options: RingOptions
    rotation: float = 0.0
    wake_due: float | None = None
    _since: float | None = None
    _seen_at: float | None = None
    _seen_busy: bool = False
    _wakes: int = 0

    @property
    def wanting(self) -> bool:
        return self._since is not None

    def want(self, now: float) -> None:
        if self._since is None:
            self._since = now

    def content(self) -> None:
        self._since = self.wake_due = None

    def seen(self, now: float, *, regenerated: bool = False) -> None:
        """A token of a newer round is here. What went by until one was regenerated is patience, not a rotation."""
        if self._seen_at is not None and self._seen_busy and not regenerated:
            interval = min(now - self._seen_at, ROTATION_MAX)
            self.rotation += _WEIGHT * (interval - self.rotation) if self.rotation else interval
        self._seen_at, self.wake_due = now, None
        if self._since is not None:
            self._since = now

    def left(self, busy: bool) -> None:
        """The token went on; `busy` tells every one of the want, so another round follows without a wake."""
        self._seen_busy = busy

    def forgotten(self) -> None:
        """Nobody is known to know of the want any more."""
        self._seen_busy, self.wake_due = False, None

    @property
    def carried(self) -> bool:
        return self._seen_busy

    def woke(self, now: float, *, again: bool = False) -> None:
        self._wakes = self._wakes + 1 if again else 0
        patience = self.options.hop_timeout * 2.0 ** min(self._wakes, 30)
        self.wake_due = now + min(patience, self.options.hop_timeout_max)

    def lost_at(self, rank: int, *, alone: bool) -> float | None:
        """When the token is to be taken for lost; None while content and alone."""
        if self.options.tick is None or (self._since is None and (alone or self._seen_at is None)):
            return None
        rotations = self.options.regenerate_after_rotations * max(self.rotation, self.options.tick)
        patience = max(rotations, self.options.regenerate_floor)
        if self._since is None:
            patience += self.options.heartbeat
        patience += rank * self.options.regenerate_stagger
        return max(moment for moment in (self._since, self._seen_at) if moment is not None) + patience

    @property
    def unseen_since(self) -> float | None:
        """How long it has been in vain to want time to go on. None: nobody wants."""
        return max(self._since, self._seen_at or 0.0) if self._since is not None else None

    def began(self, now: float) -> None:
        """A view was applied: from here on a token should come by."""
        self._seen_at = now
