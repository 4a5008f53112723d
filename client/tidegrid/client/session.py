"""Names of writes, so that a retry is never a second write: (session, partition, sequence).

    session = kind (1 byte: 1 client, 2 named) | 7 bytes | epoch of creation (8 bytes, big-endian; named: 0) | 8 bytes

A client session has random bytes and lives for a bounded number of epochs; a new one begins at half of that, and the
old one is kept only by what is still unanswered under it. A named session is a hash of what is loaded, so that a
repeated load names the same writes; it never ends and tells no watermark.

Sequences count up from 1 within one session and partition and are never used twice, not even for a write whose
outcome stayed unknown. Invariant: everything below `lowest_unanswered` has been answered or given up.
Prior art: RIFL (Lee et al., SOSP 2015).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Final

from tidegrid.grid.model.ids import Epoch, PartitionId

_CLIENT: Final = b"\x01"
_NAMED: Final = b"\x02"


@dataclass(frozen=True, slots=True)
class NamedSession:
    """The session of a load that may be repeated: `name` is whatever identifies its rows and their order. In another map it
    is another session."""

    name: bytes

    def id_in(self, map_name: str) -> bytes:
        digest = hashlib.sha256(self.name + b"\0" + map_name.encode()).digest()
        return _NAMED + digest[:7] + bytes(8) + digest[7:15]


class Sequences:
    """The counter and the watermark of one session in one partition."""

    __slots__ = ("_open", "_watermark", "next", "session")

    def __init__(self, session: bytes, watermark: bool = True) -> None:
        self.session = session
        self.next = 1
        self._watermark = watermark
        self._open: dict[int, int] = {}  # first sequence -> count, of batches not yet answered, ascending

    @property
    def lowest_unanswered(self) -> int:
        """0 tells the node to keep all answers."""
        if not self._watermark:
            return 0
        return next(iter(self._open), self.next)

    def take(self, count: int) -> int:
        """The first of `count` new consecutive sequences."""
        first = self.next
        self.next = first + count
        self._open[first] = count
        return first

    def skip(self) -> None:
        """Uses one sequence up for a write that is never sent."""
        self.next += 1

    def split(self, first: int, parts: list[tuple[int, int]]) -> None:
        """What was taken at `first` goes on as `parts`, (first, count) each; the rest of it is answered."""
        self._open.pop(first, None)
        if parts:
            self._open.update(parts)
            self._open = dict(sorted(self._open.items()))

    def answered(self, first: int) -> None:
        self._open.pop(first, None)


class Sessions:
    """The current client session, renewed by epochs."""

    def __init__(self) -> None:
        self.session_epochs = 1
        self._renew_at = -1
        self._session = b""
        self._sequences: dict[PartitionId, Sequences] = {}

    def of(self, partition: PartitionId, epoch: Epoch, renew: bytes = b"") -> Sequences:
        """Where new writes to `partition` are counted at `epoch`; in another session than `renew`, which has expired."""
        if epoch >= self._renew_at or self._session == renew:
            self._session = _CLIENT + os.urandom(7) + epoch.to_bytes(8, "big") + os.urandom(8)
            self._renew_at = epoch + max(1, self.session_epochs // 2)
            self._sequences = {}
        known = self._sequences.get(partition)
        if known is None:
            known = self._sequences[partition] = Sequences(self._session)
        return known


def is_client_session(session: bytes) -> bool:
    return session.startswith(_CLIENT)
