"""What the simulated grid holds: its maps, its trigger module, and what that module is expected to emit.

`expected`, `chained` and `folded` are the module written a second time, by hand, from its meaning: nothing of the
trigger runtime is in it.
The values that a trigger makes say which code made them (`code`), what it looked up and which epoch it was told, so
that a wrong deployment, a look-up as of a wrong epoch, or state of a frame that failed shows in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgpack
from tidegrid.grid.log.record import Record
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.partitioner import partition_of

GROUPS: Final = tuple("abcdefghijkl")
ITEMS: Final = (1, 2, 3)

_SOURCE: Final = """
from tidegrid.triggers import Context, Delete, Event, Merge, Put, Reject, Write, reference, stream, table, trigger


def fold(state, operand):
    _, digest, count = state or (0, 7, 0)
    return [CODE, (digest * 31 + operand) % 1000003, count + 1]


table("raw", key=("group", "item:int"), affinity=1)
table("latest", like="raw")
table("totals", key=("group",))
table("plain", key=("group", "item:int"))
stream("events", like="raw")
stream("notes", key=("group", "item:int"))
reference("prices", key=("item:int",))
table("spread", key=("item:int", "group"))
table("beside", like="spread")
table("onward", key=("item:int",))
table("sums", key=("item:int",), fold=fold)
stream("far", key=("item:int",))


@trigger(on="raw", emits=("latest", "totals", "events", "spread", "sums"), on_error="park")
def translate(write: Write, grid: Context):
    group, item = write.key
    if write.op == "delete":
        yield Delete("latest", write.key)
        yield Delete("spread", (item, group))
        return
    row = write.value
    if row["bad"]:
        raise Reject("bad")
    rows = [grid.get("raw", (group, other)) for other in (1, 2, 3)]
    total = sum(row["n"] for row in rows if row)
    if row["cap"] and total > row["cap"]:
        raise Reject("total %d" % total)
    price = grid.get("prices", item)
    yield Put("latest", write.key, [CODE, row["x"], price])
    yield Put("totals", group, total)
    if row["n"] % 12 == 5 and (CODE + write.epoch) % 3:
        raise ValueError("broken")
    yield Event("events", write.key, [CODE, row["x"], total, write.epoch])
    yield Put("spread", (item, group), [CODE, row["x"], row["n"]])
    yield Merge("sums", item, row["n"])


@trigger(on="spread", emits=("onward", "sums", "far"), on_error="park", isolation=ISOLATION)
def carry_on(write: Write, grid: Context):
    item, group = write.key
    if write.op == "delete":
        yield Event("far", item, [CODE, "gone"])
        return
    _, x, n = write.value
    if n < 40:
        raise Reject("too small")
    if n < 200 and (CODE + write.epoch) % 2:
        raise ValueError("odd")
    yield Put("onward", item, [CODE, x, grid.get("beside", write.key), grid.get("prices", item), write.epoch])
    yield Merge("sums", 4 - item, n + 1)
"""


def source(code: int, isolation: str = "inline") -> str:
    """The module of deployment number `code`. `isolation`: of the trigger on spread, and so of what may set it off."""
    return f"CODE = {code}\nISOLATION = {isolation!r}\n{_SOURCE}"


Look = Callable[[str, tuple[Any, ...]], Any]
DIRECT: Final = ("raw", "plain", "prices", "beside")
DERIVED: Final = ("latest", "totals", "spread", "onward", "sums")
TABLES: Final = (*DIRECT, *DERIVED)
STREAMS: Final = ("events", "notes", "far")


class Fails(str):
    """A trigger raises something that is no Reject, with this text."""


STOPPED: Final = Fails("longer than its budget")
"""What is said of a row that a worker was stopped with, and of those that a suspended trigger is not run on."""


def stopped_rows(record: Record) -> set[int]:
    return {failure.row for failure in record.failures if STOPPED in failure.message}


class Wanted(NamedTuple):
    op: str
    map: str
    key: tuple[Any, ...]
    value: Any


def expected(
    code: int, epoch: int, key: tuple[Any, ...], row: Any, latest: Look, reference: Look
) -> Iterator[Wanted | str]:
    """What a write to raw emits, in order; a text: it is rejected for that reason, or (Fails) parked. `row` None: a delete.

    The caller says after each output to spread whether that is here: then what `chained` expects comes next.
    """
    group, item = key
    if row is None:
        yield Wanted("delete", "latest", key, None)
        yield Wanted("delete", "spread", (item, group), None)
        return
    if row["bad"]:
        yield "bad"
        return
    others = [latest("raw", (group, other)) if other != item else row for other in ITEMS]
    total = sum(other["n"] for other in others if other)
    if row["cap"] and total > row["cap"]:
        yield f"total {total}"
        return
    yield Wanted("put", "latest", key, [code, row["x"], reference("prices", (item,))])
    yield Wanted("put", "totals", (group,), total)
    if row["n"] % 12 == 5 and (code + epoch) % 3:
        yield Fails("broken")
        return
    yield Wanted("event", "events", key, [code, row["x"], total, epoch])
    yield Wanted("put", "spread", (item, group), [code, row["x"], row["n"]])
    yield Wanted("merge", "sums", (item,), row["n"])


def chained(
    code: int, epoch: int, key: tuple[Any, ...], value: Any, beside: Look, reference: Look
) -> Iterator[Wanted | str]:
    """The same for an output to spread; a text: its trigger rejects it, or (Fails) fails on it."""
    item, _ = key
    if value is None:
        yield Wanted("event", "far", (item,), [code, "gone"])
        return
    _, x, n = value
    if n < 40:
        yield "too small"
        return
    if n < 200 and (code + epoch) % 2:
        yield Fails("odd")
        return
    yield Wanted("put", "onward", (item,), [code, x, beside("beside", key), reference("prices", (item,)), epoch])
    yield Wanted("merge", "sums", (4 - item,), n + 1)


def folded(code: int, state: bytes | None, operand: bytes) -> bytes:
    _, digest, count = unpack(state) if state is not None else (0, 7, 0)
    return pack([code, (digest * 31 + unpack(operand)) % 1000003, count + 1])


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def value_of(version: Any) -> Any:
    """What a version of the judge's says; None: there is none, or it deletes."""
    return unpack(version.value) if version is not None and version.value is not None else None


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
        if map_name in ("onward", "sums", "far"):
            return [(item,) for item in ITEMS]
        if map_name in ("spread", "beside"):
            return [(item, group) for group in GROUPS for item in ITEMS]
        if map_name == "totals":
            return [(group,) for group in GROUPS]
        return [(group, item) for group in GROUPS for item in ITEMS]
