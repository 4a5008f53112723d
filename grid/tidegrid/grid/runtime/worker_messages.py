"""What a node and its worker processes say to each other, over the one pipe between them: messages in msgpack, each with
its length in four bytes before it.

    node -> worker   Load once, and answered with Loaded or Unfit; then Run, again and again
    worker -> node   LookUp while it runs, answered with Found; Rows now and then; Done at the end of a batch

A batch that a worker was lost with is run again with `one_by_one`: it says Rows after each row, so that the one that
cannot be got over is known.
"""

from __future__ import annotations

from typing import Final

import msgspec
from tidegrid.triggers.batch import Answer, Batch

LENGTH_BYTES: Final = 4
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024


class Load(msgspec.Struct, tag=True, array_like=True):
    """`code`: tidegrid.triggers.batch."""

    code: bytes


class Run(msgspec.Struct, tag=True, array_like=True):
    """`begin`: the first row to run. `pause`: after so many seconds it stops at the next row, unless the batch is to be run whole."""

    batch: Batch
    begin: int
    one_by_one: bool
    pause: float


class Found(msgspec.Struct, tag=True, array_like=True):
    value: bytes | None


class Loaded(msgspec.Struct, tag=True, array_like=True):
    pass


class Unfit(msgspec.Struct, tag=True, array_like=True):
    """The code does not load in a worker; `why` is for people."""

    why: str


class LookUp(msgspec.Struct, tag=True, array_like=True):
    map: str
    key: bytes
    reference: bool


class Rows(msgspec.Struct, tag=True, array_like=True):
    """What came of rows since the last one: the worker is between two rows."""

    answer: Answer


class Done(msgspec.Struct, tag=True, array_like=True):
    """The rest. `spent`: it ends now, and another worker has to take its place."""

    answer: Answer
    spent: bool


ToWorker = Load | Run | Found
ToNode = Loaded | Unfit | LookUp | Rows | Done

encode: Final = msgspec.msgpack.Encoder().encode
decode_at_worker: Final = msgspec.msgpack.Decoder(ToWorker).decode
decode_at_node: Final = msgspec.msgpack.Decoder(ToNode).decode


def framed(message: ToWorker | ToNode) -> bytes:
    body = encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body
