"""Holds on their way into the control log: what is taken, refused, decided anew, and answered."""

from __future__ import annotations

from typing import Any

import pytest
from tidegrid.grid.engine.hold import HoldRequest
from tidegrid.grid.model.errors import (
    CallerError,
    DeadlineError,
    EpochTooNewError,
    EpochTooOldError,
    GridError,
    HoldLostError,
    LogFailedError,
    LogTimeoutError,
    StoppingError,
    StorageFullError,
    TooLargeError,
    TooManyHoldsError,
    WrongTailError,
)
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.v1.control_pb2 import ControlRecord, HoldReleased

from tests.unit.engine.stand import Stand


class HoldStand(Stand):
    def __init__(self, **more: Any) -> None:
        super().__init__(limits=Limits(holds_max=2, hold_seconds_max=100.0), limit=64, **more)
        for number in range(4):
            self.put_now({"a": number})
            self.close()
        self.control_appends.clear()

    def ask(self, name: str = "h", epoch: int = 0, for_ms: int = 30_000, **more: Any) -> HoldRequest:
        seconds, owner = more.pop("seconds", 10.0), more.pop("owner", "me")
        request = HoldRequest(name, owner, Epoch(epoch), for_ms, "to the test", **more)
        self.submit(request, seconds=seconds)
        return request

    def land_control(self) -> None:
        """The oldest append reaches the control log, if its slot is free."""
        effect = self.control_appends.pop(0)
        if effect.expected == self.log.tail(CONTROL_LOG):
            self.declare(effect.record)
        else:
            self.node.control_failed(self.instant, effect, WrongTailError("taken"))
        self.read_control()

    def hold(self, name: str = "h", **more: Any) -> HoldRequest:
        request = self.ask(name, **more)
        while request not in self.answered:
            self.land_control()
        return request

    def refused(self, name: str = "h", **more: Any) -> GridError:
        request = self.ask(name, **more)
        assert request in self.answered and not self.control_appends
        assert request.error is not None
        return request.error


def test_a_hold_is_answered_once_its_record_is_applied() -> None:
    stand = HoldStand()
    request = stand.ask(epoch=2, owner="me, process 7")
    assert request not in stand.answered and len(stand.control_appends) == 1
    stand.land_control()
    assert request in stand.answered and request.error is None
    (held,) = stand.node.control.holds
    assert (held.name, held.owner, held.epoch) == ("h", "me, process 7", 2)
    assert (request.epoch, request.taken, request.expires_ms) == (2, held.taken, stand.time_ms + 30_000)
    assert held.since_ms == stand.time_ms and held.taken == stand.node.control.position


def test_the_newest_close_is_held_unless_another_epoch_is_named() -> None:
    stand = HoldStand()
    assert stand.hold().epoch == stand.node.control.closed


def test_a_slot_that_another_record_took_is_decided_anew() -> None:
    stand = HoldStand()
    request = stand.ask(epoch=2)
    stand.horizon(3)
    assert isinstance(request.error, EpochTooOldError) and (request.error.requested, request.error.earliest) == (2, 3)
    other = stand.ask(epoch=4)
    stale = stand.control_appends[-1]
    stand.close()
    assert other not in stand.answered and len(stand.control_appends) == 3
    stand.node.control_failed(stand.instant, stale, WrongTailError("taken"))
    stand.control_appends = stand.control_appends[-1:]
    stand.land_control()
    assert other in stand.answered and other.error is None


def test_requests_go_one_after_the_other() -> None:
    stand = HoldStand()
    one, two, three = stand.ask("one"), stand.ask("two"), stand.ask("three")
    assert len(stand.control_appends) == 1
    stand.land_control()
    stand.land_control()
    assert one in stand.answered and two in stand.answered and len(stand.node.control.holds) == 2
    assert isinstance(three.error, TooManyHoldsError) and three in stand.answered, "two is the most there may be"
    assert stand.hold("two", owner="again").error is None, "a name that is there takes no more room"
    assert stand.hold("one", release=True).error is None
    assert stand.hold("three").error is None


def test_what_cannot_be_held_is_refused() -> None:
    stand = HoldStand()
    stand.horizon(3)
    assert isinstance(stand.refused(epoch=2), EpochTooOldError)
    assert isinstance(stand.refused(epoch=stand.node.control.limit), EpochTooNewError)
    assert isinstance(stand.refused(""), CallerError)
    assert isinstance(stand.refused("n" * 513), TooLargeError)
    assert isinstance(stand.refused(owner="ö" * 257), TooLargeError)
    assert len(stand.node.control.holds) == 0


