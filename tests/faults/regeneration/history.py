"""What was done to the grid: who wrote what, which code acts from which epoch, which generation readers see from which.

Raw writes are those that a feed of the raw map tells of: of a write whose outcome stayed unknown it says whether it is
there. What was acknowledged has to be among them as it was acknowledged, what was never asked for must not be.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from tidegrid.client import Grid

from tests.faults.grid.book import Book
from tests.faults.regeneration.code import RAW, Raw, Rows, made

FIRST = 1


@dataclass(slots=True)
class History:
    """`asked`: of a key, the values that somebody wanted there, all different; `stored`: (key, version) ->
    (value, epoch) as acknowledged. `codes` and `seen`: lists of (first epoch, version of the code or generation).
    `bases`: generation -> (epoch from which the log counts, version of the code that made what is below)."""

    asked: dict[int, set[int]] = field(default_factory=dict)
    stored: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    codes: list[tuple[int, int]] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=lambda: [(0, FIRST)])
    bases: dict[int, tuple[int, int]] = field(default_factory=dict)
    writes: list[Raw] = field(default_factory=list)

    def code_at(self, epoch: int) -> int:
        return self.codes[bisect_right(self.codes, epoch, key=_first) - 1][1]

    def seen_at(self, epoch: int) -> int:
        return self.seen[bisect_right(self.seen, epoch, key=_first) - 1][1]

    def tables(self, epoch: int, generation: int) -> dict[str, Rows]:
        """What that generation has to hold as of the epoch."""
        since, base = self.bases.get(generation, (0, 0))
        writes = self.writes[: bisect_right(self.writes, epoch, key=_first)]
        return made(writes, lambda at: base if at < since else self.code_at(at))

    async def learn(self, grid: Grid, through: int, book: Book) -> None:
        """All raw writes up to a closed epoch."""
        self.writes.clear()
        last: dict[int, Raw] = {}
        async with grid.map(RAW).subscribe(after=0, marks=True) as feed:
            async for batch in feed:
                for change in batch.changes if batch.epoch <= through else ():
                    n, before = int(change.key[0]), last.get(int(change.key[0]))
                    value = before.value if before is not None else None
                    last[n] = Raw(batch.epoch, n, change.version, change.value, value)
                    self.writes.append(last[n])
                if batch.epoch >= through:
                    break
        self._judge(book)

    def _judge(self, book: Book) -> None:
        there = {(write.n, write.version): (write.value, write.epoch) for write in self.writes}
        book.expect(len(there) == len(self.writes), "a version of a raw key is there twice")
        for name, (value, epoch) in self.stored.items():
            found = there.get(name)
            book.expect(found == (value, epoch), f"raw {name} was acknowledged as {(value, epoch)}, and is {found}")
        values: dict[int, list[int]] = {}
        for write in self.writes:
            values.setdefault(write.n, []).append(write.value)
        for n, there_are in values.items():
            book.expect(len(set(there_are)) == len(there_are), f"raw {n} has a write twice, of {there_are}")
            strange = set(there_are) - self.asked.get(n, set())
            book.expect(not strange, f"raw {n} has {sorted(strange)[:5]}, which nobody wrote")


def _first(pair: tuple[int, int] | Raw) -> int:
    return pair[0]
