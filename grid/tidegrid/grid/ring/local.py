"""What the ring asks of the node it runs in, and what it asks the node to do.

`Local` is answered at once, from memory, without side effects: the ring reads it at the instant of a visit, so all
answers belong to one moment. Effects are performed in the order given (etcd's raft calls its bundle of them Ready):
sends may be lost; an append may fail, and its failure is told back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position
from tidegrid.grid.ring.messages import RingMessage
from tidegrid.grid.ring.promise import PartitionPromise
from tidegrid.v1 import control_pb2


class Local(Protocol):
    def promises(self) -> Iterable[PartitionPromise]:
        """One for each partition this node owns or has something in flight for."""
        ...

    def tails(self) -> Mapping[PartitionId, Position]:
        """Durable tails of its open partitions."""
        ...

    def highest_stamp(self) -> Epoch:
        """Of anything computed or durable here: above `closed` means that something waits to be closed."""
        ...

    def reference_epoch(self) -> Epoch:
        """Highest stamp of a record here that changed a reference map, computed or durable."""
        ...

    def waiting_for(self) -> Epoch:
        """The highest epoch that somebody here waits to see closed; 0: nobody waits."""
        ...

    def ready(self) -> bool:
        """All partitions of this node are open. Rounds begin by themselves only then."""
        ...

    def time_ms(self) -> int:
        """Wall time, for the record of a close."""
        ...


@dataclass(frozen=True, slots=True)
class RingOptions:
    """Each in seconds, unless it says otherwise."""

    tick: float | None = (
        0.02  # between the beginnings of two rounds; shorter: fresher closes, more messages. None: the user steps
    )
    hold: float = (
        0.02  # how long a visit may wait for frames in flight; a round that goes on without them closes nothing
    )
    hop_timeout: float = 0.1  # unacknowledged token or wake is sent again after it, twice as late each time
    hop_timeout_max: float = 1.0
    hop_attempts: int = 2  # then the token goes past that node; after one, if it did not answer in the last round
    heartbeat: float = 1.0  # an idle ring of several nodes is gone round so often, to see who is there
    evict_after: float = 3.0  # nobody waits longer for a member that rounds go past: it loses its partitions
    close_retry: float = 0.1  # after a full storage refused a CLOSE
    regenerate_after_rotations: int = 10  # a token unseen so long is taken for lost
    regenerate_floor: float = 0.2  # but not before this
    regenerate_stagger: float = 0.05  # more per rank, so that one node does it


@dataclass(frozen=True, slots=True)
class Send:
    """May be lost, doubled or late. The shell adds the envelope."""

    to: NodeId
    message: RingMessage


@dataclass(frozen=True, slots=True)
class AppendClose:
    """Append to the control log at exactly `expected`. Its success is learned by applying the record (rule C2)."""

    expected: Position
    record: control_pb2.ControlRecord


@dataclass(frozen=True, slots=True)
class Evict:
    """Rule L: rounds have gone past these members for too long. Safe even if they live."""

    nodes: frozenset[NodeId]


@dataclass(frozen=True, slots=True)
class EpochRaised:
    """From now on everything is stamped with at least this; what is computed later uses what is in force at it."""

    epoch: Epoch


Effect = Send | AppendClose | Evict | EpochRaised
