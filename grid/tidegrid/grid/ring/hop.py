"""One hop of the token: sent, then sent again until the receiver acknowledges it.

    idle --sent--> waiting --acknowledged | superseded--> idle
                   waiting --time passed--> waiting, twice as patient --too often--> given up

Only the newest token matters: sending another one forgets the one before. What a node has missed counts over all of
them until it acknowledges one: tokens that follow each other faster than attempts end would be stuck at it for ever.
A node that does not answer in the end is gone past; from then on one attempt has to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.ring.local import RingOptions
from tidegrid.grid.ring.token import Token


@dataclass(slots=True)
class Hop:
    options: RingOptions
    to: NodeId | None = None
    token: Token | None = None
    due: float | None = None
    attempts: int = 0
    _missed: dict[NodeId, int] = field(default_factory=dict)  # attempts in vain since it last acknowledged one

    def sent(self, now: float, to: NodeId, token: Token) -> None:
        self.to, self.token, self.attempts = to, token, 1
        self.due = now + self.options.hop_timeout

    def acknowledged(self, sender: NodeId, round_: int, generation: int) -> None:
        token = self.token
        self._missed.pop(sender, None)
        if token is not None and (self.to, token.round, token.generation) == (sender, round_, generation):
            self.forget()

    def forget(self) -> None:
        self.to = self.token = self.due = None
        self.attempts = 0

    def given_up(self, now: float) -> tuple[NodeId, Token] | None:
        """The node that does not answer, and the token that is to go past it."""
        if self.due is None or now < self.due:
            return None
        assert self.to is not None and self.token is not None
        if self._missed.get(self.to, 0) + 1 < self.options.hop_attempts:
            return None
        self._missed[self.to] = self.options.hop_attempts
        given_up = self.to, self.token
        self.forget()
        return given_up

    def time_passed(self, now: float) -> tuple[NodeId, Token] | None:
        """What to send again."""
        if self.due is None or now < self.due:
            return None
        assert self.to is not None and self.token is not None
        self._missed[self.to] = self._missed.get(self.to, 0) + 1
        self.due = now + min(self.options.hop_timeout * 2**self.attempts, self.options.hop_timeout_max)
        self.attempts = min(self.attempts + 1, 30)
        return self.to, self.token
