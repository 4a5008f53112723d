"""When epochs were closed, by wall clock: for reads as of a time. Exact for the newest closes, coarser further back."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Final

from tidegrid.grid.model.ids import Epoch

CLOSES_MAX: Final = 16_384  # remembered (time, epoch) pairs; the older half is thinned evenly when there are more


class CloseTimes:
    """Invariant: times and epochs never decrease."""

    __slots__ = ("_epochs", "_times_ms")

    def __init__(self) -> None:
        self._times_ms: list[int] = []
        self._epochs: list[Epoch] = []

    def add(self, time_ms: int, epoch: Epoch) -> None:
        self._times_ms.append(time_ms)
        self._epochs.append(epoch)
        if len(self._epochs) > CLOSES_MAX:
            half = CLOSES_MAX // 2
            kept = _evenly(self._times_ms[:half], half // 2)
            self._times_ms[:half] = [self._times_ms[index] for index in kept]
            self._epochs[:half] = [self._epochs[index] for index in kept]

    def epoch_at(self, time_ms: int) -> Epoch | None:
        """The highest that was closed at or before `time_ms`; None if that is before all of them. O(log closes)."""
        index = bisect_right(self._times_ms, time_ms)
        return self._epochs[index - 1] if index else None

    @property
    def earliest(self) -> tuple[Epoch, int] | None:
        return (self._epochs[0], self._times_ms[0]) if self._epochs else None

    def forget_below(self, epoch: Epoch) -> None:
        gone = bisect_right(self._epochs, epoch - 1)
        del self._times_ms[:gone], self._epochs[:gone]

    def to_plain(self) -> list[Any]:
        return [self._times_ms, self._epochs]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> CloseTimes:
        made = cls()
        made._times_ms, made._epochs = plain
        return made


def _evenly(times_ms: list[int], count: int) -> list[int]:
    """Indexes of the first and of the last in each equal span of time, at most `count`.

    Spans are powers of two and begin at their multiples, so that thinning again takes nothing away until spans double:
    old closes grow coarser with the time that is remembered, not with every thinning.
    """
    width = 1 << ((times_ms[-1] - times_ms[0]) // count).bit_length()
    while True:
        last = {time_ms // width: index for index, time_ms in enumerate(times_ms)}
        kept = sorted({0, *last.values()})
        if len(kept) <= count:
            return kept
        width *= 2
