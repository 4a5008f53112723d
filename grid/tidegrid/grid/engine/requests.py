"""Request memory of one partition: what makes the effect of a retried write exactly once.

A write is named by (session, sequence); sequences count up from 1 within one session and partition. Kept per session
are the runs of accepted sequences with their versions and epochs, the refused ones with their errors, and the runs
that are queued or in flight, which a retry joins. Everything below the client's lowest unanswered sequence is let go.

A session is 24 bytes: kind (1 client, 2 named), 7 bytes, the epoch of its creation (8 bytes, big-endian), 8 bytes.
A client session lives for `session_epochs` epochs from its creation, after which none of its requests is ever
applied again; so memory is bounded and no question stays open whether an unknown session is new or forgotten. It is
forgotten only when it has ended by the last close: epochs above that are forgotten themselves in a restart, and a
checkpoint without the session would then meet an epoch in which the session still lives.
A named session (a bulk load, which may be repeated days later) has no end: of its older runs only the sequences
stay, as merged intervals, and the longest unused go first when there are too many.

Invariants: runs are sorted and disjoint; a sequence is in at most one of accepted, refused, pending.
Prior art: RIFL (Lee et al., SOSP 2015) for unanswered-sequence watermarks.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tidegrid.grid.model.errors import BusyError, FormatError, GridError, InvalidValueError, OutcomeUnknownError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.limits import Limits

SESSION_BYTES: Final = 24
CLIENT_SESSION: Final = 1
NAMED_SESSION: Final = 2
DETAILED_RUNS_MAX: Final = 256  # of a named session: older runs keep their sequences only


_NO_EPOCH: Final = Epoch(0)


@dataclass(slots=True)
class Run:
    """Accepted sequences first..last. `versions` is None once the details are let go."""

    first: int
    last: int
    epoch: Epoch
    versions: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class Known:
    """What memory says of one sequence: accepted (version 0: details let go), refused, pending, or new."""

    state: str
    version: int = 0
    epoch: Epoch = _NO_EPOCH
    error: GridError | None = None
    pending: Any = None


_NEW: Final = Known("new")


class Unlogged(NamedTuple):
    lowest: int
    refused: Mapping[int, GridError]


@dataclass(slots=True)
class Session:
    lowest: int = 1
    highest: int = 0  # highest sequence ever admitted here
    runs: list[Run] = field(default_factory=list)
    refused: dict[int, GridError] = field(default_factory=dict)
    pending: list[tuple[int, int, Any]] = field(default_factory=list)  # (first, last, request)

    def look_up(self, sequence: int) -> Known:
        at = bisect_right(self.runs, sequence, key=lambda run: run.first) - 1
        if at >= 0 and sequence <= self.runs[at].last:
            run = self.runs[at]
            return Known("accepted", run.versions[sequence - run.first] if run.versions is not None else 0, run.epoch)
        error = self.refused.get(sequence)
        if error is not None:
            return Known("refused", error=error)
        for first, last, request in self.pending:
            if first <= sequence <= last:
                return Known("pending", pending=request)
        if sequence < self.lowest:
            return Known(
                "refused",
                error=OutcomeUnknownError(
                    "this write was answered before and its answer is forgotten; it is not applied again"
                ),
            )
        return _NEW

    def accept(self, first: int, versions: Sequence[int], epoch: Epoch) -> None:
        run = Run(first, first + len(versions) - 1, epoch, versions)
        if self.runs and self.runs[-1].first > first:
            self.runs.insert(bisect_right(self.runs, first, key=lambda other: other.first), run)
        else:
            self.runs.append(run)
        self.highest = max(self.highest, run.last)

    def settle(self, request: Any) -> None:
        self.pending = [entry for entry in self.pending if entry[2] is not request]

    def let_go(self, lowest: int) -> None:
        if lowest <= self.lowest:
            return
        self.lowest = lowest
        if self.runs and self.runs[0].last < lowest:
            self.runs = [run for run in self.runs if run.last >= lowest]
        if self.refused:
            self.refused = {sequence: error for sequence, error in self.refused.items() if sequence >= lowest}

    def forget_details(self) -> None:
        """Merges all but the newest runs into bare intervals."""
        if len(self.runs) <= 2 * DETAILED_RUNS_MAX:
            return
        merged: list[Run] = []
        for run in self.runs[:-DETAILED_RUNS_MAX]:
            if merged and merged[-1].last + 1 == run.first:
                merged[-1].last, merged[-1].epoch = run.last, max(merged[-1].epoch, run.epoch)
            else:
                merged.append(Run(run.first, run.last, run.epoch, None))
        self.runs = merged + self.runs[-DETAILED_RUNS_MAX:]


def session_kind(session: bytes) -> int:
    """Raises InvalidValueError on bytes that are no session."""
    if len(session) != SESSION_BYTES or session[0] not in (CLIENT_SESSION, NAMED_SESSION):
        raise InvalidValueError(
            f"a session is {SESSION_BYTES} bytes that begin with its kind, 1 or 2 (docs/formats.md)"
        )
    return session[0]


def session_created(session: bytes) -> Epoch:
    return Epoch(int.from_bytes(session[8:16], "big"))


class RequestMemory:
    def __init__(self, limits: Limits, session_epochs: int) -> None:
        self._limits = limits
        self._session_epochs = session_epochs
        self._sessions: dict[bytes, Session] = {}
        self.closed = _NO_EPOCH
        self._expired_at = _NO_EPOCH
        self._named: dict[bytes, None] = {}  # in order of last use

    def __len__(self) -> int:
        return len(self._sessions)

    def admit(self, session: bytes, epoch: Epoch, lowest_unanswered: int) -> Session:
        """The memory of `session`, made when it is new.

        Raises OutcomeUnknownError when the session has expired, BusyError when there are too many, InvalidValueError.
        """
        known = self._sessions.get(session)
        kind = session_kind(session) if known is None else session[0]
        if kind == CLIENT_SESSION and self._expired(session, epoch):
            raise OutcomeUnknownError(
                "this session has expired; whether the write was applied is forgotten, and it is not applied now. Read the key, and write under a new session"
            )
        if known is None:
            if kind == CLIENT_SESSION and session_created(session) > epoch:
                raise InvalidValueError("the session claims an epoch that this grid has not reached")
            known = self._make(session, kind)
        elif kind == NAMED_SESSION:
            self._named.pop(session, None)
            self._named[session] = None
        if lowest_unanswered:
            known.let_go(lowest_unanswered)
        return known

    def _make(self, session: bytes, kind: int) -> Session:
        if kind == NAMED_SESSION:
            if len(self._named) >= self._limits.named_sessions_max:
                for oldest in self._named:
                    if not self._sessions[oldest].pending:
                        del self._named[oldest], self._sessions[oldest]
                        break
                else:
                    raise BusyError.of("the memory for named sessions", self._limits.named_sessions_max)
            self._named[session] = None
        elif len(self._sessions) - len(self._named) >= self._limits.sessions_max and not self._expire_once():
            raise BusyError.of("the memory for sessions", self._limits.sessions_max)
        made = self._sessions[session] = Session()
        return made

    def _expired(self, session: bytes, epoch: Epoch) -> bool:
        return epoch > session_created(session) + self._session_epochs

    def get(self, session: bytes) -> Session | None:
        return self._sessions.get(session)

    def accepted(self, session: bytes, first: int, versions: Sequence[int], epoch: Epoch) -> None:
        """A frame with these writes has landed, or is replayed; what the log holds is past every limit."""
        known = self._sessions.get(session)
        if known is None:
            known = self._sessions[session] = Session()
            if session[0] == NAMED_SESSION:
                self._named[session] = None
        known.accept(first, versions, epoch)
        if session[0] == NAMED_SESSION:
            known.forget_details()

    def unlogged(self) -> dict[bytes, Unlogged]:
        """By session, what the log does not tell: how far its client has its answers, and what was refused."""
        return {
            session: Unlogged(known.lowest, dict(known.refused))
            for session, known in self._sessions.items()
            if known.lowest > 1 or known.refused
        }

    def recall(self, unlogged: Mapping[bytes, Unlogged]) -> None:
        """What was known before the partition went and came back: a copy of a request that was answered then may still
        be on its way over the same connection."""
        for session, (lowest, refused) in unlogged.items():
            known = self._sessions.get(session)
            if known is None and session[0] == CLIENT_SESSION and not self._expired(session, self.closed):
                known = self._make(session, CLIENT_SESSION)
            if known is not None:
                known.refused |= refused
                known.highest = max([known.highest, *refused])  # what is above it is taken for new, unasked
                known.let_go(lowest)

    def _expire_once(self) -> int:
        """Looks for ended sessions at most once a close: a flood of new ones must not make each look at all."""
        if self.closed <= self._expired_at:
            return 0
        self._expired_at = self.closed
        return self.expire()

    def expire(self) -> int:
        """Lets go of the sessions that have ended; those with something in flight wait. Returns how many."""
        gone = [
            session
            for session, known in self._sessions.items()
            if session[0] == CLIENT_SESSION and self._expired(session, self.closed) and not known.pending
        ]
        for session in gone:
            del self._sessions[session]
        return len(gone)

    # Checkpoints: one row per session ------------------------------------------------------------------------

    def rows(self) -> Iterator[tuple[bytes, int, int, list[tuple[int, int, int, bytes | None]]]]:
        """(session, lowest, highest, [(first, last, epoch, versions as packed u64 or None)])."""
        for session, known in self._sessions.items():
            runs = [
                (
                    run.first,
                    run.last,
                    int(run.epoch),
                    None if run.versions is None else struct.pack(f"<{len(run.versions)}Q", *run.versions),
                )
                for run in known.runs
            ]
            yield session, known.lowest, known.highest, runs

    def load(
        self, session: bytes, lowest: int, highest: int, runs: Sequence[tuple[int, int, int, bytes | None]]
    ) -> None:
        known = self._sessions[session] = Session()
        if session_kind(session) == NAMED_SESSION:
            self._named[session] = None
        known.lowest, known.highest = lowest, highest
        for first, last, epoch, packed in runs:
            count = last - first + 1
            if packed is not None and len(packed) != 8 * count:
                raise FormatError("a checkpoint's session run has the wrong number of versions")
            known.runs.append(
                Run(first, last, Epoch(epoch), None if packed is None else struct.unpack(f"<{count}Q", packed))
            )
