"""What clients did, and what came of it: the counts of a campaign, and everything that must not be.

Every operation ends in exactly one way: ok; refused (a conflict, which its workload expects); failed, by an error that
says that nothing was done; unknown, by one that does not say. An error that says neither is an anomaly, like every
answer that contradicts the model.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from tidegrid.grid.model.errors import (
    DeadlineError,
    GridError,
    GroupRefusedError,
    OutcomeUnknownError,
    OverloadError,
    PeerError,
)

T = TypeVar("T")
_ANOMALIES_SHOWN = 20


class NoAnswer(Exception):
    """The operation came to nothing, and is counted."""


@dataclass(slots=True)
class Book:
    operations: int = 0
    ok: int = 0
    refused: int = 0
    failed: int = 0
    unknown: int = 0
    anomalies: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")  # seconds, of an operation that went well

    def anomaly(self, text: str) -> None:
        self.anomalies.append(text)
        if len(self.anomalies) <= _ANOMALIES_SHOWN:
            print(f"ANOMALY {text}", flush=True)

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.anomaly(text)

    async def write(self, what: str, work: Awaitable[T]) -> T:
        """Raises NoAnswer, with the cause; and GroupRefusedError."""
        self.operations += 1
        began = time.monotonic()
        try:
            result = await work
        except GroupRefusedError:
            self.refused += 1
            raise
        except GridError as error:
            self._count(what, error)
            if isinstance(error, DeadlineError | OutcomeUnknownError):
                self.unknown += 1
            elif isinstance(error, PeerError | OverloadError):
                self.failed += 1
            else:
                self.failed += 1
                self.anomaly(f"{what}: {error!r}")
            raise NoAnswer from error
        self.ok += 1
        self.slowest = max(self.slowest, (time.monotonic() - began, what))
        return result

    async def read(self, what: str, work: Awaitable[T]) -> T:
        """Raises NoAnswer."""
        self.operations += 1
        began = time.monotonic()
        try:
            result = await work
        except GridError as error:
            self._count(what, error)
            self.failed += 1
            if not isinstance(error, PeerError | OverloadError):
                self.anomaly(f"{what}: {error!r}")
            raise NoAnswer from error
        self.ok += 1
        self.slowest = max(self.slowest, (time.monotonic() - began, what))
        return result

    def _count(self, what: str, error: GridError) -> None:
        name = f"{what.partition(' ')[0]}: {type(error).__name__}"
        self.errors[name] = self.errors.get(name, 0) + 1
