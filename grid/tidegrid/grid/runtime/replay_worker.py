"""A worker process of a regeneration: `python -m tidegrid.grid.runtime.replay_worker`, spoken to over its pipes.

    in      [directory of the log, plan, nice, share, rate], then tasks [partition, depth, needs]
    out     ["progress", bytes, writes] now and then; then for each task ["made", tally, targets], ["differs", {map: ...}],
            ["based"], ["bytes", {partition: bytes}] or ["failed", tidegrid.v1.Error]

Each message is its length (u32, little endian) and msgpack. It reads the log directory, which the node goes on writing
to, and writes pieces. When its input ends it is gone at once: nobody waits for it any more.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, Final

import msgspec
from tidegrid.grid.journal.files import FULL_ERRORS, PosixFiles
from tidegrid.grid.journal.reading import LogReader
from tidegrid.grid.model.error_message import error_message
from tidegrid.grid.model.errors import GridError, PeerError, StorageFullError
from tidegrid.grid.runtime.bases import Bases
from tidegrid.grid.runtime.pacing import Pacer
from tidegrid.grid.runtime.replay_plan import DIRECTORY, ReplayPlan
from tidegrid.grid.runtime.replay_work import BASE, COMPARE, MEASURE, ReplayWork, Task
from tidegrid.grid.runtime.standing_back import NICEST, short_rests, stand_back

LENGTH: Final = Struct("<I")


def encode(message: Any) -> bytes:
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


def serve(source: BinaryIO, out: BinaryIO) -> None:
    inbox = _Inbox(source)
    lock = threading.Lock()

    def say(message: Any) -> None:
        with lock:
            out.write(encode(message))
            out.flush()

    directory, plain, nice, share, rate = inbox.take()
    stand_back(nice)
    rests = short_rests if nice == NICEST else nullcontext
    gc.set_threshold(50_000, 20, 1_000)  # what is made here lives until its chunk is written, and is in no circle
    plan = ReplayPlan.of_plain(plain)
    pacer = Pacer(lambda size, writes: say(["progress", size, writes]), share, rate)
    work: ReplayWork | None = None
    while True:
        partition, depth, needs = inbox.take()
        task = Task(partition, depth, tuple(needs))
        try:
            if work is None:
                files = PosixFiles(os.path.join(directory, DIRECTORY, plan.name))
                work = ReplayWork(plan, LogReader(PosixFiles(directory)), Bases(Path(directory)), files, pacer)
            with rests():
                answer = do(work, task)
        except GridError as error:
            answer = ["failed", error_message(error).SerializeToString()]
        except OSError as error:
            problem = StorageFullError if error.errno in FULL_ERRORS else PeerError
            text = f"a worker process could not go on: {error}"
            answer = ["failed", error_message(problem(text)).SerializeToString()]
        pacer.flush()
        say(answer)


def do(work: ReplayWork, task: Task) -> list[Any]:
    if task.depth == BASE:
        work.base(task)
        return ["based"]
    if task.depth == COMPARE:
        return ["differs", {name: found.plain() for name, found in work.compare(task).items()}]
    if task.depth == MEASURE:
        return ["bytes", work.measure()]
    made = work.replay(task)
    return ["made", made.tally.plain(), list(made.targets)]


class _Inbox:
    """Reads ahead in a thread, so that the end of the input is noticed in the midst of a task."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._messages: list[Any] = []
        self._arrived = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            head = self._source.read(LENGTH.size)
            body = self._source.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""
            if not body:
                os._exit(0)
            with self._arrived:
                self._messages.append(msgspec.msgpack.decode(body))
                self._arrived.notify()

    def take(self) -> Any:
        with self._arrived:
            while not self._messages:
                self._arrived.wait()
            return self._messages.pop(0)


if __name__ == "__main__":
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a trigger module prints is no message
    serve(sys.stdin.buffer, pipe)
