"""What a command's exit code says, in one table: the help prints it, `exit_code_of` follows it, scripts rely on it.

The codes tell a script what to do next: correct the request, wait and try again, or call a person.
"""

from __future__ import annotations

import enum
from typing import Final

from tidegrid.grid.model.errors import (
    CallerError,
    ConfigurationError,
    DataError,
    DeadlineError,
    GridError,
    InUseError,
    InvalidKeyError,
    InvalidValueError,
    LogFailedError,
    NotClosedError,
    OverloadError,
    PeerError,
    StoppingError,
    TriggerModuleError,
    UnauthenticatedError,
)


class ExitCode(enum.IntEnum):
    OK = 0
    REFUSED = 1
    USAGE = 2
    NO_ANSWER = 3
    DATA = 4
    AGAIN = 5
    IN_USE = 6
    DEFECT = 70
    INTERRUPTED = 130
    READER_GONE = 141


MEANINGS: Final = {
    ExitCode.OK: "done",
    ExitCode.REFUSED: "refused, not found, or a check failed",
    ExitCode.USAGE: "wrong usage, key, value, configuration or trigger module",
    ExitCode.NO_ANSWER: "nothing answers there, or it does not take this client",
    ExitCode.DATA: "stored data is damaged, or the log failed: have a look",
    ExitCode.AGAIN: "overload, no space or a deadline: try again later",
    ExitCode.IN_USE: "another process has the port or the directory",
    ExitCode.DEFECT: "a defect of tidegrid; --debug shows where",
    ExitCode.INTERRUPTED: "interrupted with Ctrl-C",
}

_BY_BRANCH: Final[tuple[tuple[type[GridError], ExitCode], ...]] = (
    (ConfigurationError, ExitCode.USAGE),
    (InvalidKeyError, ExitCode.USAGE),
    (InvalidValueError, ExitCode.USAGE),
    (TriggerModuleError, ExitCode.USAGE),
    (UnauthenticatedError, ExitCode.NO_ANSWER),
    (CallerError, ExitCode.REFUSED),
    (DeadlineError, ExitCode.AGAIN),
    (NotClosedError, ExitCode.AGAIN),
    (StoppingError, ExitCode.AGAIN),
    (LogFailedError, ExitCode.DATA),
    (PeerError, ExitCode.NO_ANSWER),
    (InUseError, ExitCode.IN_USE),
    (DataError, ExitCode.DATA),
    (OverloadError, ExitCode.AGAIN),
)


def exit_code_of(error: GridError) -> ExitCode:
    for kind, code in _BY_BRANCH:
        if isinstance(error, kind):
            return code
    return ExitCode.DEFECT


def table() -> str:
    """For the help."""
    return "\b\n" + "\n".join(["Exit codes:", *(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())])
