"""When a read is of, and how new it has to be: what the options of `get`, `get_many` and `scan` come down to.

Made once per call, so that everything the call reads is read under one moment. A wall-clock time is resolved to an
epoch by asking a node (closes.py) before anything is read.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import Any, Final, Literal, NamedTuple

from tidegrid.grid.model.errors import CallerError

Consistency = Literal["causal", "linearizable"]

_UNIX_START: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 (datetime.UTC reads like a time)
_MILLISECOND: Final = timedelta(milliseconds=1)
_STALENESS_SECONDS_MAX: Final = (1 << 32) // 1_000 - 1


class Moment(NamedTuple):
    """As it goes out with a read; see `ReadBatch` in grid.proto."""

    as_of: int = 0
    at_least: int = 0
    at_once: bool = False
    staleness_ms_max: int = 0
    linearizable: bool = False
    generation: int = 0
    seen_at: int = 0

    @property
    def waiting(self) -> bool:
        """The read may wait for a close, and so must hold nobody else up."""
        return bool(self.as_of or self.at_least or self.staleness_ms_max)

    def stamp(self, message: Any) -> None:
        """Sets the fields of a ReadBatch or ScanRequest."""
        (
            message.as_of, message.at_least, message.at_once, message.staleness_ms_max, message.linearizable,
            message.generation, message.seen_at,
        ) = self  # fmt: skip


LATEST: Final = Moment()


def moment_of(
    as_of: int | None, at_least: int | None, wait: bool, max_staleness: float | None, consistency: str
) -> Moment:
    """Raises CallerError: an option is not what it has to be, or does not go with another."""
    check_number("as_of", as_of, 1, 1 << 64)
    check_number("at_least", at_least, 0, 1 << 64)
    if consistency not in ("causal", "linearizable"):
        raise CallerError(f"consistency is 'causal' or 'linearizable', not {consistency!r}")
    linearizable = consistency == "linearizable"
    if as_of and (at_least or max_staleness is not None or linearizable):
        raise CallerError(
            "as_of names one closed epoch, and the answer is the same everywhere: at_least, max_staleness and consistency are for reads of the latest"
        )
    return Moment(as_of or 0, at_least or 0, not wait, _staleness_ms(max_staleness), linearizable)


def _staleness_ms(seconds: float | None) -> int:
    if seconds is None:
        return 0
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _STALENESS_SECONDS_MAX:
        raise CallerError(
            f"max_staleness is a number of seconds above 0, at most {_STALENESS_SECONDS_MAX}, not {seconds!r}"
        )
    return max(1, math.floor(seconds * 1_000))


def time_ms_of(time: datetime) -> int:
    """Milliseconds since 1970. Raises CallerError on a naive time: which moment it is depends on who reads it."""
    if time.tzinfo is None or time.utcoffset() is None:
        raise CallerError(
            f"{time.isoformat()} has no time zone, so it is no moment: use datetime.now(UTC), or .astimezone() for local time"
        )
    return max(0, (time - _UNIX_START) // _MILLISECOND)


def check_number(name: str, number: int | None, low: int, end: int) -> None:
    if number is not None and (isinstance(number, bool) or not (isinstance(number, int) and low <= number < end)):
        raise CallerError(f"{name} is a whole number from {low} on, not {number!r}")
