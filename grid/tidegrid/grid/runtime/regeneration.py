"""A regeneration from its plan to the difference: which tasks there are, in which order, and how far they are.

    pass 0 over every partition; pass d over those that pass d - 1 has sent something to, until it sends nothing;
    then both generations of each map are compared, partition by partition; and, if it is to take the place of what is
    live, the base of the new one is written (ring/generations.py)

All of a pass is done before the next one begins. What has its piece already, from a run that was ended or killed, is not
done again (`resumed`). Pieces stay where they are when all is done: a new generation is made of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tidegrid.grid.engine.generation import Difference
from tidegrid.grid.engine.replaying import Tally
from tidegrid.grid.journal.files import PosixFiles
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.pieces import whole
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.runtime.bases import Bases
from tidegrid.grid.runtime.replay_crew import Crew, CrewOptions, ProcessCrew, ThreadCrew, folder_of
from tidegrid.grid.runtime.replay_plan import DIRECTORY, ReplayPlan, base_name
from tidegrid.grid.runtime.replay_work import BASE, COMPARE, MEASURE, Task

REPLAY: Final = "raw writes"
DELIVER: Final = "routed outputs"
COMPARING: Final = "comparing"
WRITING: Final = "writing the base"
_NEVER: Final = Epoch(0)


@dataclass(slots=True)
class RegenerationProgress:
    """`step`: what is done now, and `bytes_done` of `bytes` of log in it (0: it is not known how many). `writes`: in all
    steps, what resumed pieces hold included; `fresh_writes` without it."""

    step: str = ""
    bytes_done: int = 0
    bytes: int = 0
    tasks_done: int = 0
    tasks: int = 0
    writes: int = 0
    fresh_writes: int = 0
    resumed: int = 0
    step_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class RegenerationReport:
    tally: Tally = field(default_factory=Tally)
    passes: int = 0
    generations: dict[str, int] = field(default_factory=dict)  # map -> generation that readers see, unless a dry run
    seen_from: Epoch = _NEVER
    maps: dict[str, Difference] = field(default_factory=dict)


class Regeneration:
    """Lifecycle: made, `run` once; `progress` at any time. Ended by cancelling `run`: what has its piece stays."""

    def __init__(self, log: Log, plan: ReplayPlan, options: CrewOptions, bases: Bases, dry_run: bool) -> None:
        """`dry_run`: no base is wanted."""
        self.plan = plan
        self.dry_run = dry_run
        self._bases = bases
        self.report = RegenerationReport()
        self.options = options.validate()
        self._log = log
        self._progress = RegenerationProgress()
        self._started = self._step_started = time.monotonic()
        self._targets: dict[int, dict[PartitionId, list[int]]] = {}  # by pass: who was sent something, and by whom
        self._passes: dict[PartitionId, list[int]] = defaultdict(list)  # with a piece
        self._log_bytes: dict[int, int] = {}

    def progress(self) -> RegenerationProgress:
        found, now = self._progress, time.monotonic()
        found.seconds = now - self._started
        found.step_seconds = now - self._step_started
        return found

    async def run(self) -> RegenerationReport:
        """Raises GridError."""
        with contextlib.ExitStack() as until_done:
            crew, folder = self._crew(until_done)
            try:
                await self._run(crew, folder)
            except OSError as error:
                raise GridError(f"the pieces of a regeneration in {folder}: {error}") from error
            finally:
                await asyncio.shield(crew.close())
        return self.report

    def _crew(self, until_done: contextlib.ExitStack) -> tuple[Crew, Path]:
        if isinstance(self._log, LocalLog):
            directory = Path(self._log.directory).absolute()
            folder = folder_of(directory, self.plan)
            return ProcessCrew(directory, self.plan, self.options), folder
        folder = Path(until_done.enter_context(tempfile.TemporaryDirectory(prefix="tidegrid-regeneration-")))
        return ThreadCrew(self._log, self._bases, folder, self.plan, self.options), folder

    async def _run(self, crew: Crew, folder: Path) -> None:
        await asyncio.to_thread(self._prepare, folder)
        await crew.work([Task(PartitionId(0), MEASURE)], self._measured, self._tell)
        everybody = [PartitionId(number) for number in sorted(self.plan.tails)]
        await self._pass(crew, folder, 0, [Task(number, 0) for number in everybody])
        depth = 0
        while sent := self._targets.get(depth):
            depth += 1
            tasks = [Task(number, depth, tuple(sorted(sources))) for number, sources in sorted(sent.items())]
            await self._pass(crew, folder, depth, tasks)
        self.report.passes = depth + 1
        await self._compare(crew, everybody)
        if not self.dry_run:
            await self._base(crew, folder, everybody)
            await asyncio.to_thread(self._bases.keep, self.plan, folder)

    async def _base(self, crew: Crew, folder: Path, everybody: list[PartitionId]) -> None:
        plan, files = self.plan, PosixFiles(folder)
        tasks = [Task(number, BASE, tuple(sorted(self._passes[number]))) for number in everybody]
        self.step(WRITING, tasks, readings=0)
        left: list[Task] = []
        for task in tasks:
            identity = plan.identity(task.partition, BASE)
            if await asyncio.to_thread(whole, files, base_name(task.partition), identity) is None:
                left.append(task)
            else:
                self._progress.tasks_done += 1

        def done(_task: Task, _answer: list[Any]) -> None:
            self._progress.tasks_done += 1

        await crew.work(left, done, lambda _size, _writes: None)

    def _measured(self, _task: Task, answer: list[Any]) -> None:
        self._log_bytes = answer[1]

    def _prepare(self, folder: Path) -> None:
        files = PosixFiles(folder)
        files.prepare()
        for name in files.list():
            if name.endswith(".tmp"):
                files.remove(name)

    async def _pass(self, crew: Crew, folder: Path, depth: int, tasks: list[Task]) -> None:
        self.step(DELIVER if depth else REPLAY, tasks)
        left: list[Task] = []
        for task in tasks:
            found = await asyncio.to_thread(self._whole, folder, task)
            if found is None:
                left.append(task)
                continue
            summary, labels = found
            self._progress.resumed += 1
            tally = Tally.of(summary)
            self._progress.writes += tally.writes
            self._tell(self._log_bytes.get(task.partition, 0), 0)
            self._note(task, tally, [PartitionId(label[1]) for label in labels if label[0] == "sent"])

        def done(task: Task, answer: list[Any]) -> None:
            self._note(task, Tally.of(answer[1]), answer[2])

        await crew.work(left, done, self._tell)

    def _whole(self, folder: Path, task: Task) -> Any | None:
        plan = self.plan
        name = plan.piece_name(task.partition, task.depth)
        return whole(PosixFiles(folder), name, plan.identity(task.partition, task.depth))

    def _note(self, task: Task, tally: Tally, targets: list[PartitionId]) -> None:
        self._progress.tasks_done += 1
        self.report.tally.add(tally)
        self._passes[task.partition].append(task.depth)
        sent = self._targets.setdefault(task.depth, {})
        for target in targets:
            sent.setdefault(target, []).append(task.partition)

    async def _compare(self, crew: Crew, everybody: list[PartitionId]) -> None:
        maps = self.report.maps
        for name in self.plan.maps:
            maps[name] = Difference()
        tasks = [Task(number, COMPARE, tuple(sorted(self._passes[number]))) for number in everybody]
        self.step(COMPARING, tasks, readings=2)

        def done(task: Task, answer: list[Any]) -> None:
            self._progress.tasks_done += 1
            for name, plain in answer[1].items():
                maps[name].add(Difference.of(plain))

        await crew.work(tasks, done, lambda size, _: self._tell(size, 0))

    def step(self, step: str, tasks: Sequence[Task] = (), readings: int = 1) -> None:
        """What comes next, in words. `readings`: how often each log is read; 0: it goes by the tasks that are done."""
        found = self._progress
        found.step, found.tasks_done, found.tasks, found.bytes_done = step, 0, len(tasks), 0
        found.bytes = readings * sum(self._log_bytes.get(task.partition, 0) for task in tasks)
        self._step_started = time.monotonic()

    def _tell(self, size: int, writes: int) -> None:
        found = self._progress
        found.bytes_done += size
        found.writes += writes
        found.fresh_writes += writes


def forget_others(directory: Path, kept: Collection[str]) -> None:
    """Pieces of regenerations that nobody will go on with, and that no generation rests on. `kept`: names of those that stay."""
    with contextlib.suppress(OSError):
        for folder in (directory / DIRECTORY).iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
