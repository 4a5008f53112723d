"""Which errors of the grid are worth another try, and where. They come over the wire as `error_of` reads them."""

from __future__ import annotations

from typing import Final

from tidegrid.grid.model.error_message import error_of as error_of
from tidegrid.grid.model.errors import (
    BusyError,
    ClosingLagError,
    GridError,
    StoppingError,
    StorageFullError,
    UnavailableError,
    WrongOwnerError,
)

NOT_STORED: Final = (BusyError, ClosingLagError, StorageFullError)
"""A limit of the moment: nothing was stored, and the same node may take it soon."""

ELSEWHERE: Final = (UnavailableError, WrongOwnerError, StoppingError)
"""The node cannot do it: ask for the owner again."""

RETRYABLE: Final = NOT_STORED + ELSEWHERE


def grid_error_of(problem: BaseException) -> GridError:
    """For whoever waits for a task that ended by `problem`, which is a defect unless it is a GridError."""
    if isinstance(problem, GridError):
        return problem
    return GridError(f"a defect of the client ({problem!r}); the outcome is unknown. Please report it")
