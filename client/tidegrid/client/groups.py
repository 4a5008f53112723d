"""Commit groups: writes to any maps and keys that are stored together, in one epoch, or not at all.

    async with grid.commit_group() as group:
        group.map("accounts").put("A", {"balance": 70}, if_version=3)
        group.map("accounts").put("B", {"balance": 130}, if_version=8)
    group.outcome.epoch

Inside the block writes are only collected, and checked for what can be known here; nothing is awaited. The end of the
block commits them (`commit.py`). Triggers run for each as for any write, and one veto refuses the whole group.

Lifecycle: made -> open, within its block -> committed, with an outcome | refused or given up | dropped, when the block
raises. Invariant: writes of one partition are applied in the order they were made; so the same key may come twice,
and the later write sees, and its condition counts, the earlier one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Literal, NamedTuple

from tidegrid.client.batch import DELETE, PER_WRITE_BYTES
from tidegrid.client.closes import UNSEEN, not_seen
from tidegrid.client.commit import Commits, GroupWrite
from tidegrid.client.entry import Ack
from tidegrid.client.lane import MESSAGE_SHARE
from tidegrid.client.map import Map
from tidegrid.grid.model.errors import CallerError, DeadlineError, TooLargeError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value

AckWhen = Literal["durable", "closed"]
_PUT: Final = 1


class GroupOutcome(NamedTuple):
    """`epoch` is that of every write; 0 for a group without writes. `acks` are in the order of the writes."""

    epoch: Epoch
    acks: tuple[Ack, ...]


_NOTHING: Final = GroupOutcome(Epoch(0), ())


class GroupMap:
    """One map within a group. Its calls return at once: they say what is to be written."""

    __slots__ = ("_group", "_map")

    def __init__(self, group: CommitGroup, of: Map) -> None:
        self._group = group
        self._map = of

    def put(
        self,
        key: object,
        value: object,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        schema: int | None = None,
    ) -> None:
        """As `Map.put`. Raises InvalidKeyError, InvalidValueError, TooLargeError, CallerError."""
        limits = self._group.limits
        raw = encode_value(value, limits)
        self._add(encode_key(key, limits.key_bytes_max), raw, _PUT, _condition(if_version, if_absent), schema)

    def delete(self, key: object, *, if_version: int | None = None, schema: int | None = None) -> None:
        """As `Map.delete`. Raises as `put`."""
        encoded = encode_key(key, self._group.limits.key_bytes_max)
        self._add(encoded, b"", DELETE, _condition(if_version, False), schema)

    def _add(self, key: bytes, value: bytes, op: int, condition: int | None, schema: int | None) -> None:
        if schema is not None and not (isinstance(schema, int) and 0 <= schema < 1 << 32):
            raise CallerError(f"schema is a whole number from 0 on, not {schema!r}")
        self._group.add(GroupWrite(self._map, key, value, op, condition, schema))


class CommitGroup:
    """Made by `Grid.commit_group`."""

    def __init__(
        self,
        commits: Commits,
        limits: Limits,
        map_of: Callable[[str], Map],
        wait_closed: Callable[[Epoch, float], Awaitable[object]],
        deadline: float,
        ack: AckWhen,
    ) -> None:
        if ack not in ("durable", "closed"):
            raise CallerError(f'ack is "durable" or "closed", not {ack!r}')
        self.limits = limits
        self._commits = commits
        self._map_of = map_of
        self._wait_closed = wait_closed
        self._deadline = deadline
        self._ack = ack
        self._writes: list[GroupWrite] = []
        self._bytes = 0
        self._open = False
        self._outcome: GroupOutcome | None = None

    def map(self, name: str) -> GroupMap:
        """The map of that name, to write to it within this group; that there is none shows at the end of the block."""
        return GroupMap(self, self._map_of(name))

    @property
    def outcome(self) -> GroupOutcome:
        """What came of it. Raises CallerError when nothing was stored, or not yet."""
        if self._outcome is None:
            raise CallerError("the group has no outcome: that is known once its block has ended without an error")
        return self._outcome

    def add(self, write: GroupWrite) -> None:
        if not self._open:
            raise CallerError("a group takes writes within its block: async with grid.commit_group() as group: ...")
        limits = self.limits
        if len(self._writes) >= limits.group_writes_max:
            raise TooLargeError.of("commit group", len(self._writes) + 1, limits.group_writes_max, "writes")
        size = self._bytes + len(write.key) + len(write.value) + PER_WRITE_BYTES
        if size > (most := int(limits.message_bytes_max * MESSAGE_SHARE)):
            raise TooLargeError.of("commit group", size, most)
        self._bytes = size
        self._writes.append(write)

    async def __aenter__(self) -> CommitGroup:
        if self._open or self._outcome is not None:
            raise CallerError("a group is used once; make another with grid.commit_group()")
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        if kind is not None:
            return
        if not self._writes:
            self._outcome = _NOTHING
            return
        until = asyncio.get_running_loop().time() + self._deadline
        epoch, acks = await self._commits.commit(self._writes, until)
        self._outcome = GroupOutcome(epoch, acks)
        if self._ack == "closed":
            try:
                await self._wait_closed(epoch, until - asyncio.get_running_loop().time())
            except UNSEEN as error:
                raise DeadlineError(f"the group is durable, but {not_seen(epoch, error)}", epoch=epoch) from None


def _condition(if_version: int | None, if_absent: bool) -> int | None:
    """The version that the key has to be at; 0: it has to be absent."""
    if if_absent and if_version:
        raise CallerError("give either if_version or if_absent")
    if if_version is not None and not (isinstance(if_version, int) and 0 <= if_version < 1 << 64):
        raise CallerError(f"if_version is a whole number from 0 on, not {if_version!r}")
    return 0 if if_absent else if_version
