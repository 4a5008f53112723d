"""A worker process: it runs triggers that are not to run in the node.

    started with an empty environment and one pipe --Load--> limits are drawn tight --Run ... Done--> --Run ... Done--> ...

It is a fresh process, not a fork, so nothing of the node's memory is in it; it holds no file descriptor but the pipe,
which is its standard input. Once the code is loaded it can open no file and no socket, start no process, write no file,
and have no more memory than it was given. Nothing here is trusted by the node: it checks what it is told, and kills a
worker that is late. What is not fenced off is said in docs/isolation.md.

Run as a program by the pool (pool.py): `python -I -c BOOT path...`, with the module search path as arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import socket
import sys
import time
from typing import Final, NoReturn

from tidegrid.grid.model.errors import GridError
from tidegrid.grid.runtime.worker_messages import (
    LENGTH_BYTES,
    Done,
    Found,
    Load,
    Loaded,
    LookUp,
    Rows,
    Run,
    ToNode,
    ToWorker,
    Unfit,
    decode_at_worker,
    framed,
)
from tidegrid.triggers.batch import Answer, decode_code
from tidegrid.triggers.batch_run import run
from tidegrid.triggers.blame import text_of
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime

BOOT: Final = "import sys; sys.path[:] = sys.argv[2:]; from tidegrid.grid.runtime.worker import main; main()"
CPU_SECONDS: Final = 900  # of one process; it ends by itself well before
CPU_SECONDS_SPENT: Final = 600
_LATER: Final = ("_strptime", "encodings.idna", "unicodedata", "zoneinfo", "traceback")  # imported on first use
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


class Pipe:
    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def send(self, message: ToNode) -> None:
        self._socket.sendall(framed(message))

    def receive(self) -> ToWorker:
        size = int.from_bytes(self._exactly(LENGTH_BYTES), "big")
        said: ToWorker = decode_at_worker(self._exactly(size))
        return said

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                _leave()
            data += part
        return bytes(data)


class Worker:
    def __init__(self, pipe: Pipe, load: Load) -> None:
        """Raises whatever the code of a deployment may raise while it is loaded."""
        code = decode_code(load.code)
        maps = {spec.name: spec for spec in code.maps}
        self._limits = code.limits
        self._runtime = TriggerRuntime(load_modules(code.modules, maps), maps, code.partitions, code.limits)
        self._pipe = pipe

    def run(self, order: Run) -> None:
        begun = told = time.monotonic()
        batch, pipe, tell_after = order.batch, self._pipe, order.batch.budget / 4
        first = True

        def go_on(answer: Answer) -> Answer | None:
            nonlocal told, first
            now = time.monotonic()
            if not batch.whole and not first and now - begun > order.pause:
                return None
            first = False
            if order.one_by_one or now - told > tell_after:
                pipe.send(Rows(answer))
                told, answer = now, Answer()
            return answer

        def look_up(map_name: str, key: bytes, reference: bool) -> bytes | None:
            pipe.send(LookUp(map_name, key, reference))
            found = pipe.receive()
            return found.value if isinstance(found, Found) else _leave()

        answer = run(self._runtime, batch, self._limits, look_up, go_on, order.begin)
        spent = time.process_time() > CPU_SECONDS_SPENT or any(
            "MemoryError" in r.reason for r in answer.refusals.values()
        )
        pipe.send(Done(answer, spent))
        if spent:
            _leave()


def main() -> None:
    """`sys.argv[1]`: how many bytes of address space it may have."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node tells its workers when to end
    _die_with_the_node()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, int(sys.argv[1]))
    _limit(resource.RLIMIT_CPU, CPU_SECONDS)
    pipe = Pipe(0)
    load = pipe.receive()
    assert isinstance(load, Load)
    for name in _LATER:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    try:
        worker = Worker(pipe, load)
    except BaseException as error:
        pipe.send(Unfit(error.message if isinstance(error, GridError) else text_of(error)))
        _leave()
    _shut_in()
    pipe.send(Loaded())
    while True:
        order = pipe.receive()
        assert isinstance(order, Run)
        worker.run(order)


def _shut_in() -> None:
    """From here on nothing is opened, started or written."""
    for descriptor in (1, 2):
        os.close(descriptor)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_NOFILE, 1)


def _limit(what: int, value: int) -> None:
    _, highest = resource.getrlimit(what)
    if highest != resource.RLIM_INFINITY:
        value = min(value, highest)
    resource.setrlimit(what, (value, value))


def _die_with_the_node() -> None:
    """Where the system can do that (Linux): else a worker ends when it next waits for the node."""
    with contextlib.suppress(OSError, AttributeError):
        system = ctypes.CDLL(None)
        system.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        system.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _leave() -> NoReturn:
    """At once: authors' code gets no say in it."""
    os._exit(0)
