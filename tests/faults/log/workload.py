"""A seeded workload on a LocalLog over simulated files, and the check of what a log holds after a crash."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.model.ids import BEFORE_FIRST, CONTROL_LOG, Epoch, LogId, Position

from tests.faults.log.simulated_files import Mark, SimulatedFiles

FOLDED = b"folded"
OPTIONS = LocalLogOptions(segment_bytes=8192)
LOGS = [CONTROL_LOG, LogId(0), LogId(1), LogId(2)]


@dataclass
class Append:
    """One append that was issued; `positions` once it was acknowledged."""

    payloads: dict[LogId, bytes]
    positions: dict[LogId, Position] = field(default_factory=dict)


@dataclass
class Workload:
    """Appends in the order of issue. `seen`: payloads of each log before the workload began."""

    files: SimulatedFiles
    seed: int
    appends: list[Append] = field(default_factory=list)
    epoch: int = 1

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def one(self, log: LocalLog, sizes: Sequence[int], names: Sequence[LogId] | None = None) -> None:
        """Issues one append over `len(sizes)` logs and waits for it."""
        picked = names or self._random.sample(LOGS, len(sizes))
        self.epoch += self._random.randrange(2)
        number = len(self.appends)
        append = Append(
            {
                name: number.to_bytes(4, "big") + self._random.randbytes(size)
                for name, size in zip(picked, sizes, strict=True)
            }
        )
        self.appends.append(append)
        entries = [
            Entry(name, await log.tail(name), Epoch(self.epoch), payload) for name, payload in append.payloads.items()
        ]
        positions = await log.append(entries)
        append.positions = dict(zip(append.payloads, positions, strict=True))
        self.files.mark(("acknowledged", number))

    async def several(self, log: LocalLog, sizes: Sequence[int]) -> None:
        """As many appends at once, each to a log of its own: they share batches."""
        await asyncio.gather(*(self.one(log, [size], [name]) for size, name in zip(sizes, LOGS, strict=False)))

    async def checkpoint(self, log: LocalLog, name: LogId, size: int) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield bytes(size)
            yield b"end"

        await log.save_checkpoint(name, await log.tail(name), chunks())


def fold(records: Iterable[LogRecord]) -> bytes:
    """What stands for records in a compacted log: equal only if all of them were there, once, in order."""
    state = b""
    for record in records:
        folded = record.payload.startswith(FOLDED)
        state = record.payload if folded else FOLDED + sha256(state + record.payload).digest()
    return state


def acknowledged(trace: Sequence[object]) -> set[int]:
    return {mark.note[1] for mark in trace if isinstance(mark, Mark) and isinstance(mark.note, tuple)}


async def contents(log: LocalLog, bytes_max: int = 1 << 20) -> dict[LogId, list[tuple[Position, bytes]]]:
    found: dict[LogId, list[tuple[Position, bytes]]] = {}
    for name in LOGS:
        after, rows = BEFORE_FIRST, []
        while records := await log.read(name, after, bytes_max):
            rows += [(record.position, record.payload) for record in records]
            after = records[-1].position
        assert after == await log.tail(name)
        found[name] = rows
    return found


def check_contents(found: dict[LogId, list[tuple[Position, bytes]]], appends: Sequence[Append], must: set[int]) -> int:
    """What is there is a whole number of appends, in order, with all that were acknowledged. Returns how many.

    Appends that went out together have no order among themselves when they wrote to different logs, so "how many" is
    told per log, and an append over several logs must be there in all or in none.
    """
    present: set[int] = set()
    for name, rows in found.items():
        of_log = [number for number, append in enumerate(appends) if name in append.payloads]
        assert len(rows) <= len(of_log), f"log {name} has more than was appended"
        for (position, payload), number in zip(rows, of_log, strict=False):
            append = appends[number]
            assert payload == append.payloads[name], f"log {name}: append {number} has other bytes"
            assert append.positions.get(name, position) == position, f"log {name}: append {number} moved"
            present.add(number)
        positions = [position for position, _ in rows]
        assert positions == sorted(set(positions))
    for number in present:
        for name, payload in appends[number].payloads.items():
            assert payload in [found_payload for _, found_payload in found[name]], f"append {number} is there by half"
    assert must <= present, f"acknowledged, and gone: {sorted(must - present)}"
    return len(present)
