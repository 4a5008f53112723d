"""One table: the versions of one map's keys in one partition, as a view of the log.

Writes come in as the columns of a frame, once it is durable. Reads are of the latest version, or as of an epoch,
which sees the newest version with an effective epoch at or below it. Late versions (a smaller effective epoch than
what is there) go where they belong. `reclaim` drops what no read at or above the horizon can see.

A delete is a version, a *tombstone*: it counts in the numbering. One that is alone and has lain below the horizon
for `tombstone_epochs` goes too, and the next put of that key is version 1 again; so `tombstone_epochs` is at least
the life of a session (Limits.session_epochs), and no retry of an old write meets a number that it has seen before.
A table that is filled from the log again meets that version 1 on top of the tombstone, and lets go of it then: hence
`horizon`, which must be that of whoever numbered what is applied, or a later one.

Memory, measured by `python -m bench memory`: about 190 bytes a key with one version, beside the bytes of key and value.

Invariants (all in `_check`): an entry is one version, or a list of two or more in strict order; `_superseded` notes
(effective epoch, key) of every version that has another below it or is a tombstone; counters equal a recount; no two versions of a key that are held have one number.
Prior art: multi-version stores from PostgreSQL to Hekaton, with the newest version in place.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, KeysView, Sequence
from itertools import repeat
from typing import Final

from tidegrid.grid.model.errors import EpochTooOldError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.due import DueKeys
from tidegrid.grid.store.ordered import OrderedKeys
from tidegrid.grid.store.version import (
    DELETE,
    PUT,
    VERSION_OVERHEAD_BYTES,
    Entry,
    Version,
    order_of,
    stamp_of,
    version_as_of,
    weight_of,
)

Row = tuple[bytes, Version]

_NO_HORIZON: Final = Epoch(0)
_BEFORE_ALL: Final[Stamp] = (Epoch(0), Position(0), 0)


class Table:
    __slots__ = (
        "_dead",
        "_entries",
        "_highest",
        "_newest",
        "_ordered",
        "_superseded",
        "_tombstones",
        "history_bytes",
        "horizon",
        "tombstone_epochs",
        "version_count",
    )

    def __init__(self, tombstone_epochs: int = 1 << 20, horizon: Epoch = _NO_HORIZON) -> None:
        self.tombstone_epochs = tombstone_epochs
        self.horizon = horizon
        self.version_count = 0
        self.history_bytes = 0  # of superseded versions
        self._entries: dict[bytes, Entry] = {}
        self._highest: dict[bytes, int] = {}  # numbers of late versions above that of the newest
        self._dead = 0  # keys whose latest version is a tombstone
        self._newest = _BEFORE_ALL
        self._ordered: OrderedKeys | None = None
        self._superseded = DueKeys()
        self._tombstones = DueKeys()  # lone ones at or below the horizon

    @property
    def entry_count(self) -> int:
        """Keys held, deleted ones included."""
        return len(self._entries)

    @property
    def live_count(self) -> int:
        """Keys whose latest version is no tombstone."""
        return len(self._entries) - self._dead

    # Writes ------------------------------------------------------------------------------------------------------

    def apply(
        self, keys: Sequence[bytes], values: Sequence[bytes], ops: bytes, versions: Sequence[int], stamp: Stamp
    ) -> None:
        """The columns of one section, `ops` being PUT or DELETE. About 0.25 us a new key, 0.5 an overwritten one."""
        assert len(keys) == len(values) == len(ops) == len(versions)
        if stamp < self._newest or ops.count(PUT) != len(ops):
            for key, value, op, version in zip(keys, values, ops, versions, strict=True):
                self.insert(key, None if op == DELETE else value, version, stamp)
            return
        self._newest = stamp
        entries = self._entries
        if self._ordered is not None:
            self._ordered.add([key for key in dict.fromkeys(keys) if key not in entries])
        superseded: list[bytes] = []
        history_bytes = 0
        setdefault = entries.setdefault
        for key, new in zip(keys, zip(values, versions, repeat(stamp)), strict=False):
            entry = setdefault(key, new)
            if entry is new:
                continue
            latest = entry[-1] if isinstance(entry, list) else entry
            if latest[1] >= new[1]:
                self.insert(key, *new)
                self.version_count -= 1
                continue
            if isinstance(entry, list):
                entry.append(new)
            else:
                entries[key] = [entry, new]
            superseded.append(key)
            if latest[0] is None:
                self._dead -= 1
            else:
                history_bytes += len(latest[0])
        self.version_count += len(keys)
        if self._highest:
            for key, version in zip(keys, versions, strict=True):
                if self._highest.get(key, version) < version:
                    del self._highest[key]
        if superseded:
            self.history_bytes += history_bytes + VERSION_OVERHEAD_BYTES * len(superseded)
            self._superseded.note_all(stamp[0], superseded)

    def insert(self, key: bytes, value: bytes | None, version: int, stamp: Stamp) -> None:
        """One version, wherever it belongs; None deletes. O(1) for the newest of its key, else O(versions)."""
        effective = stamp[0]
        if stamp > self._newest:
            self._newest = stamp
        new: Version = (value, version, stamp)
        self.version_count += 1
        entry = self._entries.get(key)
        if entry is not None and version == 1:
            latest = entry[-1] if isinstance(entry, list) else entry
            if latest[2] < stamp and self._may_go(latest):
                self._forget(key)
                entry = None
        if entry is None:
            self._entries[key] = new
            if self._ordered is not None:
                self._ordered.add((key,))
            if value is None:
                self._dead += 1
                self._superseded.note(effective, key)
            return
        chain = entry if isinstance(entry, list) else [entry]
        at = len(chain) if chain[-1][2] < stamp else bisect_right(chain, (stamp, version), key=order_of)
        assert at == 0 or order_of(chain[at - 1]) != (stamp, version), "a version is applied once"
        newest = chain[-1]
        if at == len(chain):
            self._dead += (value is None) - (newest[0] is None)
            self.history_bytes += weight_of(newest)
        else:
            self.history_bytes += weight_of(new)
            if at == 0 and chain[0][0] is not None:  # it has one below it now
                self._superseded.note(chain[0][2][0], key)
        if at or value is None:
            self._superseded.note(effective, key)
        chain.insert(at, new)
        self._entries[key] = chain
        highest = max(version, newest[1], self._highest.get(key, 0))
        if highest > chain[-1][1]:
            self._highest[key] = highest
        else:
            self._highest.pop(key, None)

    def replace(self, key: bytes, value: bytes | None, version: int, stamp: Stamp) -> None:
        """Another value for a version that is here, above the horizon (merged.py). O(log versions)."""
        entry = self._entries[key]
        chain = entry if isinstance(entry, list) else [entry]
        at = bisect_left(chain, (stamp, version), key=order_of)
        old, new = chain[at], (value, version, stamp)
        assert order_of(old) == (stamp, version), "only a version that is here has another value"
        if at == len(chain) - 1:
            self._dead += (value is None) - (old[0] is None)
        else:
            self.history_bytes += weight_of(new) - weight_of(old)
        if value is None and at == 0:
            self._superseded.note(stamp[0], key)
        if isinstance(entry, list):
            chain[at] = new
        else:
            self._entries[key] = new

    def load(
        self, keys: Sequence[bytes], values: Sequence[bytes | None], versions: Sequence[int], stamps: Sequence[Stamp]
    ) -> None:
        """Columns of a checkpoint: keys that are not here yet, with their only versions; None deletes. 0.2 us a key.

        Keys with several versions come by `insert`. The versions of one frame should share its stamp.
        """
        assert len(keys) == len(values) == len(versions) == len(stamps)
        entries = self._entries
        before = len(entries)
        entries.update(zip(keys, zip(values, versions, stamps, strict=True), strict=True))
        assert len(entries) - before == len(keys), "a checkpoint has each key once"
        self.version_count += len(keys)
        self._ordered = None
        seen: Stamp | None = None
        for key, value, stamp in zip(keys, values, stamps, strict=True):
            if stamp is not seen:
                seen = stamp
                self._newest = max(self._newest, stamp)
            if value is None:
                self._dead += 1
                self._superseded.note(stamp[0], key)

    # Reads -------------------------------------------------------------------------------------------------------

    def latest(self, key: bytes) -> Version | None:
        """May be a tombstone. O(1)."""
        entry = self._entries.get(key)
        return entry[-1] if isinstance(entry, list) else entry

    def latest_version(self, key: bytes) -> int:
        """The number that the next version goes on from, a tombstone's too; 0 when there is none. O(1), about 0.1 us."""
        if self._highest and key in self._highest:
            return self._highest[key]
        entry = self._entries.get(key)
        if entry is None:
            return 0
        return entry[-1][1] if isinstance(entry, list) else entry[1]

    def latest_versions(self, keys: Sequence[bytes]) -> list[int]:
        """`latest_version` of each, in one go."""
        if self._highest:
            return [self.latest_version(key) for key in keys]
        entries = map(self._entries.get, keys)
        return [0 if entry is None else entry[-1][1] if isinstance(entry, list) else entry[1] for entry in entries]

    def as_of(self, key: bytes, epoch: Epoch) -> Version | None:
        """What readers as of `epoch` see; may be a tombstone. O(log versions). Raises EpochTooOldError."""
        if epoch < self.horizon:
            raise EpochTooOldError.of(epoch, self.horizon)
        entry = self._entries.get(key)
        return None if entry is None else version_as_of(entry, epoch)

    def keys(self) -> KeysView[bytes]:
        """Keys held, deleted ones included, in no order."""
        return self._entries.keys()

    def chain(self, key: bytes) -> list[Version]:
        """The versions in memory, oldest first. O(versions)."""
        entry = self._entries.get(key)
        if entry is None:
            return []
        return list(entry) if isinstance(entry, list) else [entry]

    def scan(
        self, begin: bytes, end: bytes | None, as_of: Epoch | None, rows_max: int, reverse: bool = False
    ) -> tuple[list[Row], bool]:
        """Live rows with keys in [begin, end) in key order, and whether there are more. None: no end; the latest.

        O(log n + keys passed, deleted ones too); the first scan sorts the keys, O(n log n). Raises EpochTooOldError.
        """
        assert rows_max > 0
        if as_of is not None and as_of < self.horizon:
            raise EpochTooOldError.of(as_of, self.horizon)
        if self._ordered is None:
            self._ordered = OrderedKeys(self._entries)
        entries = self._entries
        rows: list[Row] = []
        for key in self._ordered.between(begin, end, reverse):
            entry = entries[key]
            if as_of is not None:
                version = version_as_of(entry, as_of)
            else:
                version = entry[-1] if isinstance(entry, list) else entry
            if version is None or version[0] is None:
                continue
            if len(rows) == rows_max:
                return rows, True
            rows.append((key, version))
        return rows, False

    def slices(
        self, position: Position, rows_max: int, closed: Epoch = _NO_HORIZON
    ) -> Iterator[list[tuple[bytes, list[Version]]]]:
        """For a checkpoint: every key with its versions from records up to `position`, in slices of bounded size.

        And with those at or below `closed`, all of which are here: regenerated ones may have the positions of other logs.
        Writes and reclaim may go on between slices: with the records after `position` on top, the same reads come out.
        O(n) at the call, which notes the keys (8 bytes each), then O(versions) a slice.
        """
        return self._slices(list(self._entries), position, rows_max, closed)

    def _slices(
        self, keys: list[bytes], position: Position, rows_max: int, closed: Epoch
    ) -> Iterator[list[tuple[bytes, list[Version]]]]:
        for first in range(0, len(keys), rows_max):
            rows: list[tuple[bytes, list[Version]]] = []
            for key in keys[first : first + rows_max]:
                entry = self._entries.get(key)
                if isinstance(entry, list):
                    versions = [version for version in entry if version[2][1] <= position or version[2][0] <= closed]
                    if versions:
                        rows.append((key, versions))
                elif entry is not None and (entry[2][1] <= position or entry[2][0] <= closed):
                    rows.append((key, [entry]))
            if rows:
                yield rows

    def as_of_slices(self, epoch: Epoch, rows_max: int) -> Iterator[list[Row]]:
        """Live rows as of a closed epoch, in no order, for a snapshot that writes go on beside.

        O(n) at the first slice, which notes the keys. Raises EpochTooOldError once the horizon has passed `epoch`.
        """
        keys = list(self._entries)
        for first in range(0, len(keys), rows_max):
            if epoch < self.horizon:
                raise EpochTooOldError.of(epoch, self.horizon)
            rows: list[Row] = []
            for key in keys[first : first + rows_max]:
                entry = self._entries.get(key)
                version = version_as_of(entry, epoch) if entry is not None else None
                if version is not None and version[0] is not None:
                    rows.append((key, version))
            if rows:
                yield rows

    # Reclaim -----------------------------------------------------------------------------------------------------

    def reclaim(self, horizon: Epoch, budget: int) -> int:
        """Drops what reads at or above `horizon` cannot see, in at most `budget` steps.

        A step looks at a key, or drops one version. Returns the steps: fewer than `budget` means that nothing is
        left. The horizon never falls: a table that came from a checkpoint may be further than its owner.
        """
        self.horizon = horizon = max(self.horizon, horizon)
        steps = 0
        for key in self._superseded.take(horizon, budget):
            steps += self._trim(key, budget - steps)
            if steps >= budget:
                return steps
        for key in self._tombstones.take(Epoch(horizon - self.tombstone_epochs), budget - steps):
            steps += 1
            self._bury(key)
        return steps

    def _trim(self, key: bytes, budget: int) -> int:
        """Drops at most `budget` versions, the oldest first; every one that stays is noted still. Returns the steps."""
        entry = self._entries.get(key)
        steps = 1
        if isinstance(entry, list):
            unseen = bisect_left(entry, (self.horizon + 1,), key=stamp_of) - 1
            if unseen > 0:
                steps = min(unseen, budget)
                self.history_bytes -= sum(map(weight_of, entry[:steps]))
                self.version_count -= steps
                del entry[:steps]  # what stays moves up: 0.3 ms for a million versions
            if len(entry) > 1:
                return steps
            entry = self._entries[key] = entry[0]
        if entry is not None and entry[0] is None and entry[2][0] <= self.horizon:
            self._tombstones.note(entry[2][0], key)
        return steps

    def _bury(self, key: bytes) -> None:
        entry = self._entries.get(key)
        if entry is not None and not isinstance(entry, list) and self._may_go(entry):
            self._forget(key)

    def _may_go(self, latest: Version) -> bool:
        return latest[0] is None and latest[2][0] <= self.horizon - self.tombstone_epochs

    def _forget(self, key: bytes) -> None:
        """A key whose latest version is a tombstone, with all that is below it."""
        chain = self.chain(key)
        del self._entries[key]
        self._highest.pop(key, None)
        self._dead -= 1
        self.version_count -= len(chain)
        self.history_bytes -= sum(map(weight_of, chain[:-1]))
        if self._ordered is not None:
            self._ordered.discard(key)

    def _check(self) -> None:
        """Asserts every invariant. O(everything)."""
        dead = versions = history_bytes = 0
        needed: set[tuple[Epoch, bytes]] = set()
        buried: set[tuple[Epoch, bytes]] = set()
        newest = _BEFORE_ALL
        for key, entry in self._entries.items():
            assert not isinstance(entry, list) or len(entry) > 1, "one version is held in the dense form"
            chain = self.chain(key)
            order = [order_of(version) for version in chain]
            assert order == sorted(set(order)), "a chain is in strict order"
            numbers = [number for _, number, _ in chain]
            assert max(numbers) <= self.latest_version(key), "the next version has a number that is there"
            versions += len(chain)
            history_bytes += sum(map(weight_of, chain[:-1]))
            dead += chain[-1][0] is None
            newest = max(newest, chain[-1][2])
            for at, (value, _, stamp) in enumerate(chain):
                if at or (value is None and stamp[0] > self.horizon):
                    needed.add((stamp[0], key))
            if len(chain) == 1 and chain[0][0] is None and chain[0][2][0] <= self.horizon:
                buried.add((chain[0][2][0], key))
        assert dead == self._dead and versions == self.version_count and history_bytes == self.history_bytes
        assert newest <= self._newest
        noted = self._superseded._notes()
        assert needed <= noted, "what is superseded is noted"
        assert buried <= self._tombstones._notes() | noted, "a tombstone is noted until it goes"
        self._superseded._check()
        self._tombstones._check()
        if self._ordered is not None:
            self._ordered._check(self._entries)