def test_a_renewal_lengthens_and_moves_forward_and_names_the_hold_it_means() -> None:
    stand = HoldStand()
    taken = stand.hold(epoch=2).taken
    stand.now += 20
    renewed = stand.hold(taken=taken)
    assert (renewed.epoch, renewed.taken, renewed.expires_ms) == (2, taken, stand.time_ms + 30_000)
    moved = stand.hold(taken=taken, epoch=3)
    assert (moved.epoch, moved.taken) == (3, taken)
    back = stand.refused(taken=taken, epoch=2)
    assert isinstance(back, CallerError) and "forward" in back.message
    other = stand.hold(owner="other").taken
    lost = stand.refused(taken=taken)
    assert isinstance(lost, HoldLostError) and "somebody else" in lost.message and lost.fields["name"] == "h"
    assert stand.ask(taken=taken, release=True).error is None and not stand.control_appends
    assert [held.taken for held in stand.node.control.holds] == [other]
    forgotten = stand.refused(taken=Position(1))
    assert isinstance(forgotten, HoldLostError)


def test_an_epoch_is_held_for_so_long_and_no_longer() -> None:
    stand = HoldStand()
    request = stand.hold(epoch=2, for_ms=1 << 60)
    start = stand.time_ms
    assert request.expires_ms == start + 100_000
    stand.now += 99
    assert stand.hold(taken=request.taken).expires_ms == start + 100_000, "its age is bounded, whatever is asked"
    stand.now += 1
    lost = stand.refused(taken=request.taken)
    assert isinstance(lost, HoldLostError) and "100 seconds" in lost.message
    moved = stand.hold(taken=request.taken, epoch=3)
    assert moved.error is None and moved.expires_ms == stand.time_ms + 30_000, "another epoch, another age"


def test_the_same_owner_asking_again_is_given_the_hold_that_it_has() -> None:
    """A request that was sent twice, to two nodes perhaps: the late one takes nothing from what was answered."""
    stand = HoldStand()
    first = stand.hold(epoch=2)
    stand.now += 5
    for epoch in (0, 3):
        again = stand.hold(epoch=epoch)
        assert (again.epoch, again.taken, again.expires_ms) == (2, first.taken, stand.time_ms + 30_000)
    lower = stand.hold(epoch=1)
    assert (lower.epoch, lower.taken) == (1, first.taken)
    request = stand.ask(epoch=3)
    stand.declare(ControlRecord(hold_released=HoldReleased(name="h")))
    stand.read_control()
    stand.control_appends = stand.control_appends[-1:]
    stand.land_control()
    assert request.error is None and (request.epoch, request.taken > first.taken) == (3, True), "it went meanwhile"
    stand.now += 30
    anew = stand.hold(epoch=3)
    assert anew.epoch == 3 and anew.taken > request.taken, "it had expired"


def test_an_expired_hold_that_nobody_dropped_is_renewed() -> None:
    stand = HoldStand()
    request = stand.hold(epoch=2, for_ms=1)
    stand.now += 50
    assert stand.hold(taken=request.taken).expires_ms == stand.time_ms + 30_000


def test_anybody_may_release_by_name() -> None:
    stand = HoldStand()
    taken = stand.hold(epoch=2).taken
    assert stand.hold(release=True, owner="operator").error is None
    assert len(stand.node.control.holds) == 0
    lost = stand.refused(taken=taken)
    assert isinstance(lost, HoldLostError) and "released" in lost.message


@pytest.mark.parametrize("error", [StorageFullError("no space"), LogTimeoutError("no answer")])
def test_an_append_of_which_nothing_was_heard_is_tried_again(error: GridError) -> None:
    stand = HoldStand()
    request = stand.ask(epoch=2)
    first = stand.control_appends.pop()
    stand.node.control_failed(stand.instant, first, error)
    deadline = stand.node.deadline()
    assert deadline is not None and deadline <= stand.now + 0.1
    stand.pass_time(0.11)
    (again,) = stand.control_appends
    assert (again.expected, again.record) == (first.expected, first.record)
    stand.declare(first.record)  # it was there all the while
    stand.land_control()
    assert request in stand.answered and request.error is None and len(stand.node.control.holds) == 1


def test_a_deadline_answers_and_the_next_request_goes_on() -> None:
    stand = HoldStand()
    late, other = stand.ask(seconds=1.0), stand.ask("other")
    stand.pass_time(1.0)
    assert isinstance(late.error, DeadlineError) and late in stand.answered and other not in stand.answered
    while other not in stand.answered:
        stand.land_control()
    assert other.error is None


def test_the_end_of_the_node_answers_all() -> None:
    for error, end in ((StoppingError, "stop"), (LogFailedError, "fail")):
        stand = HoldStand()
        requests = [stand.ask("one"), stand.ask("two")]
        if end == "stop":
            stand.node.stop()
        else:
            stand.node.fail(LogFailedError("dead"))
        stand.collect()
        assert [type(request.error) for request in requests] == [error, error]
        assert all(request in stand.answered for request in requests)
