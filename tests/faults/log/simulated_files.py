"""A directory in memory that records what was done to it, can fail on request, and can crash in every lawful way.

The model of a crash: what was synced is there. Of what was not, each 512-byte sector holds any version it had since the
last sync, the length of a file is any it had since then, and each creation, rename and removal since the directory was
synced has happened or has not. A write can also be cut at any byte.

    trace := op*                         an Op changes the disk; a Mark is a note of the test ("acknowledged")
    state_at(trace, base, k)             the disk just before op k: what is durable, what is pending
    images(state, ...)                   what a machine may find there after a crash
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tidegrid.grid.model.errors import InUseError

SECTOR = 512
Image = dict[str, bytes]


@dataclass(frozen=True)
class Op:
    kind: str  # create, write, allocate, truncate, sync, rename, remove, sync_directory, lost
    inode: int = -1
    name: str = ""
    new_name: str = ""
    offset: int = 0
    length: int = 0
    data: bytes = b""


@dataclass(frozen=True)
class Mark:
    note: object


class SimulatedFile:
    def __init__(self, files: SimulatedFiles, inode: int) -> None:
        self._files = files
        self._inode = inode
        self.closed = False

    def pread(self, length: int, offset: int) -> bytes:
        assert not self.closed
        return bytes(self._files.contents[self._inode][offset : offset + length])

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        assert not self.closed
        self._files.do(Op("write", self._inode, offset=offset, data=b"".join(buffers)))

    def pwritev_sync(self, buffers: Sequence[bytes], offset: int) -> None:
        self.pwritev(buffers, offset)
        self.sync()

    def sync(self) -> None:
        assert not self.closed
        self._files.do(Op("sync", self._inode))

    def allocate(self, length: int) -> None:
        self._files.do(Op("allocate", self._inode, length=length))

    def truncate(self, length: int) -> None:
        self._files.do(Op("truncate", self._inode, length=length))

    def size(self) -> int:
        return len(self._files.contents[self._inode])

    def close(self) -> None:
        self.closed = True


class SimulatedLock:
    def __init__(self, files: SimulatedFiles) -> None:
        self._files = files

    def release(self) -> None:
        self._files.locked = False


class SimulatedFiles:
    """`fail(op)` may return an error to raise instead of doing the op."""

    def __init__(self, image: Image | None = None) -> None:
        self.base: Image = dict(image or {})
        self.contents: list[bytearray] = []
        self.names: dict[str, int] = {}
        for name, data in self.base.items():
            self.names[name] = len(self.contents)
            self.contents.append(bytearray(data))
        self.trace: list[Op | Mark] = []
        self.fail: Callable[[Op], OSError | None] = lambda op: None
        self.locked = False
        self.dies_at = -1  # the process ends before the op of this number; what it did stays in the machine's memory

    def image(self) -> Image:
        """As a process sees it, synced or not."""
        return {name: bytes(self.contents[inode]) for name, inode in self.names.items()}

    def mark(self, note: object) -> None:
        self.trace.append(Mark(note))

    def do(self, op: Op) -> None:
        if self.dies_at == 0:
            raise OSError(errno.EIO, "the process is dead")
        self.dies_at -= 1
        error = self.fail(op)
        if error is not None:
            if op.kind == "sync":
                self.trace.append(Op("lost", op.inode))  # the pages look clean from now on, and are not on disk
            raise error
        self.trace.append(op)
        content = self.contents[op.inode] if op.inode >= 0 else bytearray()
        if op.kind == "write":
            apply_write(content, op.offset, op.data)
        elif op.kind in ("allocate", "truncate"):
            resize(content, op.length, grow_only=op.kind == "allocate")
        else:
            apply_name(self.names, op)

    # Files

    def path(self, name: str) -> str:
        return f"disk/{name}"

    def prepare(self) -> None:
        pass

    def list(self) -> list[str]:
        return list(self.names)

    def create(self, name: str) -> SimulatedFile:
        self.contents.append(bytearray())
        inode = len(self.contents) - 1
        self.do(Op("create", inode, name=name))
        return SimulatedFile(self, inode)

    def open(self, name: str, *, write: bool = False) -> SimulatedFile:
        if name not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return SimulatedFile(self, self.names[name])

    def rename(self, old: str, new: str) -> None:
        self.do(Op("rename", self.names[old], name=old, new_name=new))

    def remove(self, name: str) -> None:
        if name not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        self.do(Op("remove", name=name))

    def sync_directory(self) -> None:
        self.do(Op("sync_directory"))

    def lock(self, name: str, *, shared: bool = False) -> SimulatedLock:
        if self.locked:
            raise InUseError("in use", what="disk")
        self.locked = True
        return SimulatedLock(self)


def apply_write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data


def resize(content: bytearray, length: int, *, grow_only: bool) -> None:
    if length > len(content):
        content.extend(bytes(length - len(content)))
    elif not grow_only:
        del content[length:]


def apply_name(names: dict[str, int], op: Op) -> None:
    if op.kind == "create":
        names[op.name] = op.inode
    elif op.kind == "rename":
        names.pop(op.name, None)
        names[op.new_name] = op.inode
    elif op.kind == "remove":
        names.pop(op.name, None)


@dataclass
class Disk:
    """What is durable, and what has happened since."""

    durable: dict[int, bytearray] = field(default_factory=dict)
    pending: dict[int, list[Op]] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    names_pending: list[Op] = field(default_factory=list)

    @classmethod
    def of(cls, base: Image) -> Disk:
        disk = cls()
        for inode, (name, data) in enumerate(base.items()):
            disk.durable[inode] = bytearray(data)
            disk.names[name] = inode
        return disk

    def take(self, op: Op | Mark) -> None:
        if isinstance(op, Mark):
            return
        if op.kind in ("write", "allocate", "truncate"):
            self.pending.setdefault(op.inode, []).append(op)
        elif op.kind == "sync":
            content = self.durable.setdefault(op.inode, bytearray())
            for change in self.pending.pop(op.inode, []):
                _apply(content, change)
        elif op.kind == "lost":
            self.pending.pop(op.inode, None)
        elif op.kind == "sync_directory":
            for change in self.names_pending:
                apply_name(self.names, change)
            self.names_pending.clear()
        else:
            self.names_pending.append(op)

    def images(
        self, seed: int, touched: int | None = None, samples: int = 6, exhaustive_sectors: int = 4
    ) -> Iterator[Image]:
        """Nothing of the pending, all of it, and what lies between: every subset when few, chosen and random ones else.

        `touched`: the only file whose states in between are wanted; the others have nothing or all of theirs.
        """
        chooser = random.Random(seed)
        changed = [inode for inode in self.pending if self._reachable(inode)]
        versions = {inode: list(self._contents(inode, chooser, samples, exhaustive_sectors)) for inode in changed}
        namings = list(self._namings(chooser, samples))
        for naming in namings:
            yield self._image(naming, {inode: found[0] for inode, found in versions.items()})
            yield self._image(naming, {inode: found[-1] for inode, found in versions.items()})
        for inode, found in versions.items():
            for version in found if touched in (None, inode) else ():
                for others in (0, -1):
                    picked = {other: known[others] for other, known in versions.items()}
                    yield self._image(chooser.choice(namings), picked | {inode: version})

    def _reachable(self, inode: int) -> bool:
        return inode in self.names.values() or any(op.inode == inode for op in self.names_pending)

    def _image(self, naming: dict[str, int], contents: dict[int, bytes]) -> Image:
        empty = bytearray()
        return {
            name: contents.get(inode, bytes(self.durable.get(inode, empty))) for name, inode in sorted(naming.items())
        }

    def _namings(self, chooser: random.Random, samples: int) -> Iterator[dict[str, int]]:
        count = len(self.names_pending)
        picks: list[tuple[bool, ...]] = (
            list(itertools.product((False, True), repeat=count))
            if count <= 3
            else [tuple(number < kept for number in range(count)) for kept in range(count + 1)]
            + [tuple(chooser.random() < 0.5 for _ in range(count)) for _ in range(samples)]
        )
        for pick in picks:
            names = dict(self.names)
            for op, happened in zip(self.names_pending, pick, strict=True):
                if happened:
                    apply_name(names, op)
            yield names

    def _contents(self, inode: int, chooser: random.Random, samples: int, exhaustive: int) -> Iterator[bytes]:
        """First: nothing pending happened. Last: all of it."""
        base, changes = self.durable.get(inode, bytearray()), self.pending[inode]
        states = [bytes(base)]
        for change in changes:
            content = bytearray(states[-1])
            _apply(content, change)
            states.append(bytes(content))
        yield states[0]
        longest = max(map(len, states))
        padded = [state.ljust(longest, b"\0") for state in states]
        sectors = [at for at in range(0, longest, SECTOR) if len({state[at : at + SECTOR] for state in padded}) > 1]
        if len(changes) == 1 and changes[0].kind == "write":
            yield from _cut_writes(base, changes[0], chooser)
        for pick in _sector_picks(len(sectors), len(states), chooser, samples, exhaustive):
            content = bytearray(padded[0])
            for at, version in zip(sectors, pick, strict=True):
                content[at : at + SECTOR] = padded[version][at : at + SECTOR]
            for length in sorted({len(state) for state in states}):
                yield bytes(content[:length])
        yield states[-1]


def _sector_picks(
    sectors: int, versions: int, chooser: random.Random, samples: int, exhaustive: int
) -> Iterator[tuple[int, ...]]:
    last = versions - 1
    if versions**sectors <= 2**exhaustive:
        yield from itertools.product(range(versions), repeat=sectors)
        return
    for at in range(sectors):
        yield tuple(last if other == at else 0 for other in range(sectors))  # only this one
        yield tuple(0 if other == at else last for other in range(sectors))  # all but this one
        yield tuple(last if other <= at else 0 for other in range(sectors))  # a prefix
    for _ in range(samples):
        yield tuple(chooser.randrange(versions) for _ in range(sectors))


def _cut_writes(base: bytearray, write: Op, chooser: random.Random) -> Iterator[bytes]:
    """A write cut at a byte: near its ends, at headers, and at random."""
    size = len(write.data)
    cuts = {1, 27, 28, 29, 55, 56, 57, size - 1, size // 2, *(chooser.randrange(size) for _ in range(4))}
    for cut in sorted(cut for cut in cuts if 0 < cut < size):
        content = bytearray(base)
        apply_write(content, write.offset, write.data[:cut])
        yield bytes(content)


def _apply(content: bytearray, op: Op) -> None:
    if op.kind == "write":
        apply_write(content, op.offset, op.data)
    else:
        resize(content, op.length, grow_only=op.kind == "allocate")
