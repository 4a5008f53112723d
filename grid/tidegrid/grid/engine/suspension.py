"""Triggers that are not run any more on this node: each went over its time budget again and again.

    runs --OVERRUNS_MAX overruns within WITHIN_SECONDS--> suspended --resume, or a deployment--> runs

While a trigger is suspended it fails on every write at once: the write is refused, or parked, as `on_error` declares. So
a loop costs the node a few seconds and not all of its time. What was refused or parked is in the record, or nowhere, as
with any failure; so that nodes are not agreed on what is suspended makes no difference to a replay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.effects import Effect, Suspended
from tidegrid.triggers.budget import Watch

OVERRUNS_MAX: Final = 3
WITHIN_SECONDS: Final = 60.0


class Moment(Protocol):
    @property
    def now(self) -> float: ...

    @property
    def time_ms(self) -> int: ...


class Suspension(NamedTuple):
    trigger: str
    since_ms: int
    words: str


class Suspensions:
    def __init__(self, catalogs: Catalogs, watch: Watch, emit: Callable[[Effect], None]) -> None:
        self._catalogs = catalogs
        self._watch = watch
        self._emit = emit
        self._overruns: dict[str, deque[float]] = {}
        self.suspended: dict[str, Suspension] = {}

    def look(self, at: Moment) -> None:
        """Whether a trigger has gone over its budget once too often."""
        if not self._watch.overruns:
            return
        for name in self._watch.overruns:
            seen = self._overruns.setdefault(name, deque(maxlen=OVERRUNS_MAX))
            seen.append(at.now)
            if name not in self.suspended and len(seen) == OVERRUNS_MAX and at.now - seen[0] <= WITHIN_SECONDS:
                words = (
                    f"it is suspended on this node: {OVERRUNS_MAX} writes within {WITHIN_SECONDS:g} s took it longer than its "
                    f"budget; mend and deploy it, or `tidegrid deployments --resume {name}`"
                )
                self.suspended[name] = Suspension(name, at.time_ms, words)
                self._emit(Suspended(name, words))
        self._watch.overruns.clear()
        self._apply()

    def resume(self, trigger: str = "") -> list[str]:
        """Runs it again, or (empty) all of them; returns which were suspended."""
        names = [name for name in self.suspended if trigger in ("", name)]
        for name in names:
            del self.suspended[name]
        for name in names if trigger else list(self._overruns):
            self._overruns.pop(name, None)
        self._apply()
        return names

    def _apply(self) -> None:
        self._catalogs.suspend({name: one.words for name, one in self.suspended.items()})
