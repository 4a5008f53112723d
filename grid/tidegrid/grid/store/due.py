"""Keys that have something to reclaim, by the epoch at which it falls due.

A key may be noted more than once, and for something that has gone since: who takes it looks again.
Memory: eight bytes a note, and about 150 for each epoch with notes.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from tidegrid.grid.model.ids import Epoch


class DueKeys:
    __slots__ = ("_by_epoch", "_epochs")

    def __init__(self) -> None:
        self._by_epoch: dict[Epoch, list[bytes]] = {}
        self._epochs: list[Epoch] = []  # a heap of the same epochs

    def note(self, epoch: Epoch, key: bytes) -> None:
        """O(1) for an epoch that has notes, else O(log epochs)."""
        keys = self._by_epoch.get(epoch)
        if keys is None:
            self._by_epoch[epoch] = [key]
            heappush(self._epochs, epoch)
        else:
            keys.append(key)

    def note_all(self, epoch: Epoch, keys: list[bytes]) -> None:
        """As `note` for each. Keeps the list."""
        known = self._by_epoch.get(epoch)
        if known is None:
            self._by_epoch[epoch] = keys
            heappush(self._epochs, epoch)
        else:
            known.extend(keys)

    def take(self, through: Epoch, count: int) -> Iterator[bytes]:
        """At most `count` keys that are due at or below `through`, no longer noted. It may be left before its end."""
        while count > 0 and self._epochs and self._epochs[0] <= through:
            keys = self._by_epoch[self._epochs[0]]
            key = keys.pop()
            if not keys:
                del self._by_epoch[heappop(self._epochs)]
            count -= 1
            yield key

    def __len__(self) -> int:
        return sum(map(len, self._by_epoch.values()))

    def _check(self) -> None:
        assert sorted(self._epochs) == sorted(self._by_epoch) and all(self._by_epoch.values())
        assert all(self._epochs[(at - 1) // 2] <= self._epochs[at] for at in range(1, len(self._epochs)))

    def _notes(self) -> set[tuple[Epoch, bytes]]:
        return {(epoch, key) for epoch, keys in self._by_epoch.items() for key in keys}
