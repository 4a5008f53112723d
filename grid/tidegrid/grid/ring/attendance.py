"""Who takes part in the rounds (rule L): a member that rounds go past for some seconds is to lose its partitions.

    present --a round ends without its visit--> missed since that began --a round with its visit--> present
                                                --`evict_after` would pass--> absent: to be put out by a VIEW

Kept by the node at which rounds end. Nobody is to wait for a member for longer than `evict_after`: so it is put out at the end
of a round when at the end of the next one, with the take-over, it would be too late. A wrong suspicion is safe: the view
decides who owns what, and the terms in the log hold against a node that has not heard of it. Who sees only the smaller
half of the members waits three times as long, so that the larger half is first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.ring.local import RingOptions

MINORITY_PATIENCE: Final = 3
TAKE_OVER_SECONDS: Final = 0.05  # from a VIEW to the next close: some appends and a round
EARLIER_MAX: Final = 0.25  # of the patience, where rounds are far apart


@dataclass(slots=True)
class Attendance:
    options: RingOptions
    _missed: dict[NodeId, float] = field(default_factory=dict)  # since when
    _over_at: float | None = None  # the last round
    _interval: float = 0.0  # between the ends of the last two

    def round_over(self, began: float, now: float, visited: Collection[NodeId], members: Collection[NodeId]) -> None:
        """`began`: when the round did, or since when there has been none, if it took the place of one that was lost."""
        self._missed = {node: self._missed.get(node, began) for node in members if node not in visited}
        self._interval = now - self._over_at if self._over_at is not None else 0.0
        self._over_at = now

    def renewed(self, nodes: Collection[NodeId]) -> None:
        """They have joined, or gained or lost something: what they missed before counts no more."""
        for node in nodes:
            self._missed.pop(node, None)

    def missed_since(self, node: NodeId) -> float | None:
        return self._missed.get(node)

    def absent(self, now: float, members: Collection[NodeId]) -> frozenset[NodeId]:
        patience = self.options.evict_after
        if 2 * (len(members) - len(self._missed)) < len(members):
            patience *= MINORITY_PATIENCE
        patience -= min(self._interval + TAKE_OVER_SECONDS, EARLIER_MAX * patience)
        return frozenset(node for node, since in self._missed.items() if now - since >= patience)
