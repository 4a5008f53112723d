"""What this client has seen of the grid's time: the highest control position and epoch of any answer.

It goes out with every request. The epoch gives causality, the control position gives read-your-writes past an owner
that lost its partitions without noticing. Invariants: neither ever decreases; the grid id never changes.
"""

from __future__ import annotations

from tidegrid.client.token import Token
from tidegrid.grid.model.errors import WrongGridError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.v1 import grid_pb2


class Causality:
    def __init__(self) -> None:
        self.grid_id = b""
        self.control = 0
        self.epoch = 0

    def token(self) -> Token:
        return Token(self.grid_id, Position(self.control), Epoch(self.epoch))

    def observe(self, carry: grid_pb2.Carry) -> None:
        """Raises WrongGridError when another grid answers than before."""
        if carry.grid_id != self.grid_id:
            if self.grid_id:
                raise WrongGridError(
                    f"another grid answers than before: {carry.grid_id.hex()[:8]}, not {self.grid_id.hex()[:8]}; was its data directory replaced? Connect again"
                )
            self.grid_id = carry.grid_id
        if carry.control > self.control:
            self.control = carry.control
        if carry.epoch > self.epoch:
            self.epoch = carry.epoch

    def advance(self, token: Token) -> None:
        """Takes over what somebody else has seen. Raises WrongGridError."""
        if self.grid_id and token.grid_id != self.grid_id:
            raise WrongGridError(
                f"the token is of grid {token.grid_id.hex()[:8]}, this is grid {self.grid_id.hex()[:8]}; use it there"
            )
        self.control = max(self.control, token.control)
        self.epoch = max(self.epoch, token.epoch)

    def stamp(self, carry: grid_pb2.Carry) -> None:
        carry.grid_id = self.grid_id
        carry.control = self.control
        carry.epoch = self.epoch

    def carry(self) -> grid_pb2.Carry:
        return grid_pb2.Carry(grid_id=self.grid_id, control=self.control, epoch=self.epoch)
