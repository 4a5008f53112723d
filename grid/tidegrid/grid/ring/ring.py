"""The ring of one node: its epoch, its part in every round, and the closes it appends. A pure state machine.

Inputs are the methods from `carry` to `time_passed`; each may leave effects, which the shell drains with `take()` and
performs in order. `deadline()` says when `time_passed` is due. One token at most is here:

    token arrives --staler, another grid's, or I promised in it--> dropped (if complete, at the origin: the round is over)
                  --of a view I have not applied--> parked until the control log is applied, not acknowledged
                  --else: acknowledged, epoch raised to its intro (E1)--> held until the frames in flight have landed
    held --landed, or 20 ms--> promise (P) merged, sent to the next unvisited member
                               a node that does not answer is gone past (L)
                               all visited: offered to closing.py (C); nobody left: sent back, the round is over

Invariants: the epoch never falls and lies in (closed, limit); a promise is given below it; nothing of an earlier
incarnation of this node is acted on: without membership in the applied view a token is neither kept nor acknowledged.
While all is closed and nobody waits a lone node has no timer, and several send a token round once a heartbeat.

Phases: hop.py (retransmission), rounds.py (the origin's timing), vigil.py (wakes, regeneration), closing.py (CLOSE),
attendance.py (who is absent).
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import Final

from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, Position
from tidegrid.grid.ring.attendance import Attendance
from tidegrid.grid.ring.closing import Closing
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.hindrance import Hindrance, hindrance
from tidegrid.grid.ring.hop import Hop
from tidegrid.grid.ring.local import Effect, EpochRaised, Evict, Local, RingOptions, Send
from tidegrid.grid.ring.messages import TokenMessage, TokenReceived, Wake
from tidegrid.grid.ring.promise import floor, in_flight_below
from tidegrid.grid.ring.rounds import Rounds
from tidegrid.grid.ring.token import NO_EPOCH, Freshness, Token, begin, renew, visit
from tidegrid.grid.ring.view import ViewState
from tidegrid.grid.ring.vigil import Vigil

ROUND_MAX: Final = 1 << 62  # a forged one: there have to be rounds after it


class Carried(enum.Enum):
    """What became of a (control position, epoch) pair that came with a message."""

    TAKEN = "taken"
    APPLY_FIRST = "apply the control log to its end, then ask again with at_tail=True"
    TOO_NEW = "the epoch is at or above the limit: refuse a client, let a node retry"
    BEYOND_LOG = "the control position lies after the end of the control log: refuse"


class TokenPlace(enum.Enum):
    HERE = "here"
    RESTING = "resting"
    ELSEWHERE = "elsewhere"


class Ring:
    """`control` is shared with the engine, which applies records to it and then calls `control_applied`."""

    def __init__(
        self, me: NodeId, incarnation: Incarnation, control: ControlState, local: Local, options: RingOptions
    ) -> None:
        assert control.created, "apply the control log first"
        self.me, self.incarnation = me, incarnation
        self._control, self._local, self._options = control, local, options
        self._epoch = Epoch(control.closed + 1)  # rule S
        self._view = ViewState()  # none yet: the first `control_applied` begins what a view begins
        self._member_of = (self._view, False)
        self._known = Freshness(Position(0), 0, 0, NodeId(0))
        self._intro = NO_EPOCH  # of the newest round seen
        self._held: Token | None = None
        self._held_until = 0.0
        self._hold_below = NO_EPOCH
        self._began = 0.0  # the newest round, or the first of those that were lost here one after the other
        self._lost = False  # it took the place of one that was lost
        self._parked: tuple[TokenMessage, NodeId] | None = None
        self._hop = Hop(options)
        self._rounds = Rounds(options)
        self._vigil = Vigil(options)
        self._closing = Closing(options)
        self.attendance = Attendance(options)
        self._effects: list[Effect] = []

    # What it knows ----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> Epoch:
        """What is computed now is stamped with this."""
        return self._epoch

    @property
    def member(self) -> bool:
        """This incarnation is in the applied view."""
        view = self._control.view
        if view is not self._member_of[0]:
            self._member_of = (view, view.has(self.me, self.incarnation))
        return self._member_of[1]

    @property
    def is_origin(self) -> bool:
        return self.member and self._control.view.origin == self.me

    @property
    def rounds(self) -> int:
        """Begun here since the start."""
        return self._rounds.count

    @property
    def place(self) -> TokenPlace:
        if self._held is not None or self._parked is not None:
            return TokenPlace.HERE
        return TokenPlace.RESTING if self.is_origin and not self._rounds.out else TokenPlace.ELSEWHERE

    def hindrance(self) -> Hindrance | None:
        """Who keeps `closed` from going on, as far as this node can tell; None: no one."""
        return hindrance(self.me, self._epoch, self._control, self._local.promises(), self._hop)

    def held_back_by(self) -> str:
        """The same in words; empty: no one."""
        found = self.hindrance()
        return found.words if found is not None else ""

    @property
    def closing(self) -> bool:
        """A CLOSE of this node is on its way to the control log, or will be."""
        return self._closing.appending is not None

    def take(self) -> list[Effect]:
        """All effects since the last call, in the order in which to perform them."""
        effects, self._effects = self._effects, []
        return effects

    def deadline(self) -> float | None:
        """When `time_passed` is due; None: nothing waits for time."""
        due = [self._hop.due, self._closing.retry_at]
        if self._held is not None:
            due.append(self._held_until)
        if self.member:
            if self.is_origin and self._local.ready():
                due += (self._rounds.due, self._rounds.beat)
            due.append(self._vigil.wake_due)
            due.append(self._lost_at())
        return min((moment for moment in due if moment is not None), default=None)

    # Epochs -----------------------------------------------------------------------------------------------------

    def carry(self, now: float, control_position: Position, epoch: Epoch, *, at_tail: bool = False) -> Carried:
        """Rules J and E2: what a message, or the last stamp of a log that is being opened, says of time. Untrusted.

        The epoch is raised only when the answer is TAKEN. `at_tail`: the control log was just applied to its end.
        """
        if control_position > self._control.position:
            return Carried.BEYOND_LOG if at_tail else Carried.APPLY_FIRST
        if epoch >= self._control.limit:
            return Carried.TOO_NEW if at_tail else Carried.APPLY_FIRST
        self._raise(epoch)
        return Carried.TAKEN

    def opened(self, now: float, stamp: Epoch) -> None:
        """Rule O2: an OPEN with this stamp is in the log, and the epoch follows.

        Before appending it, `carry` the last stamp of that log: one at or above the limit that is known here means
        that the control log has to be applied further first (E3), since everything later is stamped at least so.
        """
        self._raise(stamp)
        self.stirred(now)

    def _raise(self, epoch: Epoch) -> None:
        if epoch > self._epoch:
            self._epoch = epoch
            self._effects.append(EpochRaised(epoch))

    def _capped(self, epoch: Epoch) -> Epoch:
        """Rule E1."""
        return min(epoch, Epoch(self._control.limit - 1))

    # Rounds -----------------------------------------------------------------------------------------------------

    def start_round(self, now: float) -> bool:
        """Begins a round here at once. False: this incarnation is no member yet."""
        if not self.member:
            return False
        self._begin(now, self._known.generation if self.is_origin else self._known.generation + 1)
        return True

    def _begin(self, now: float, generation: int, since: float | None = None) -> None:
        """`since`: when the one that is lost was seen last."""
        control = self._control
        wanted = max(self._rounds.wanted, self._local.waiting_for())
        asked_for = self._busy() or self._rounds.due is not None or self._options.tick is None
        intro = max(self._epoch + asked_for, wanted + 1, control.highest_activation)
        token = begin(
            control.grid_id,
            control.view.position,
            self._known.round + 1,
            generation,
            max(self._epoch, self._capped(Epoch(intro))),
            self.me,
        )
        self._rounds.begun(now)
        self._visit(now, token)
        if since is not None:
            self._began, self._lost = since, True

    def _visit(self, now: float, token: Token) -> None:
        """From here on this token is the newest; what an older one was doing here is over."""
        self._vigil.seen(now, regenerated=token.generation > self._known.generation)
        self._began, self._lost = now, False
        self._known = max(self._known, token.freshness)
        self._intro = token.intro
        self._hop.forget()
        if self.is_origin:
            self._rounds.out, self._rounds.due = True, None
        self._raise(self._capped(token.intro))
        self._held, self._held_until, self._hold_below = token, now + self._options.hold, self._epoch
        if not in_flight_below(self._local.promises(), self._hold_below):
            self._release(now)

    def landed(self, now: float) -> None:
        """Frames were decided: a held token may go on."""
        if self._held is not None and (
            now >= self._held_until or not in_flight_below(self._local.promises(), self._hold_below)
        ):
            self._release(now)
            self._begin_if_due(now)

    def _release(self, now: float) -> None:
        token, self._held = self._held, None
        if token is None or not self.member:
            return
        control, local = self._control, self._local
        token = renew(token, control.view.position, control.changed_since(token.view))
        owned = control.view.owned_by(self.me, self.incarnation)
        promise = floor(local.promises(), owned, self._epoch, control.closed)
        known = control.tails
        tails = {p: tail for p, tail in local.tails().items() if tail > known.get(p, 0)}
        token = visit(token, self.me, promise, tails, local.reference_epoch(), self._busy())
        self._known = max(self._known, token.freshness)
        self._vigil.left(token.busy)
        self._pass_on(now, token)
        self._stir(now)

    def _pass_on(self, now: float, token: Token) -> None:
        view = self._control.view
        missing = view.next_after(self.me, token.visited | token.passed)
        if missing is not None:
            self._send_token(now, missing, token)
            return
        if not token.passed - token.visited:
            self._closing.offer(token)
            self._close(now)
        back = view.origin if view.origin is not None and view.origin in token.visited else token.origin
        if back == self.me or back not in view.members:
            self._round_over(now, token)
        else:
            self._send_token(now, back, token)

    def _go_past(self, now: float, silent: NodeId, token: Token) -> None:
        """Rule L: a node that does not answer stays unvisited in this round."""
        if not self.member or silent in token.visited:
            return  # that was the way back: whoever misses the round begins another
        self._pass_on(now, replace(token, passed=token.passed | {silent}))

    def _send_token(self, now: float, to: NodeId, token: Token) -> None:
        self._hop.sent(now, to, token)
        self._effects.append(Send(to, TokenMessage(token)))

    # Messages ---------------------------------------------------------------------------------------------------

    def token_arrived(self, now: float, message: TokenMessage, sender: NodeId) -> None:
        """Rule T."""
        control, token = self._control, message.token
        if token.grid_id != control.grid_id or max(token.round, token.generation) >= ROUND_MAX:
            return
        if token.view > control.view.position:
            if self._parked is None or token.freshness >= self._parked[0].token.freshness:
                self._parked = (message, sender)
            return
        if not self.member:
            return  # the sender tries again: this incarnation may become one
        self._effects.append(Send(sender, TokenReceived(token.round, token.generation)))
        token = renew(token, control.view.position, control.changed_since(token.view))
        if self.me not in token.visited:
            if token.freshness > self._known:
                self._visit(now, token)
        elif (self.is_origin or token.origin == self.me) and token.round >= self._known.round:
            self._hop.forget()  # it was taken over, whatever became of the acknowledgement
            self._vigil.left(token.busy)
            self._round_over(now, token)
            self._stir(now)
        self._begin_if_due(now)

    def _round_over(self, now: float, token: Token) -> None:
        """There is nobody left to visit, though a VIEW may have cleared some since."""
        members = self._control.view.members
        if token.view == self._control.view.position:
            self.attendance.round_over(self._began, now, token.visited, members)
            self._lost = False
            if absent := self.attendance.absent(now, members):
                self._effects.append(Evict(absent))
        self._rounds.returned(now, token.busy or self._busy(), alone=self._alone)

    @property
    def _alone(self) -> bool:
        return len(self._control.view.members) < 2

    def token_received(self, now: float, message: TokenReceived, sender: NodeId) -> None:
        """The next node has taken the token over."""
        self._hop.acknowledged(sender, message.round, message.generation)

    def wake(self, now: float, want: Epoch) -> None:
        """Somebody has something to close, or waits for `want`. Untrusted: it moves rounds, never the limit."""
        if self.is_origin:
            self._rounds.want(now, self._capped(want))
            self._begin_if_due(now)

    # The node's own -----------------------------------------------------------------------------------------------

    def stirred(self, now: float) -> None:
        """Something was stamped here, a waiter came, or the node became ready. Cheap: call it freely."""
        if self._held is None and self.member:
            self._stir(now)
            self._begin_if_due(now)

    def control_applied(self, now: float) -> None:
        """Records were applied to the control state. Call it once after construction too."""
        control, before = self._control, self._view
        self._raise(Epoch(control.closed + 1))
        self._rounds.closed(control.closed)
        self._closing.applied(control)
        if control.view.position != before.position:
            self._view_changed(now, was_origin=before.has(self.me, self.incarnation) and before.origin == self.me)
        self._close(now)
        parked = self._parked
        if parked is not None and parked[0].token.view <= control.view.position:
            self._parked = None
            self.token_arrived(now, *parked)
        if self.member and self._held is None:
            self._stir(now)
        self._begin_if_due(now)

    def _view_changed(self, now: float, *, was_origin: bool) -> None:
        control = self._control
        self.attendance.renewed(control.changed_since(self._view.position))
        self._view = control.view
        self._vigil.forgotten()  # who was told of a want may be gone
        self._vigil.began(now)
        if self.is_origin and not was_origin:
            self._rounds.rest()
        if self.is_origin and self._rounds.beat is None:
            self._rounds.beating(now, alone=self._alone)
        token, to = self._hop.token, self._hop.to
        if token is not None and to not in control.view.members:
            self._hop.forget()
            if self.member:
                self._visit(now, renew(token, control.view.position, control.changed_since(token.view)))

    def close_failed(self, now: float, expected: Position, error: GridError) -> None:
        """The CLOSE of an AppendClose at `expected` was refused; it does not matter what was applied meanwhile."""
        self._closing.failed(now, expected, error)
        self._close(now)

    def time_passed(self, now: float) -> None:
        """Whatever is due at `now`. Afterwards `deadline()` lies later, unless the tick is 0."""
        given_up = self._hop.given_up(now)
        if given_up is not None:
            self._go_past(now, *given_up)
        again = self._hop.time_passed(now)
        if again is not None:
            self._effects.append(Send(again[0], TokenMessage(again[1])))
        if self._held is not None and now >= self._held_until:
            self._release(now)
        if self._closing.retry_at is not None and now >= self._closing.retry_at:
            self._close(now)
        if not self.member:
            return
        if self._vigil.wanting and self._held is None:
            self._stir(now)  # it may be content by now
        if self._vigil.wake_due is not None and now >= self._vigil.wake_due:
            self._wake_origin(now, again=True)
        lost_at = self._lost_at()
        if lost_at is not None and now >= lost_at:
            self._begin(now, self._known.generation + 1, self._began if self._lost else self._vigil.unseen_since)
        self._begin_if_due(now)

    # Inside -----------------------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """Whether this node wants time to go on."""
        closed = self._control.closed
        return (
            self._local.highest_stamp() > closed
            or self._local.waiting_for() > closed
            or self._control.activation_pending
        )

    def _stir(self, now: float) -> None:
        if self._options.tick is None:
            return
        if not self._busy():
            self._vigil.content()
            return
        self._vigil.want(now)
        if self.is_origin:
            if self._rounds.resting:
                self._rounds.want(now, NO_EPOCH)
        elif self._vigil.wake_due is None and (not self._vigil.carried or self._local.waiting_for() > self._intro):
            self._wake_origin(now)

    def _wake_origin(self, now: float, *, again: bool = False) -> None:
        origin = self._control.view.origin
        assert origin is not None and origin != self.me
        self._vigil.woke(now, again=again)
        self._effects.append(Send(origin, Wake(self._local.waiting_for())))

    def _begin_if_due(self, now: float) -> None:
        rounds = self._rounds
        due = min((moment for moment in (rounds.due, rounds.beat) if moment is not None), default=None)
        if due is not None and now >= due and self._held is None and self.is_origin and self._local.ready():
            self._begin(now, self._known.generation)

    def _lost_at(self) -> float | None:
        """When to take the token for lost. Not while it is here, on its way from here, or not begun."""
        if self._held is not None or self._hop.token is not None or (self.is_origin and not self._rounds.out):
            return None
        return self._vigil.lost_at(self._control.view.rank(self.me), alone=self._alone)

    def _close(self, now: float) -> None:
        close = self._closing.decide(now, self._control, self._local.time_ms())
        if close is not None:
            self._effects.append(close)
