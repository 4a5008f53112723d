"""What a trigger can look at besides the write: state of the same partition, reference maps, time, seeded randomness.

A look-up sees everything that came before it in the partition: durable or in flight, earlier in this frame, and this
write itself. What was routed here from another partition sees the partition as of its epoch (rule X6). Reference maps
are read as of one closed epoch, that of the frame.

Maps that receive outputs are not there to be looked up: an output of the same epoch may still be on its way to them,
so what a trigger would see were a matter of chance. What depends on their state is a Merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from msgspec import UNSET
from tidegrid.grid.model.errors import TriggerModuleError, UnknownMapError, WrongKindError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.maps import MapKind
from tidegrid.grid.model.values import decode_value
from tidegrid.triggers.bound import BoundMap, same_partition
from tidegrid.triggers.decoded import DecodedValues, LookedUp
from tidegrid.triggers.seeded import SeededRandom, WriteName
from tidegrid.triggers.write import Write


class FrameContext(NamedTuple):
    """The facts of a frame that its triggers may see. `ref_epoch`: reference maps are read as of it."""

    partition: PartitionId
    epoch: Epoch
    time_ms: int
    ref_epoch: Epoch
    seed: int


class State(Protocol):
    """What the engine lends to a session."""

    def get(self, map_name: str, key: bytes, /) -> bytes | None:
        """The value of a direct map in this partition, with frames in flight and this frame; None: absent."""
        ...

    def reference(self, map_name: str, key: bytes, /) -> bytes | None:
        """The value as of the frame's reference epoch; None: absent."""
        ...


class Context:
    """The second argument of a trigger, here called `grid`. Valid until the trigger returns."""

    __slots__ = (
        "_decoded",
        "_frame",
        "_looked_up",
        "_maps",
        "_random",
        "_root",
        "_state",
        "_write",
        "epoch",
        "time_ms",
    )

    epoch: Epoch
    time_ms: int
    _write: Write
    _root: tuple[BoundMap, bytes, bytes | None, WriteName]

    def __init__(
        self,
        frame: FrameContext,
        state: State,
        maps: Mapping[str, BoundMap],
        looked_up: Mapping[str, LookedUp],
        decoded: DecodedValues,
    ) -> None:
        self.epoch = frame.epoch
        self.time_ms = frame.time_ms
        self._frame = frame
        self._state = state
        self._maps = maps
        self._looked_up = looked_up
        self._decoded = decoded
        self._random: SeededRandom | None = None

    def get(self, map: str, key: Any) -> Any:
        """The value of `key` in a table or reference map, or None. `key` is a tuple, or a scalar for a key of one.

        Tables are those that clients write, on keys of the write's own partition. Values of reference maps are read-only: copy one to
        change it. Raises UnknownMapError, WrongKindError (a stream has no state), InvalidKeyError, and
        TriggerModuleError for a key of another partition.
        """
        looked_up = self._looked_up.get(map)
        if looked_up is not None:
            value = looked_up.get(key, UNSET) if type(key) is str else UNSET
            return value if value is not UNSET else self._look_up(looked_up, map, key)
        source = self._maps.get(map)
        if source is None:
            raise UnknownMapError.of(map, self._maps)
        if source.kind is MapKind.STREAM:
            raise WrongKindError(
                f"map {map!r} is a stream and keeps no state to look up; keep what you need in a table",
                map=map,
                kind="stream",
            )
        if source.spec.derived:
            raise unreadable(f"grid.get({map!r}, ...)", map)
        write = self._write
        if key is write._key and same_partition(source.spec, write._source.spec):
            encoded = write._key_bytes
        else:
            encoded = encode_key(key)
            partition = source.partition_of(encoded)
            if partition != self._frame.partition:
                raise _out_of_reach(map, key, partition, self._frame.partition)
        raw = self._latest(map, encoded)
        return decode_value(raw) if raw is not None else None

    @property
    def random(self) -> SeededRandom:
        """Random numbers that come out the same when this write is replayed."""
        if self._random is None:
            source, key, _, (origin, number) = self._root
            frame = self._frame
            facts = f"{frame.seed}/{frame.partition}/{frame.epoch}/{source.name}/{number}/{len(origin)}/"
            self._random = SeededRandom(facts.encode() + origin + key)
        return self._random

    def stored(self, source: BoundMap, key: bytes) -> bytes | None:
        """The value before this write, as bytes."""
        if source.spec.derived:
            raise unreadable("write.previous", source.name)
        return self._state.get(source.name, key)

    def _look_up(self, looked_up: LookedUp, map: str, key: Any) -> Any:
        raw = self._state.reference(map, encode_key(key))
        value = self._decoded[raw] if raw is not None else None
        if type(key) is str:
            looked_up.keep(key, value)
        return value

    def _latest(self, map: str, key: bytes) -> bytes | None:
        root, root_key, root_value, _ = self._root
        if key == root_key and map == root.name:
            return root_value
        return self._state.get(map, key)


def unreadable(what: str, map: str) -> TriggerModuleError:
    return TriggerModuleError(
        f"{what} asks for the state of {map!r}, a map that receives outputs: others may be on their way to it. Look up maps "
        "that clients write, or emit a Merge, which is folded into the state where it is",
        map=map,
        rule="derived-lookup",
    )


def _out_of_reach(map: str, key: object, partition: int, own: int) -> TriggerModuleError:
    return TriggerModuleError(
        f"grid.get({map!r}, {key!r}): that key is in partition {partition}, this write in partition {own}; look-ups reach only "
        "keys of the same partition: declare the map as a reference, or place both by the same elements of their keys (affinity=)",
        map=map,
        partition=partition,
        own=own,
    )
