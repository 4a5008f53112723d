"""Trigger code of many versions, and what each of them makes of raw writes: told twice, as triggers and as a model.

Version v multiplies by v, deletes where the value says so, sends each row to a bucket of another partition that depends on
v, from there on to a third, and folds. So any two versions differ in values, rows and places of every table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

RAW: Final = "raw"
OWN, SPREAD, AGAIN, SUMS = "own", "spread", "again", "sums"
DERIVED: Final = (OWN, SPREAD, AGAIN, SUMS)

_SOURCE = """
from tidegrid.triggers import Delete, Merge, Put, table, trigger


def add(state, amount):
    state = state or {"count": 0, "sum": 0}
    return {"count": state["count"] + 1, "sum": state["sum"] + amount}


table("raw", key=("n:int",))
table("own", key=("n:int",))
table("spread", key=("bucket:int", "n:int"))
table("again", key=("n:int",))
table("sums", key=("digit:int",), fold=add)
V = VERSION


@trigger(on="raw", emits=("own", "spread", "sums"))
def follow(write):
    (n,) = write.key
    if (write.value + V) % 5 == 0:
        yield Delete("own", write.key)
    else:
        yield Put("own", write.key, {"value": V * write.value, "version": write.version, "before": write.previous})
    yield Put("spread", ((n + V) % 7, n), V * write.value)
    yield Merge("sums", n % 10, V * write.value)


@trigger(on="spread", emits=("again",))
def go_on(write):
    bucket, n = write.key
    yield Put("again", n, [bucket, write.value])
"""


def code(version: int) -> tuple[str, str]:
    return "follow", _SOURCE.replace("VERSION", str(version))


class Raw(NamedTuple):
    """A raw write that is in the grid. `before`: the value that it replaced."""

    epoch: int
    n: int
    version: int
    value: int
    before: int | None


Rows = dict[tuple[Any, ...], Any]


def made(writes: Iterable[Raw], code_of: Callable[[int], int]) -> dict[str, Rows]:
    """What the derived tables hold after these, which are in order of epoch and, of a key, of version. `code_of`: the
    version that makes something of the writes of an epoch."""
    tables: dict[str, Rows] = {name: {} for name in DERIVED}
    for write in writes:
        v, n = code_of(write.epoch), write.n
        if (write.value + v) % 5 == 0:
            tables[OWN].pop((n,), None)
        else:
            tables[OWN][n,] = {"value": v * write.value, "version": write.version, "before": write.before}
        bucket = (n + v) % 7
        tables[SPREAD][bucket, n] = v * write.value
        tables[AGAIN][n,] = [bucket, v * write.value]
        one = tables[SUMS].setdefault((n % 10,), {"count": 0, "sum": 0})
        one["count"] += 1
        one["sum"] += v * write.value
    return tables
