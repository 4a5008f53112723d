"""A batch of writes for a worker process, and what came of them: columns, both ways, as msgpack.

    Code     what a worker needs to run the triggers of one deployment: sources, maps, limits
    Batch    rows of one partition and one frame, in order, with the facts that their triggers may see
    Answer   outputs and rejections of the rows that ran, in order; it may end before the batch does

A row that its condition, or its value, keeps out is not run, and the node finds the same without being told; so an
answer names its rows by number. What an answer says of outputs is checked where it arrives: its sender ran code that
is not trusted (engine/answered.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapSpec
from tidegrid.triggers.bound import Output, Routed
from tidegrid.triggers.context import FrameContext
from tidegrid.triggers.deployment import Deployment, Module
from tidegrid.triggers.rejection import Rejection


class Code(msgspec.Struct, frozen=True, array_like=True):
    modules: Sequence[Module]
    maps: Sequence[MapSpec]
    partitions: int
    limits: Limits


class Section(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Rows of one map. `versions`: of each key before the batch; of rows that were written long ago, their own; empty: 0.

    `origin` and `numbers` name the rows. `conditions`: by row of the section, the version that it expects, and whether its
    key has a value before the batch.
    """

    map: str
    schema: int
    depth: int
    keys: Sequence[bytes]
    values: Sequence[bytes]
    ops: bytes
    versions: Sequence[int]
    origin: bytes
    numbers: Sequence[int]
    conditions: Mapping[int, tuple[int, bool]] = {}


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`facts`: partition, epoch, wall time, reference epoch; `seed` may be a long number, which msgpack has not. `written`: rows change what later rows look up, and have
    version numbers. `suspended`: triggers that fail without being run, and why. `whole`: all of it, however long it takes.
    """

    facts: tuple[PartitionId, Epoch, int, Epoch]
    seed: str
    written: bool
    sections: Sequence[Section]
    budget: float
    suspended: Mapping[str, str] = {}
    whole: bool = False

    @property
    def frame(self) -> FrameContext:
        return FrameContext(*self.facts, int(self.seed))

    @property
    def rows(self) -> int:
        return sum(len(section.keys) for section in self.sections)


class Answer(msgspec.Struct, array_like=True, gc=False):
    """Columns by row (`rows`: their numbers in the batch), by output, and by output to another partition.

    `versions` are those that the rows were given to see. `counts`: outputs and routed outputs of each row. `names`: the
    maps that `maps` numbers. `refusals`: by place in `rows`.
    """

    rows: list[int] = msgspec.field(default_factory=list)
    versions: list[int] = msgspec.field(default_factory=list)
    counts: list[tuple[int, int]] = msgspec.field(default_factory=list)
    names: list[str] = msgspec.field(default_factory=list)
    maps: list[int] = msgspec.field(default_factory=list)
    ops: bytearray = msgspec.field(default_factory=bytearray)
    keys: list[bytes] = msgspec.field(default_factory=list)
    values: list[bytes | None] = msgspec.field(default_factory=list)
    places: list[tuple[int, int]] = msgspec.field(default_factory=list)
    refusals: dict[int, Rejection] = msgspec.field(default_factory=dict)

    def add(self, row: int, version: int, result: Sequence[Output] | Rejection, routed: Sequence[Routed]) -> None:
        if isinstance(result, Rejection):
            self.refusals[len(self.rows)] = result
            result, routed = (), ()
        self.rows.append(row)
        self.versions.append(version)
        self.counts.append((len(result), len(routed)))
        for output in result:
            self._add(output)
        for partition, depth, output in routed:
            self.places.append((partition, depth))
            self._add(output)

    def _add(self, output: Output) -> None:
        op, name, key, value = output
        if name not in self.names:
            self.names.append(name)
        self.maps.append(self.names.index(name))
        self.ops.append(op)
        self.keys.append(key)
        self.values.append(value)


def encode_code(deployment: Deployment, maps: Mapping[str, MapSpec], partitions: int, limits: Limits) -> bytes:
    return _encode(Code(list(deployment.modules), list(maps.values()), partitions, limits))


def decode_code(data: bytes) -> Code:
    return _decode_code(data)


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_code: Final = msgspec.msgpack.Decoder(Code).decode
