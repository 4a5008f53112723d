"""Randomness that replays: the same seed gives the same numbers on every machine, for ever.

A trigger must be a pure function, so it draws from a generator seeded by facts that the log records: which write it is.
The numbers are SHA-256 of (seed, counter): slow next to a Mersenne Twister, with nothing to initialise, and fixed by a standard.

Prior art: the seeded randomness that Temporal hands to a workflow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, MutableSequence, Sequence
from typing import TypeVar

T = TypeVar("T")

WriteName = tuple[bytes, int]
"""What tells a write from every other in its partition, and is in the log: (session, sequence) of one that a client made;
of what was delivered, its source, and how many rows of that to the same map have this key before it; of one that is redriven,
which it is, and 0."""


def named_by_key(origin: bytes, keys: Iterable[bytes]) -> list[WriteName]:
    """The names of delivered rows of one map. Not by their numbers: code that sends more than it did leaves those of other
    keys alone."""
    seen: dict[bytes, int] = {}
    names: list[WriteName] = []
    for key in keys:
        nth = seen.get(key, 0)
        seen[key] = nth + 1
        names.append((origin, nth))
    return names


class SeededRandom:
    """A small part of `random.Random`, by the same names."""

    __slots__ = ("_counter", "_seed")

    def __init__(self, seed: bytes) -> None:
        self._seed = hashlib.sha256(seed).digest()
        self._counter = 0

    def getrandbits(self, bits: int) -> int:
        """A whole number of `bits` random bits."""
        if bits < 0:
            raise ValueError("the number of bits must not be negative")
        drawn, have = 0, 0
        while have < bits:
            self._counter += 1
            block = hashlib.sha256(self._seed + self._counter.to_bytes(8, "big")).digest()
            drawn, have = (drawn << 256) | int.from_bytes(block, "big"), have + 256
        return drawn >> (have - bits)

    def random(self) -> float:
        """0 <= x < 1, in steps of 2**-53."""
        return self.getrandbits(53) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def randrange(self, count: int) -> int:
        """0 <= n < count, each as likely: draws that would favour some are thrown away."""
        if count < 1:
            raise ValueError("there is nothing to draw from")
        bits = count.bit_length()
        while (drawn := self.getrandbits(bits)) >= count:
            pass
        return drawn

    def randint(self, low: int, high: int) -> int:
        """low <= n <= high."""
        if high < low:
            raise ValueError(f"no whole number lies between {low} and {high}")
        return low + self.randrange(high - low + 1)

    def choice(self, sequence: Sequence[T]) -> T:
        return sequence[self.randrange(len(sequence))]

    def shuffle(self, sequence: MutableSequence[T]) -> None:
        for last in range(len(sequence) - 1, 0, -1):
            other = self.randrange(last + 1)
            sequence[last], sequence[other] = sequence[other], sequence[last]
