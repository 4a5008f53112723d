"""One version of one key, and what a table holds of a key: an *entry*.

    entry   := version                    one version, the dense form
             | [version, version, ...]    two or more, oldest first
    version := (value, number, stamp)     plain tuples; the value of a tombstone (a delete) is None

Versions of a key are ordered by (effective epoch, position, number): the stamp is compared as a tuple, and within
one frame the number decides. A version costs 64 bytes beside its value; the stamp is shared by its whole frame, and
as nothing in it can refer back, the garbage collector stops looking at it (a NamedTuple it would go on looking at).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final, TypeAlias

from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.stamp import Stamp

Version: TypeAlias = tuple[bytes | None, int, Stamp]
"""(value; None: deleted, version number, stamp)"""

Entry: TypeAlias = Version | list[Version]

PUT: Final = 1
DELETE: Final = 2

VERSION_OVERHEAD_BYTES: Final = 112
"""What a superseded version costs beside the bytes of its value: tuple, header of the bytes object, slot in the chain."""


stamp_of: Callable[[Version], Any] = itemgetter(2)
"""For searches: no Python runs for a comparison, which is most of what a read as of an epoch costs."""


def order_of(version: Version) -> tuple[Stamp, int]:
    return version[2], version[1]


def weight_of(version: Version) -> int:
    value = version[0]
    return VERSION_OVERHEAD_BYTES if value is None else VERSION_OVERHEAD_BYTES + len(value)


def version_as_of(entry: Entry, epoch: Epoch) -> Version | None:
    """The version that readers as of `epoch` see. O(log versions)."""
    if not isinstance(entry, list):
        return entry if entry[2][0] <= epoch else None
    newest = entry[-1]
    if newest[2][0] <= epoch:
        return newest
    at = bisect_left(entry, (epoch + 1,), key=stamp_of)  # below every stamp of the next epoch, above all before
    return entry[at - 1] if at else None
