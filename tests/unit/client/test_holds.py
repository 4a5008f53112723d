"""What a client believes of its hold when answers fail: never an epoch that it has asked to move away from."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tidegrid.client.dispatcher import Dispatcher
from tidegrid.client.holds import Hold
from tidegrid.grid.model.errors import DeadlineError, EpochTooNewError, GridError, HoldLostError
from tidegrid.v1 import grid_pb2

EARLIER, LATER = 6, 7


class Scripted:
    """Answers in turn: the epoch that is held, or an error."""

    def __init__(self, *answers: int | GridError) -> None:
        self.answers = list(answers)

    async def ask(self, method: str, request: grid_pb2.HoldRequest, until: float) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, GridError):
            raise answer
        return grid_pb2.HoldReply(epoch=answer, taken=42, left_ms=1_000)


async def hold_with(*answers: int | GridError) -> Hold:
    hold = Hold(cast(Dispatcher, Scripted(EARLIER, *answers)), "report", "me", 1.0)
    await hold.take(EARLIER, 1.0)
    return hold


async def test_a_move_without_an_answer_counts_from_the_moment_it_is_sent() -> None:
    """Found by the simulator (seed 23205): a renewal from before the move may still be answered after it."""
    hold = await hold_with(DeadlineError("no answer"), EARLIER)
    with pytest.raises(DeadlineError):
        await hold.move(LATER)
    assert hold.epoch == LATER
    await hold.take(0, 1.0)
    assert hold.epoch == LATER


async def test_a_move_that_is_refused_changes_nothing() -> None:
    hold = await hold_with(EpochTooNewError.of(LATER, LATER), HoldLostError.of("report", "it expired"))
    with pytest.raises(EpochTooNewError):
        await hold.move(LATER)
    assert hold.epoch == EARLIER and not hold.lost
    with pytest.raises(HoldLostError):
        await hold.move(LATER)
    assert hold.lost
