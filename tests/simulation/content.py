"""What the simulated grid holds: its maps, its trigger module, and what that module is expected to emit.

`expected` is written a second time, by hand, from the trigger's meaning: nothing of the trigger runtime is in it.
The values that a trigger makes say which code made them (`code`), what it looked up and which epoch it was told, so
that a wrong deployment, a look-up as of a wrong epoch, or state of a frame that failed shows in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.partitioner import partition_of

GROUPS: Final = tuple("abcdefghijkl")
ITEMS: Final = (1, 2, 3)

_SOURCE: Final = """
from tidegrid.triggers import Context, Delete, Event, Put, Reject, Write, reference, stream, table, trigger

table("raw", key=("group", "item:int"), affinity=1)
table("latest", like="raw")
table("totals", key=("group",))
table("plain", key=("group", "item:int"))
stream("events", like="raw")
stream("notes", key=("group", "item:int"))
reference("prices", key=("item:int",))


@trigger(on="raw", emits=("latest", "totals", "events"))
def translate(write: Write, grid: Context):
    group, item = write.key
    if write.op == "delete":
        yield Delete("latest", write.key)
        return
    row = write.value
    if row["bad"]:
        raise Reject("bad")
    total = (grid.get("totals", group) or 0) + 1
    if row["cap"] and total > row["cap"]:
        raise Reject("total %d" % total)
    price = grid.get("prices", item)
    yield Put("latest", write.key, [CODE, row["x"], price])
    yield Put("totals", group, total)
    yield Event("events", write.key, [CODE, row["x"], total, write.epoch])
"""


def source(code: int) -> str:
    """The module of deployment number `code`."""
    return f"CODE = {code}\n{_SOURCE}"


Look = Callable[[str, tuple[Any, ...]], Any]


def expected(
    code: int, epoch: int, key: tuple[Any, ...], row: Any, latest: Look, reference: Look
) -> list[tuple[str, str, tuple[Any, ...], Any]] | str:
    """(op, map, key, value) in order, or the reason of a rejection. `row` None: a delete."""
    group, item = key
    if row is None:
        return [("delete", "latest", key, None)]
    if row["bad"]:
        return "bad"
    total = (latest("totals", (group,)) or 0) + 1
    if row["cap"] and total > row["cap"]:
        return f"total {total}"
    return [
        ("put", "latest", key, [code, row["x"], reference("prices", (item,))]),
        ("put", "totals", (group,), total),
        ("event", "events", key, [code, row["x"], total, epoch]),
    ]


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def unpack(packed: bytes) -> Any:
    return msgpack.unpackb(packed)


class Keys:
    """Key bytes both ways, remembered and not decoded, and which partition each belongs to."""

    AFFINITY: Final = {"raw": 1, "latest": 1, "events": 1}

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._names: dict[bytes, tuple[Any, ...]] = {}

    def encode(self, key: tuple[Any, ...]) -> bytes:
        encoded = encode_key(key)
        self._names[encoded] = key
        return encoded

    def name(self, encoded: bytes) -> tuple[Any, ...]:
        known = self._names.get(encoded)
        assert known is not None, f"a key that nobody wrote: {encoded!r}"
        return known

    def partition(self, map_name: str, encoded: bytes) -> int:
        return partition_of(encoded, self.partitions, self.AFFINITY.get(map_name, 0))

    def all_of(self, map_name: str) -> list[tuple[Any, ...]]:
        if map_name == "prices":
            return [(item,) for item in range(1, 9)]
        if map_name == "totals":
            return [(group,) for group in GROUPS]
        return [(group, item) for group in GROUPS for item in ITEMS]
