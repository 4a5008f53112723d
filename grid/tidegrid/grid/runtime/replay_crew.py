"""Who does the tasks of a regeneration: worker processes over a log directory, or a thread of this process.

A process that dies in the midst of a task is replaced, and the task is done again; one on which several have died is an
error. A grid in memory has no log that another process could read, so its work is done in a thread, through the log seam.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from tidegrid.grid.journal.files import PosixFiles
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.model.error_message import error_of
from tidegrid.grid.model.errors import ConfigurationError, PeerError, StoppingError
from tidegrid.grid.model.ids import LogId, Position
from tidegrid.grid.runtime.bases import Bases
from tidegrid.grid.runtime.pacing import Pacer
from tidegrid.grid.runtime.replay_plan import DIRECTORY, ReplayPlan
from tidegrid.grid.runtime.replay_work import ReplayWork, Task
from tidegrid.grid.runtime.replay_worker import LENGTH, do, encode
from tidegrid.v1 import errors_pb2

_DEATHS_MAX: Final = 3
_READ_BYTES: Final = 1 << 20
THREAD_SHARE_MAX: Final = 0.5  # of the interpreter, which the event loop needs as well

Tell = Callable[[int, int], None]
"""(bytes, writes) that were worked on since it was last told."""
Done = Callable[[Task, list[Any]], None]


@dataclass(frozen=True, slots=True)
class CrewOptions:
    """`workers` 0: one per core but one, which is left to the node. `nice`: of the processes. `share`: of the time that a worker works. `rate`: writes a second
    of all together, 0: as fast as they can."""

    workers: int = 0
    nice: int = 19
    share: float = 1.0
    rate: float = 0.0

    @property
    def words(self) -> str:
        """For people."""
        rate = f"{self.rate:g} writes/s" if self.rate else "as many writes/s as they can"
        return f"{self.workers or 'the usual'} workers of niceness {self.nice}, {self.share:.0%} of their time, {rate}"

    def validate(self) -> CrewOptions:
        """Returns itself. Raises ConfigurationError."""
        if not 0 <= self.workers <= 256:
            raise ConfigurationError(
                f"workers is {self.workers}; it lies between 1 and 256, or is 0: one per core but one"
            )
        if not 0 <= self.nice <= 19:
            raise ConfigurationError(f"nice is {self.nice}; it lies between 0 and 19")
        if not 0 < self.share <= 1:
            raise ConfigurationError(f"share is {self.share:g}; it lies above 0 and is at most 1")
        if not self.rate >= 0:
            raise ConfigurationError(f"rate is {self.rate:g}; give writes per second, or 0 for as fast as it goes")
        return self


class Crew(Protocol):
    async def work(self, tasks: Sequence[Task], done: Done, tell: Tell) -> None:
        """Returns when all tasks are done; `done` gets the answers (replay_worker.py). Raises GridError."""
        ...

    async def close(self) -> None:
        """Ends what is under way."""
        ...


class ProcessCrew:
    def __init__(self, directory: Path, plan: ReplayPlan, options: CrewOptions) -> None:
        self._directory = directory
        self._plan = plan
        self._options = options
        self._count = options.workers or max(1, (os.cpu_count() or 1) - 1)
        self._workers: list[_Worker] = []

    async def work(self, tasks: Sequence[Task], done: Done, tell: Tell) -> None:
        queue = deque(tasks)
        deaths: dict[Task, int] = {}

        async def run(at: int) -> None:
            while queue:
                worker = await self._worker(at)
                task = queue.popleft()
                try:
                    answer = await worker.do(task, tell)
                except EOFError:
                    await worker.close()
                    deaths[task] = deaths.get(task, 0) + 1
                    if deaths[task] >= _DEATHS_MAX:
                        raise PeerError(
                            f"{_DEATHS_MAX} worker processes have ended in the midst of partition {task.partition}; is there "
                            "enough memory? Fewer --workers need less",
                            partition=task.partition,
                        ) from None
                    queue.appendleft(task)
                    continue
                if answer[0] == "failed":
                    raise error_of(errors_pb2.Error.FromString(answer[1]))
                done(task, answer)

        try:
            async with asyncio.TaskGroup() as group:
                for at in range(min(self._count, len(tasks))):
                    group.create_task(run(at))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _worker(self, at: int) -> _Worker:
        while len(self._workers) <= at:
            self._workers.append(_Worker())
        worker = self._workers[at]
        if worker.process is None or worker.process.returncode is not None:
            options = self._options
            rate = options.rate / self._count
            begin = [str(self._directory), self._plan.to_plain(), options.nice, options.share, rate]
            await worker.start(begin)
        return worker

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    async def close(self) -> None:
        for worker in self._workers:
            await worker.close()


class _Worker:
    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, begin: list[Any]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        arguments = (sys.executable, "-m", "tidegrid.grid.runtime.replay_worker")
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, env=environment)
        self._write(begin)

    async def do(self, task: Task, tell: Tell) -> list[Any]:
        """Raises EOFError when the process has ended."""
        self._write([task.partition, task.depth, list(task.needs)])
        while True:
            answer = await self._read()
            if answer[0] != "progress":
                return answer
            tell(answer[1], answer[2])

    def _write(self, message: list[Any]) -> None:
        assert self.process is not None and self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which the next read tells
            self.process.stdin.write(encode(message))

    async def _read(self) -> list[Any]:
        assert self.process is not None and self.process.stdout is not None
        stream = self.process.stdout
        try:
            (length,) = LENGTH.unpack(await stream.readexactly(LENGTH.size))
            body = await stream.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            raise EOFError from None
        answer: list[Any] = msgspec.msgpack.decode(body)
        return answer

    async def close(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


class ThreadCrew:
    """`folder`: for the pieces."""

    def __init__(self, log: Log, bases: Bases, folder: Path, plan: ReplayPlan, options: CrewOptions) -> None:
        self._log = log
        self._bases = bases
        self._folder = folder
        self._plan = plan
        self._options = options
        self._stopped = threading.Event()
        self._work: ReplayWork | None = None
        self._tell: Tell = _silent
        self._under_way: asyncio.Future[list[Any]] | None = None

    async def work(self, tasks: Sequence[Task], done: Done, tell: Tell) -> None:
        loop = asyncio.get_running_loop()

        def told(size: int, writes: int) -> None:
            loop.call_soon_threadsafe(tell, size, writes)

        self._tell = told
        for task in tasks:
            under_way = self._under_way = asyncio.ensure_future(asyncio.to_thread(self._do, loop, task))
            done(task, await asyncio.shield(under_way))

    def _do(self, loop: asyncio.AbstractEventLoop, task: Task) -> list[Any]:
        if self._work is None:
            share = min(self._options.share, THREAD_SHARE_MAX)
            self._pacer = Pacer(lambda size, writes: self._tell(size, writes), share, self._options.rate)
            source = _SeamSource(self._log, loop)
            self._work = ReplayWork(self._plan, source, self._bases, PosixFiles(self._folder), self._pace)
        try:
            return do(self._work, task)
        finally:
            self._pacer.flush()

    def _pace(self, size: int, writes: int) -> None:
        if self._stopped.is_set():
            raise StoppingError.of()
        self._pacer(size, writes)

    async def close(self) -> None:
        self._stopped.set()
        if self._under_way is not None:
            await asyncio.gather(self._under_way, return_exceptions=True)


class _SeamSource:
    """A log that is read in the event loop, for a thread."""

    def __init__(self, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._loop = loop

    def read(self, log: LogId, after: Position, through: Position) -> Iterator[LogRecord]:
        while after < through:
            records = asyncio.run_coroutine_threadsafe(self._log.read(log, after, _READ_BYTES), self._loop).result()
            for record in records:
                if record.position > through:
                    return
                yield record
            if not records:
                return
            after = records[-1].position

    def bytes_of(self, log: LogId, through: Position) -> int:
        return 0


def folder_of(directory: Path, plan: ReplayPlan) -> Path:
    return directory / DIRECTORY / plan.name


def _silent(_size: int, _writes: int) -> None:
    return
