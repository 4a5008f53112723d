"""A log that cannot be read for a moment, for want of open files say, is no reason for a node to stop.

What a node reads to open its partitions, and to follow the control log, nobody asks for again: so it is tried again here,
and only a log that cannot be read for long ends the node, whose partitions others take over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tidegrid.grid.model.errors import UnavailableError

T = TypeVar("T")
TRIES: Final = 10
AGAIN_SECONDS: Final = 0.5
_log = logging.getLogger(__name__)


async def patiently(read: Callable[[], Awaitable[T]]) -> T:
    """What `read` gives at last. Raises the UnavailableError of the last try, and any other error at once."""
    for _ in range(TRIES - 1):
        try:
            return await read()
        except UnavailableError as error:
            _log.warning("%s", error)
        await asyncio.sleep(AGAIN_SECONDS)
    return await read()
