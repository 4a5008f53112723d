"""The newest landed frames of one partition, kept for its followers: the same section bytes for all of them.

A follower is only a cursor. What it asks for is here, or, when it has fallen behind, in the log; so a follower that
stalls costs nothing. Invariant: every landed frame with an effective epoch above `complete_after` is here, in order
of (effective epoch, position).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tidegrid.grid.model.ids import Epoch, PartitionId, Position


class LandedFrame(NamedTuple):
    effective: Epoch
    partition: PartitionId
    position: Position
    time_ms: int
    maps: Sequence[str]
    sections: Sequence[bytes]


class RecentFrames:
    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._frames: deque[LandedFrame] = deque()
        self._size = 0
        self.complete_after = Epoch(0)

    def start(self, after: Epoch) -> None:
        """Begins empty: what has an effective epoch up to `after` is found in the log alone."""
        self._frames.clear()
        self._size = 0
        self.complete_after = after

    def add(self, frame: LandedFrame) -> None:
        """A routed one may be late: it belongs before those of later epochs."""
        frames = self._frames
        if frames and frames[-1][:3] > frame[:3]:
            frames.insert(bisect_right(frames, frame[:3], key=_order), frame)
        else:
            frames.append(frame)
        self._size += sum(map(len, frame.sections)) + 200
        while self._size > self._bytes_max and len(self._frames) > 1:
            oldest = self._frames.popleft()
            self._size -= sum(map(len, oldest.sections)) + 200
            self.complete_after = max(self.complete_after, oldest.effective)

    def between(self, after: Epoch, through: Epoch) -> list[LandedFrame] | None:
        """Frames with after < effective <= through; None when some are no longer here. O(log n + answer)."""
        if after < self.complete_after:
            return None
        frames = self._frames
        if not frames or frames[-1].effective <= after:
            return []
        first = bisect_right(frames, after, key=_effective)
        last = bisect_right(frames, through, lo=first, key=_effective)
        return [frames[at] for at in range(first, last)]

    def newest_first(self) -> Iterator[LandedFrame]:
        """Not to be advanced once another frame was added."""
        return reversed(self._frames)


def _order(frame: LandedFrame) -> tuple[Epoch, PartitionId, Position]:
    return frame[:3]


def _effective(frame: LandedFrame) -> Epoch:
    return frame.effective
