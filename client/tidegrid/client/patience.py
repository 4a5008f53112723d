"""What a client does about a node that neither answers nor breaks the connection: it asks another one who owns what.

A node that hangs loses its partitions to others after a while, and cannot say so. Whoever waits for it longer than
UNANSWERED_SECONDS has the routing told by somebody else, again and again, and goes on with the new owner as soon as
there is one: under the same names, so that nothing is done twice. Waiting alone is no failure: where nothing has
moved, the answer is waited for until the deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from tidegrid.grid.model.errors import GridError, PeerError

T = TypeVar("T")
UNANSWERED_SECONDS: Final = 1.0
HELLO_PATIENCE_SECONDS: Final = 0.3  # for an answer that no node has to wait for
SILENCE_SECONDS_MAX: Final = 8.0  # between two questions about a feed where nothing happens


async def first_answer(
    call: Callable[[T], Coroutine[Any, Any, Any]], first: T, another: Callable[[], Awaitable[T | None]]
) -> Any:
    """What `first` answers, or whoever `another` names each time that nobody did in UNANSWERED_SECONDS.

    An error counts only when nobody is left who may answer.
    """
    calls = {asyncio.ensure_future(call(first))}
    try:
        while True:
            done, calls = await asyncio.wait(calls, timeout=UNANSWERED_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            answered = [task for task in done if task.exception() is None]
            if answered or not calls:
                return (answered or list(done))[0].result()
            if not done and (other := await another()) is not None:
                calls.add(asyncio.ensure_future(call(other)))
    finally:
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def first_hello(
    hello: Callable[[str], Coroutine[Any, Any, T]], addresses: Sequence[str], problem: GridError
) -> T:
    """The first answer of any: the next is asked when one fails, and beside it when one is silent.

    Raises the last PeerError; `problem` where there is nobody to ask.
    """
    left, calls = list(addresses), set[asyncio.Task[T]]()
    try:
        while left or calls:
            if left:
                calls.add(asyncio.create_task(hello(left.pop(0))))
            done, calls = await asyncio.wait(
                calls, timeout=HELLO_PATIENCE_SECONDS if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            errors = [task.exception() for task in done]
            for task, error in zip(done, errors, strict=True):
                if error is None:
                    return task.result()
                if not isinstance(error, PeerError):
                    raise error
                problem = error
        raise problem
    finally:
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


class Silences:
    """Which of a feed's streams have been silent for long. A quiet map is asked about ever more seldom."""

    def __init__(self) -> None:
        self._due: dict[int, tuple[float, float]] = {}  # stream -> (when to ask, pause after that)

    def heard(self, name: int, now: float) -> None:
        """It begins, or has said something."""
        self._due[name] = (now + UNANSWERED_SECONDS, UNANSWERED_SECONDS)

    def forget(self, name: int) -> None:
        """It has ended, or is not read at present."""
        self._due.pop(name, None)

    def due(self, now: float, *, behind: bool) -> list[int]:
        """Those to ask about now. `behind`: others have told of what these have not; so it is not quiet."""
        found = [name for name, (due, _) in self._due.items() if due <= now]
        for name in found:
            pause = self._due[name][1]
            pause = UNANSWERED_SECONDS if behind else min(2 * pause, SILENCE_SECONDS_MAX)
            self._due[name] = (now + pause, pause)
        return found
