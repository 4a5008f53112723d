"""A request about a hold on history: take it, renew it or move it forward, or release it. See engine/holding.py."""

from __future__ import annotations

from typing import Any

from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, Position


class HoldRequest:
    """`epoch` 0: the newest closed one, or of a renewal the one that is held. `taken` 0: take it, whoever has the name.

    Answered with `epoch`, `taken` (by which the hold is renewed and released) and `expires_ms`, in wall time.
    """

    __slots__ = ("epoch", "error", "expires_ms", "for_ms", "name", "owner", "release", "reply_to", "taken")

    def __init__(
        self,
        name: str,
        owner: str,
        epoch: Epoch,
        for_ms: int,
        reply_to: Any,
        *,
        taken: Position = BEFORE_FIRST,
        release: bool = False,
    ) -> None:
        self.name = name
        self.owner = owner
        self.epoch = epoch
        self.for_ms = for_ms
        self.taken = taken
        self.release = release
        self.reply_to = reply_to
        self.expires_ms = 0
        self.error: GridError | None = None
