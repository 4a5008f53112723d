"""Rule L, the members: a token goes past who is silent, such a round closes nothing, and who stays away is put out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.ring.attendance import EARLIER_MAX, MINORITY_PATIENCE, TAKE_OVER_SECONDS, Attendance
from tidegrid.grid.ring.hop import Hop
from tidegrid.grid.ring.messages import TokenReceived
from tidegrid.grid.ring.token import Token

from tests.unit.ring.rig import OPTIONS, A, B, C, Rig, closes, evictions, home, received, tokens
from tests.unit.ring.test_ring import token

MEMBERS = (A, B, C)
PATIENCE = OPTIONS.evict_after


def until_past(rig: Rig, silent: NodeId) -> tuple[NodeId, Token, int]:
    """Time passes till the token goes elsewhere: (where, the token, how often it was sent to `silent` meanwhile)."""
    attempts = 0
    while True:
        due = rig.ring.deadline()
        assert due is not None and attempts < 9
        rig.ring.time_passed(due)
        for to, sent in tokens(rig.take()):
            if to != silent:
                return to, sent, attempts
            attempts += 1


# Going past --------------------------------------------------------------------------------------------------------


def test_a_hop_is_given_up_after_its_attempts_and_after_one_until_the_node_answers_again() -> None:
    rig, hop = Rig(A), Hop(OPTIONS)
    made = token(rig, A)

    def attempts(now: float) -> int:
        hop.sent(now, B, made)
        for attempt in range(1, 9):
            assert hop.due is not None and hop.given_up(hop.due - 0.001) is None
            if (given_up := hop.given_up(hop.due)) is not None:
                assert given_up == (B, made) and hop.due is None and hop.token is None
                return attempt
            assert hop.time_passed(hop.due) == (B, made)
        raise AssertionError("never given up")

    assert [attempts(1.0), attempts(2.0)] == [OPTIONS.hop_attempts, 1]
    hop.sent(3.0, C, made)
    assert hop.due is not None and hop.given_up(hop.due) is None, "another node has its own patience"
    hop.acknowledged(B, 99, 0)  # late, of an earlier hop: it is there
    assert hop.token is made and attempts(4.0) == OPTIONS.hop_attempts


def test_attempts_count_over_tokens_that_follow_each_other_faster_than_they_end() -> None:
    """As when the round before is taken for lost while its token is stuck here."""
    rig = Rig(B)
    now, past = 1.0, []
    for round_ in range(1, 5):
        rig.arrive(now, token(rig, A, round_=round_))
        for _ in range(2):
            now += OPTIONS.hop_timeout
            rig.ring.time_passed(now)
        past += [sent.round for to, sent in tokens(rig.take()) if to == A]
    assert past[0] == 2 and {2, 3, 4} <= set(past), "C is gone past in the second of them"


def test_the_token_goes_past_a_silent_node_and_leaves_it_unvisited() -> None:
    rig = Rig(A)
    rig.stamp(1.0)
    assert [to for to, _ in tokens(rig.take())] == [B]
    to, past, again = until_past(rig, B)
    assert to == C and past.passed == {B} and past.visited == {A} and again == OPTIONS.hop_attempts - 1


def test_a_round_that_went_past_somebody_closes_nothing_and_goes_home() -> None:
    rig = Rig(C)
    past = replace(token(rig, A, intro=4), passed=frozenset({B}))
    effects = rig.arrive(1.0, past)
    assert received(effects) and not closes(effects)
    ((to, back),) = tokens(effects)
    assert to == A and back.visited == {A, C} and back.passed == {B}
    assert rig.ring.deadline() == pytest.approx(1.0 + OPTIONS.hop_timeout), "nothing waits to be closed either"


def test_who_was_gone_past_and_is_visited_after_all_counts() -> None:
    rig = Rig(C)
    made = replace(token(rig, A, B, intro=4), passed=frozenset({B}))
    assert closes(rig.arrive(1.0, made))


def test_a_silent_way_home_ends_the_attempts() -> None:
    rig = Rig(C)
    rig.arrive(1.0, token(rig, A, B, busy=False))
    for _ in range(OPTIONS.hop_attempts - 1):
        rig.ring.time_passed(rig.ring.deadline() or 0.0)
        assert [to for to, _ in tokens(rig.take())] == [A]
    rig.ring.time_passed(rig.ring.deadline() or 0.0)
    assert tokens(rig.take()) == [], "whoever misses the round begins another"


def test_a_round_of_which_the_origin_is_silent_ends_at_who_began_it() -> None:
    rig = Rig(B)
    rig.ring.start_round(1.0)
    ((to, out),) = tokens(rig.take())
    assert to == C
    past = replace(home(out, C), passed=frozenset({A}))
    assert not closes(rig.arrive(1.01, past, C))
    assert rig.ring.attendance.missed_since(A) == 1.0


# Attendance --------------------------------------------------------------------------------------------------------


def test_a_member_that_rounds_go_past_for_long_is_absent() -> None:
    attendance = Attendance(OPTIONS)
    attendance.round_over(10.0, 10.0, {A, B}, MEMBERS)
    attendance.round_over(11.0, 11.0, {A, B}, MEMBERS)
    assert attendance.missed_since(C) == 10.0 and attendance.missed_since(B) is None
    early = EARLIER_MAX * PATIENCE
    assert attendance.absent(10.0 + PATIENCE - early - 0.01, MEMBERS) == frozenset()
    assert attendance.absent(10.0 + PATIENCE - early, MEMBERS) == {C}, "a second later would be too late"


def test_it_is_out_before_anybody_has_waited_for_it_too_long() -> None:
    """A round takes its time, as it waits for the member that does not answer: the next one would end too late."""
    attendance, now = Attendance(OPTIONS), 10.3
    attendance.round_over(9.9, 9.92, MEMBERS, MEMBERS)
    attendance.round_over(10.0, now, {A, B}, MEMBERS)
    while not attendance.absent(now, MEMBERS):
        now += 0.11
        attendance.round_over(now - 0.1, now, {A, B}, MEMBERS)
    assert attendance.missed_since(C) == 10.0
    assert PATIENCE - 0.11 - TAKE_OVER_SECONDS <= now - 10.0 <= PATIENCE - TAKE_OVER_SECONDS


def test_one_visit_makes_present() -> None:
    attendance = Attendance(OPTIONS)
    attendance.round_over(10.0, 10.0, {A, B}, MEMBERS)
    attendance.round_over(12.0, 12.0, {A, B, C}, MEMBERS)
    attendance.round_over(13.0, 13.0, {A, B}, MEMBERS)
    assert attendance.absent(12.99 + (1 - EARLIER_MAX) * PATIENCE, MEMBERS) == frozenset()
    assert attendance.absent(13.0 + PATIENCE, MEMBERS) == {C}


def test_a_change_of_what_it_has_begins_its_time_anew() -> None:
    attendance = Attendance(OPTIONS)
    attendance.round_over(10.0, 10.0, {A}, (A, B, C))
    attendance.renewed({C})
    assert attendance.missed_since(C) is None and attendance.missed_since(B) == 10.0


@pytest.mark.parametrize(("missing", "members", "times"), [(1, 3, 1), (1, 2, 1), (2, 4, 1), (2, 3, 3), (3, 5, 3)])
def test_the_smaller_half_waits_longer(missing: int, members: int, times: int) -> None:
    everybody = [NodeId(number) for number in range(members)]
    gone = frozenset(everybody[:missing])
    attendance = Attendance(OPTIONS)
    attendance.round_over(10.0, 10.0, everybody[missing:], everybody)
    assert MINORITY_PATIENCE == 3
    last = 10.0 + times * PATIENCE - TAKE_OVER_SECONDS
    assert attendance.absent(last - 0.01, everybody) == frozenset()
    assert attendance.absent(last + 0.01, everybody) == gone


def rounds_without_c(rig: Rig, begin: float, end: float) -> list[frozenset[NodeId]]:
    found: list[frozenset[NodeId]] = []
    now = begin
    while now <= end:
        rig.ring.start_round(now)
        out = tokens(rig.take())[-1][1]
        found += evictions(rig.arrive(now, replace(home(out, B), passed=frozenset({C})), B))
        now += 0.5
    return found


def test_where_rounds_end_the_absent_are_put_out() -> None:
    rig = Rig(A)
    assert rounds_without_c(rig, 1.0, PATIENCE) == []
    assert rounds_without_c(rig, PATIENCE + 0.5, PATIENCE + 0.5) == [{C}], "the next round would end too late"


def test_a_view_that_gives_it_something_lets_a_member_begin_anew() -> None:
    rig = Rig(A)
    rounds_without_c(rig, 1.0, 2.0)
    rig.applied(2.1, rig.view(n3=31))
    rig.take()
    assert rig.ring.attendance.missed_since(C) is None
    assert rounds_without_c(rig, 2.5, 0.5 + PATIENCE) == []


def test_a_round_of_an_older_view_says_nothing_of_who_is_there() -> None:
    rig = Rig(A)
    rig.ring.start_round(1.0)
    out = tokens(rig.take())[-1][1]
    rig.ring._round_over(1.1, replace(out, view=type(out.view)(out.view - 1)))
    assert rig.ring.attendance.missed_since(B) is None


def test_an_acknowledgement_that_is_late_spares_the_next_round() -> None:
    rig = Rig(A)
    rig.stamp(1.0)
    ((_, out),) = tokens(rig.take())
    until_past(rig, B)
    rig.ring.token_received(1.5, TokenReceived(out.round, out.generation), B)
    rig.ring.start_round(2.0)
    rig.take()
    assert until_past(rig, B)[2] == OPTIONS.hop_attempts - 1
    rig.ring.start_round(3.0)
    rig.take()
    assert until_past(rig, B)[2] == 0, "silent in the last round: one attempt"
