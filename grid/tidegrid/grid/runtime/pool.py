"""Worker processes for the triggers of the nodes of one process (worker.py): started when there is work, kept while their
code is in force, killed when they are late, and started anew.

    batch --> wait for a worker of its code --> run --Done--> the node has its answer
                                                 |--late, or lost--> killed; run again row by row, from where it got to
                                                                      |--late, or lost--> that row has failed

So a row that loops costs its budget, and up to a quarter more, twice over, and a new process each time; meanwhile the
epoch of its frame is not closed. Other rows of its batch are not harmed: what the lost worker had told counts, and the
rest is run again (triggers are pure). A batch stops after `PAUSE_SECONDS` at the next row, and the rest of it comes in the
next frame, so that time is not held up by many rows that are slow and within their budget.

`run` never raises: that no worker can be started, or that the code does not load in one, is an answer, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from tidegrid.grid.engine.effects import RunBatch
from tidegrid.grid.engine.made import Ending, Part
from tidegrid.grid.engine.making import BatchDone
from tidegrid.grid.model.errors import ConfigurationError, GridError, UnavailableError
from tidegrid.grid.runtime.worker import BOOT
from tidegrid.grid.runtime.worker_messages import (
    LENGTH_BYTES,
    MESSAGE_BYTES_MAX,
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
    decode_at_node,
    framed,
)
from tidegrid.triggers.batch import Answer

PAUSE_SECONDS: Final = 0.1
GRACE_SECONDS: Final = 0.25  # for a machine that is busy
START_SECONDS: Final = 30.0
LOST_MAX: Final = 3  # workers, with rows that are to blame, before the rest of a delivery is given up
LAST_LOOK_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0  # after a worker that could not be started
_ENVIRONMENT: Final = {"LANG": "C.UTF-8"}

_log = logging.getLogger(__name__)

LookUpAnswer = Callable[[str, bytes, bool], bytes | None]


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    count: int = 2  # processes at most, for all nodes of this process; more compute more partitions at once
    bytes_max: int = 512 * 1024 * 1024  # of address space each: what a trigger that goes wild can take

    def validate(self) -> WorkerOptions:
        """Returns itself. Raises ConfigurationError."""
        if not 1 <= self.count <= 256:
            raise ConfigurationError(f"workers is {self.count}; it lies between 1 and 256")
        if self.bytes_max < 256 * 1024 * 1024:
            raise ConfigurationError(
                f"worker_bytes_max is {self.bytes_max:,}; Python and msgpack need 256 MiB at least"
            )
        return self


class WorkerLostError(Exception):
    """Late (`late`), or gone; a word between the functions of this file. `why` is for people."""

    def __init__(self, why: str, *, late: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.late = late


class Worker:
    """One process, with its code loaded, and our end of its pipe."""

    def __init__(
        self, code: bytes, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.code = code
        self.process = process
        self._reader = reader
        self._writer = writer
        self._size: int | None = None  # of the message whose body has not come yet

    @classmethod
    async def start(cls, code: bytes, options: WorkerOptions) -> Worker:
        """Raises UnavailableError."""
        process, ours = _spawn(options)
        try:
            ours.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException as error:
            process.kill()
            process.wait()
            ours.close()
            if isinstance(error, OSError):
                raise _unstarted(error) from None
            raise
        worker = cls(code, process, reader, writer)
        try:
            await worker.send(Load(code))
            said = await worker.receive(START_SECONDS)
        except WorkerLostError as lost:
            worker.kill()
            raise UnavailableError(
                f"a worker process for triggers ended while it started: {lost.why}", address=""
            ) from None
        except BaseException:
            worker.kill()
            raise
        if not isinstance(said, Loaded):
            worker.kill()
            why = said.why if isinstance(said, Unfit) else "it does not make sense"
            raise UnavailableError(f"the deployed code does not load in a worker process: {why}", address="")
        return worker

    async def send(self, message: ToWorker) -> None:
        self._writer.write(framed(message))
        with contextlib.suppress(ConnectionError):  # reading says it better
            await self._writer.drain()

    async def receive(self, seconds: float) -> ToNode:
        """Raises WorkerLostError."""
        try:
            try:
                async with asyncio.timeout(max(0.0, seconds)):
                    return await self._message()
            except TimeoutError:  # it may be this process that was late, with the message here
                async with asyncio.timeout(LAST_LOOK_SECONDS):
                    return await self._message()
        except TimeoutError:
            raise WorkerLostError("it is late", late=True) from None
        except (OSError, EOFError):
            self.kill()
            raise WorkerLostError(f"its worker process ended ({_ended(self.process.returncode)})") from None
        except msgspec.MsgspecError:
            raise WorkerLostError("its worker process said what makes no sense") from None

    async def _message(self) -> ToNode:
        """May be given up at any point, and asked for again."""
        if self._size is None:
            self._size = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
        if self._size > MESSAGE_BYTES_MAX:
            raise WorkerLostError("its worker process said more than can be taken")
        body = await self._reader.readexactly(self._size)
        self._size = None
        said: ToNode = decode_at_node(body)
        return said

    def kill(self) -> None:
        """For certain, and at once."""
        self._writer.close()
        self.process.kill()
        self.process.wait()


class Pool:
    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._idle: list[Worker] = []
        self._count = 0  # that live, or are being started
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._busy: set[Worker] = set()
        self._closed = False

    async def run(self, order: RunBatch, look_up: LookUpAnswer) -> BatchDone:
        """`look_up` answers from the node's memory."""
        batch, parts, begin, one_by_one = order.batch, list[Part](), 0, False
        try:
            for _ in range(1 + LOST_MAX):
                answers: list[Answer] = []
                run = Run(batch, begin, one_by_one, PAUSE_SECONDS)
                lost = await self._attempt(order, look_up, answers, run)
                rows = sum(len(answer.rows) for answer in answers)
                if lost is None or (batch.written and rows and not batch.whole):
                    return BatchDone(order.number, [*parts, Part(answers)])  # what is left comes in the next frame
                ending = Ending("" if lost.late else lost.why) if one_by_one else None
                if not batch.written:
                    parts.append(Part(answers, ending))
                    begin += rows + (ending is not None)
                elif one_by_one:
                    return BatchDone(order.number, [Part(answers, ending)])
                one_by_one = True
        except GridError as error:
            await asyncio.sleep(RETRY_SECONDS)
            return BatchDone(order.number, error=error)
        except Exception as error:  # a defect: what waits for the batch must not wait for ever
            _log.exception("a batch of triggers")
            await asyncio.sleep(RETRY_SECONDS)
            return BatchDone(order.number, error=GridError(f"worker processes for triggers: {error!r}"))
        return BatchDone(order.number, parts)

    async def _attempt(
        self, order: RunBatch, look_up: LookUpAnswer, answers: list[Answer], run: Run
    ) -> WorkerLostError | None:
        """Returns how the worker was lost, if it was. Raises UnavailableError."""
        worker = await self._taken(order.code)
        kept = False
        try:
            kept = await self._converse(worker, run, look_up, answers)
        except WorkerLostError as lost:
            return lost
        finally:
            self._give_back(worker, kept)
        return None

    async def _converse(self, worker: Worker, run: Run, look_up: LookUpAnswer, answers: list[Answer]) -> bool:
        """Whether the worker can go on after it. Raises WorkerLostError."""
        loop = asyncio.get_running_loop()
        patience = run.batch.budget * (1.0 if run.one_by_one else 1.25) + GRACE_SECONDS
        await worker.send(run)
        until = loop.time() + patience
        while True:
            match await worker.receive(until - loop.time()):
                case LookUp(map_name, key, reference):
                    await worker.send(Found(look_up(map_name, key, reference)))
                case Rows(answer):
                    answers.append(answer)
                    until = loop.time() + patience
                case Done(answer, spent):
                    answers.append(answer)
                    return not spent
                case _:
                    raise WorkerLostError("its worker process said what makes no sense")

    # Workers -----------------------------------------------------------------------------------------------------

    async def _taken(self, code: bytes) -> Worker:
        """A worker with this code: an idle one, else a new one, else the next that comes free. Raises UnavailableError."""
        while True:
            if self._closed:
                raise UnavailableError("the node is stopping", address="")
            self._bury()
            for worker in self._idle:
                if worker.code == code:
                    self._idle.remove(worker)
                    self._busy.add(worker)
                    return worker
            if self._count >= self._options.count and self._idle:
                self._idle.pop(0).kill()  # of code that is not asked for now
                self._count -= 1
            if self._count < self._options.count:
                self._count += 1
                try:
                    worker = await Worker.start(code, self._options)
                except BaseException:
                    self._freed()
                    raise
                self._busy.add(worker)
                return worker
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._wake()  # it was this one's turn, and now is another's
                raise

    def _bury(self) -> None:
        """Idle ones that somebody has killed, the machine for want of memory say: no row is to blame for that."""
        for worker in [worker for worker in self._idle if worker.process.poll() is not None]:
            self._idle.remove(worker)
            worker.kill()
            self._count -= 1

    def _give_back(self, worker: Worker, kept: bool) -> None:
        self._busy.discard(worker)
        if kept and not self._closed:
            self._idle.append(worker)
            self._wake()
        else:
            worker.kill()
            self._freed()

    def _freed(self) -> None:
        self._count -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def close(self) -> None:
        """Kills all of them."""
        self._closed = True
        for worker in (*self._idle, *self._busy):
            worker.kill()
        self._idle.clear()
        while self._waiting:
            self._wake()

    @property
    def processes(self) -> list[int]:
        """Of the workers that live."""
        return [worker.process.pid for worker in (*self._idle, *self._busy)]


def _spawn(options: WorkerOptions) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A process, and our end of its pipe. Takes some milliseconds. Raises UnavailableError."""
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:  # no more open files
        raise _unstarted(error) from None
    command = [sys.executable, "-I", "-c", BOOT, str(options.bytes_max), *sys.path]
    nothing = subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=nothing, stderr=nothing, env=_ENVIRONMENT)
    except OSError as error:
        ours.close()
        raise _unstarted(error) from None
    finally:
        theirs.close()
    return process, ours


def _unstarted(error: OSError) -> UnavailableError:
    return UnavailableError(f"no worker process could be started for triggers: {error}", address="")


def _ended(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
