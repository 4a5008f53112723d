"""Rule L and waking: rounds, rest, wakes, retransmission, regeneration, and who holds time back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.messages import TokenMessage, TokenReceived
from tidegrid.grid.ring.promise import PartitionPromise
from tidegrid.grid.ring.ring import TokenPlace

from tests.unit.ring.rig import OPTIONS, A, B, C, Rig, closes, home, raised, received, tokens, wakes
from tests.unit.ring.test_control import close, declare, view
from tests.unit.ring.test_ring import token

TICK = 0.02
IDLE = OPTIONS.heartbeat + OPTIONS.regenerate_floor + OPTIONS.regenerate_stagger  # B, content, saw its view at 0


def test_an_idle_node_alone_has_no_timer_and_says_nothing() -> None:
    rig = Rig(A, nodes=1)
    assert rig.effects == [] and rig.ring.deadline() is None
    rig.ring.stirred(1.0)
    rig.ring.time_passed(2.0)
    assert rig.take() == [] and rig.ring.place is TokenPlace.RESTING


def test_an_idle_ring_is_gone_round_once_a_heartbeat_and_stamps_no_higher_for_it() -> None:
    rig = Rig(A)
    assert rig.effects == [] and rig.ring.place is TokenPlace.RESTING
    epoch = rig.ring.epoch
    for beat in range(1, 4):
        due = rig.ring.deadline()
        assert due == pytest.approx(beat * OPTIONS.heartbeat)
        rig.ring.time_passed(due)
        effects = rig.take()
        ((to, out),) = tokens(effects)
        assert to == B and (out.intro, out.busy) == (epoch, False) and not raised(effects)
        effects = rig.arrive(due, home(out), C)
        assert not closes(effects) and not raised(effects)
    assert rig.ring.epoch == epoch and rig.ring.rounds == 3


def test_an_idle_node_takes_the_token_for_lost_when_the_heartbeats_stop() -> None:
    for rank, node in ((1, B), (2, C)):
        rig = Rig(node)
        rig.arrive(5.0, token(rig, *(A, B)[:rank], busy=False))
        rig.ring.token_received(5.0, TokenReceived(1, 0), C if node == B else A)
        due = rig.ring.deadline()
        assert due == pytest.approx(
            5.0 + OPTIONS.heartbeat + OPTIONS.regenerate_floor + rank * OPTIONS.regenerate_stagger
        )
        rig.ring.time_passed(due)
        ((_, made),) = tokens(rig.take())
        assert made.generation == 1 and made.origin == node


def test_a_single_node_closes_a_stamp_at_once_and_rests_again() -> None:
    rig = Rig(A, nodes=1)
    stamped = rig.stamp(1.0)
    (append,) = closes(rig.take())
    assert append.record.close.epoch == stamped
    rig.applied(1.001, append.record)
    assert rig.ring.deadline() == pytest.approx(1.0 + TICK)
    rig.ring.time_passed(1.0 + TICK)
    assert not closes(rig.take()) and rig.ring.deadline() is None
    assert rig.ring.rounds == 2


def test_the_next_round_begins_a_tick_after_the_last_began_or_at_once() -> None:
    rig = Rig(A)
    rig.stamp(1.0)
    ((to, out),) = tokens(rig.take())
    assert to == B and rig.ring.place is TokenPlace.ELSEWHERE
    rig.ring.token_received(1.001, TokenReceived(out.round, out.generation), B)
    assert received(rig.arrive(1.005, home(out), C))
    assert rig.ring.deadline() == pytest.approx(1.0 + TICK)
    rig.ring.time_passed(1.0 + TICK)
    ((_, second),) = tokens(rig.take())
    assert second.round == out.round + 1
    ((_, third),) = tokens(rig.arrive(2.0, home(second), C))
    assert third.round == second.round + 1, "late: at once"


def test_the_token_rests_when_the_last_round_found_nobody_busy_and_a_wake_starts_it() -> None:
    rig = Rig(A)
    rig.ring.start_round(1.0)
    ((_, out),) = tokens(rig.take())
    rig.arrive(1.005, home(out), C)
    assert rig.ring.place is TokenPlace.RESTING and rig.ring.deadline() == pytest.approx(1.005 + OPTIONS.heartbeat)
    rig.ring.wake(1.010, Epoch(0))
    assert tokens(rig.take()) == [] and rig.ring.deadline() == pytest.approx(1.0 + TICK)
    rig.arrive(1.011, home(out), C)
    assert rig.ring.deadline() == pytest.approx(1.0 + TICK), "a doubled return changes nothing"
    rig.ring.time_passed(1.0 + TICK)
    assert tokens(rig.take())


def test_a_late_return_of_an_earlier_round_does_not_end_this_one() -> None:
    rig = Rig(A)
    rig.ring.start_round(1.0)
    ((_, out),) = tokens(rig.take())
    rig.arrive(1.005, home(out), C)
    rig.ring.start_round(2.0)
    rig.take()
    rig.arrive(2.001, home(out), C)
    assert rig.ring.place is TokenPlace.ELSEWHERE
    assert rig.ring.deadline() == pytest.approx(2.0 + OPTIONS.hop_timeout)


def test_a_wake_during_a_round_starts_another_one() -> None:
    rig = Rig(A)
    rig.ring.start_round(1.0)
    ((_, out),) = tokens(rig.take())
    rig.ring.wake(1.001, Epoch(0))
    rig.arrive(1.1, home(out), C)
    assert rig.ring.rounds == 2


def test_a_wake_with_a_want_makes_the_round_introduce_more() -> None:
    rig = Rig(A)
    rig.ring.wake(1.0, Epoch(5))
    assert tokens(rig.take())[0][1].intro == 6
    rig.applied(1.1, close(5))
    rig.ring.start_round(1.2)
    assert tokens(rig.take())[-1][1].intro == 6, "the want is satisfied"


def test_a_wake_to_another_than_the_origin_is_ignored() -> None:
    rig = Rig(B)
    due = rig.ring.deadline()
    rig.ring.wake(1.0, Epoch(5))
    assert rig.take() == [] and rig.ring.deadline() == due


def test_a_node_wakes_the_origin_again_and_again_until_a_token_comes() -> None:
    rig = Rig(B)
    rig.stamp(1.0)
    assert wakes(rig.take()) == [(A, 0)]
    rig.stamp(1.001)
    assert rig.take() == [], "once is enough"
    due = rig.ring.deadline()
    assert due == pytest.approx(1.0 + OPTIONS.hop_timeout)
    rig.ring.time_passed(due)
    assert wakes(rig.take()) == [(A, 0)]
    effects = rig.arrive(1.11, token(rig, A, busy=False))
    ((_, passed),) = tokens(effects)
    assert passed.busy
    rig.ring.token_received(1.12, TokenReceived(1, 0), C)
    rig.stamp(1.13)
    assert wakes(rig.take()) == [], "the token carries the want: another round will come"


def test_a_node_that_was_visited_before_it_had_anything_wakes_the_origin() -> None:
    rig = Rig(B)
    rig.arrive(1.0, token(rig, A, busy=False))
    rig.stamp(1.001)
    assert wakes(rig.take()) == [(A, 0)]


def test_a_far_want_is_told_though_the_token_carries_the_want() -> None:
    rig = Rig(B)
    rig.arrive(1.0, token(rig, A, busy=True))
    rig.local.wanted = Epoch(7)
    rig.ring.stirred(1.001)
    assert wakes(rig.take()) == [(A, 7)]


def test_a_want_that_is_over_ends_the_wakes() -> None:
    rig = Rig(B)
    rig.local.wanted = Epoch(1)
    rig.ring.stirred(1.0)
    rig.take()
    rig.local.wanted = Epoch(0)
    rig.ring.time_passed(1.0 + OPTIONS.hop_timeout)
    assert rig.take() == [] and rig.ring.deadline() == pytest.approx(IDLE)


def test_a_want_that_is_closed_ends_the_wakes() -> None:
    rig = Rig(B)
    rig.stamp(1.0)
    rig.applied(1.05, close(5))
    assert rig.ring.deadline() == pytest.approx(IDLE)


def test_a_hop_is_sent_again_ever_more_slowly_until_it_is_acknowledged() -> None:
    rig = Rig(A, options=replace(OPTIONS, hop_attempts=9))
    rig.ring.start_round(1.0)
    ((_, out),) = tokens(rig.take())
    times = []
    for _ in range(6):
        due = rig.ring.deadline()
        assert due is not None
        times.append(due)
        rig.ring.time_passed(due)
        assert tokens(rig.take()) == [(B, out)]
    gaps = [round(b - a, 3) for a, b in pairwise(times)]
    assert gaps == [0.2, 0.4, 0.8, 1.0, 1.0]
    waits = rig.ring.deadline()
    rig.ring.token_received(9.0, TokenReceived(out.round, out.generation), C)
    rig.ring.token_received(9.0, TokenReceived(out.round + 1, out.generation), B)
    assert rig.ring.deadline() == waits, "of another hop"
    assert "node 2 does not take the token" in rig.ring.held_back_by()
    rig.ring.token_received(9.0, TokenReceived(out.round, out.generation), B)
    assert rig.ring.deadline() != waits and rig.ring.held_back_by() == ""


def test_a_hop_to_a_node_that_left_goes_elsewhere() -> None:
    rig = Rig(A)
    rig.ring.start_round(1.0)
    rig.take()
    rig.applied(1.1, view({1: 10, 3: 30}, dict.fromkeys(range(4), (1, 10, 1))))
    assert [to for to, _ in tokens(rig.take())] == [C]


def test_a_token_unseen_for_long_is_regenerated_later_by_higher_ranks() -> None:
    patience = {}
    for node in (B, C):
        rig = Rig(node)
        rig.stamp(1.0)
        while not tokens(rig.take()):
            due = rig.ring.deadline()
            assert due is not None and due < 3
            patience[node] = due - 1.0
            rig.ring.time_passed(due)
    assert patience[B] == pytest.approx(OPTIONS.regenerate_floor + OPTIONS.regenerate_stagger)
    assert patience[C] == pytest.approx(OPTIONS.regenerate_floor + 2 * OPTIONS.regenerate_stagger)


def test_a_regenerated_token_is_fresher_than_the_lost_one() -> None:
    rig = Rig(B)
    rig.local.stamp = Epoch(1)
    rig.arrive(1.0, lost := token(rig, A))
    rig.ring.token_received(1.0, TokenReceived(1, 0), C)
    rig.ring.time_passed(1.0 + 0.3)
    ((to, made),) = tokens(rig.take())
    assert to == C and made.freshness > lost.freshness and (made.round, made.generation, made.origin) == (2, 1, B)


def test_slow_rotations_make_patient() -> None:
    rig = Rig(B)
    rig.local.stamp = Epoch(1)
    for round_ in range(1, 60):
        rig.arrive(round_ * 0.1, token(rig, A, round_=round_))
        rig.ring.token_received(round_ * 0.1, TokenReceived(round_, 0), C)
    due = rig.ring.deadline()
    assert due is not None and 0.9 < due - 5.9 < 1.2, "ten rotations of 100 ms"


def test_the_origin_regenerates_a_round_that_does_not_come_home() -> None:
    rig = Rig(A)
    rig.stamp(1.0)
    ((_, out),) = tokens(rig.take())
    rig.ring.token_received(1.0, TokenReceived(1, 0), B)
    assert rig.ring.deadline() == pytest.approx(1.0 + OPTIONS.regenerate_floor)
    rig.ring.time_passed(1.0 + OPTIONS.regenerate_floor)
    ((_, again),) = tokens(rig.take())
    assert (again.round, again.generation) == (out.round + 1, out.generation + 1)


def test_a_restarted_origin_is_heard_though_it_remembers_no_round() -> None:
    rig = Rig(B)
    rig.arrive(1.0, token(rig, A, round_=500))
    rig.applied(1.1, rig.view(n1=11))
    rig.take()
    assert tokens(rig.arrive(1.2, token(rig, A, round_=1)))


def test_a_new_origin_begins_by_itself_and_its_wakers_try_it() -> None:
    rig = Rig(B)
    rig.stamp(1.0)
    rig.take()
    rig.applied(1.1, view({2: 20, 3: 30}, dict.fromkeys(range(4), (2, 20, 1))))
    assert rig.ring.is_origin and [to for to, _ in tokens(rig.take())] == [C]
    rig = Rig(C)
    rig.stamp(1.0)
    rig.take()
    rig.applied(1.05, view({2: 20, 3: 30}, dict.fromkeys(range(4), (3, 30, 1))))
    assert wakes(rig.take()) == [(B, 0)]


def test_what_a_new_origin_began_before_does_not_hold_it_up() -> None:
    rig = Rig(B)
    rig.ring.start_round(1.0)
    rig.take()
    rig.ring.token_received(1.0, TokenReceived(1, 1), C)
    rig.stamp(1.01)
    rig.take()
    rig.applied(1.1, view({2: 20, 3: 30}, dict.fromkeys(range(4), (2, 20, 1))))
    assert rig.ring.rounds == 2 and [to for to, _ in tokens(rig.take())] == [C]


def test_a_round_that_a_view_made_incomplete_is_over_all_the_same() -> None:
    rig = Rig(A)
    rig.stamp(1.0)
    ((_, out),) = tokens(rig.take())
    rig.applied(1.001, rig.view(n2=21))
    rig.arrive(1.1, home(out), C)
    assert rig.ring.rounds == 2 and not closes(rig.take())


def test_an_origin_that_is_not_ready_waits_until_it_is() -> None:
    rig = Rig(A)
    rig.local.is_ready = False
    rig.stamp(1.0)
    assert rig.take() == [] and rig.ring.deadline() is None
    rig.local.is_ready = True
    rig.ring.stirred(2.0)
    assert tokens(rig.take())


def test_without_a_tick_the_user_steps() -> None:
    options = replace(OPTIONS, tick=None)
    rig = Rig(A, nodes=1, options=options)
    stamped = rig.stamp(1.0)
    rig.ring.wake(1.0, Epoch(0))
    assert rig.take() == [] and rig.ring.deadline() is None
    assert rig.ring.start_round(2.0)
    (append,) = closes(rig.take())
    assert append.record.close.epoch == stamped
    rig.applied(2.1, append.record)
    assert rig.ring.deadline() is None
    waker = Rig(B, options=options)
    waker.stamp(1.0)
    assert waker.take() == [] and waker.ring.deadline() is None


def test_another_node_than_the_origin_may_step_too() -> None:
    rig = Rig(B)
    rig.ring.start_round(1.0)
    ((to, made),) = tokens(rig.take())
    assert to == C and made.generation == 1


def test_a_pending_activation_is_a_want() -> None:
    rig = Rig(A)
    rig.applied(1.0, declare(MapSpec("m")))
    assert tokens(rig.take())


def test_a_parked_token_yields_to_a_fresher_one() -> None:
    rig = Rig(B)
    ahead = Position(rig.control.position + 3)
    for round_ in (2, 3, 1):
        rig.ring.token_arrived(1.0, TokenMessage(replace(token(rig, A), view=ahead, round=round_)), A)
    rig.applied(1.1, rig.view())
    assert [passed.round for _, passed in tokens(rig.take())] == [3]


def test_who_holds_time_back() -> None:
    rig = Rig(B)
    assert rig.ring.held_back_by() == ""
    rig.hold(1, Epoch(1))
    rig.ring.carry(1.0, Position(0), Epoch(5))
    assert rig.ring.held_back_by() == "partition 1 of node 2 has something of epoch 1 undecided"
    hindrance = rig.ring.hindrance()
    assert hindrance is not None and hindrance[1:] == (2, 1, 1)
    rig.local.held = [PartitionPromise(PartitionId(1), False)]
    assert rig.ring.held_back_by() == "partition 1 is being opened by node 2"
    rig.applied(1.0, view({2: 20}, {1: (2, 20, 1)}))
    assert "partition 0 has no live owner" in rig.ring.held_back_by()


def test_patience_does_not_feed_on_itself() -> None:
    """While the origin is silent another regenerates every round: the time until it does is not a rotation."""
    rig = Rig(B)
    rig.stamp(1.0)
    now, gaps = 1.0, []
    for _ in range(6):
        begun = now
        while not (made := [token for _, token in tokens(rig.take()) if token.visited == {B}]):
            now = rig.ring.deadline() or now
            rig.ring.time_passed(now)
        gaps.append(now - begun)
        rig.arrive(now, replace(home(made[0], C, busy=True), passed=frozenset({A})), C)
    assert max(gaps) == pytest.approx(OPTIONS.regenerate_floor + OPTIONS.regenerate_stagger)
