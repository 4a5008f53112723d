"""Worker processes of one simulated node: the code that a worker runs, in this process, with an answer that comes late, cut
short, doubled, with a row that was stopped, or not at all.

The triggers of a batch look things up at one instant between the order and the answer: what they see must not depend on
which one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegrid.grid.engine.effects import RunBatch
from tidegrid.grid.engine.made import Ending, Part
from tidegrid.grid.engine.making import BatchDone
from tidegrid.grid.model.errors import UnavailableError
from tidegrid.triggers.batch import Answer, decode_code
from tidegrid.triggers.batch_run import run
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime

if TYPE_CHECKING:
    from tests.simulation.process import Process

NEVER = 1 << 30


class Pool:
    def __init__(self, process: Process) -> None:
        self._process = process

    def run(self, order: RunBatch) -> None:
        world = self._process.world

        def work() -> None:
            done = self._work(order)
            for _ in range(1 + world.happens(0.1)):
                self._process.soon(world.faults.worker_delay, lambda: self._process.batch_done(done))

        self._process.soon(world.faults.worker_delay, work)

    def _work(self, order: RunBatch) -> BatchDone:
        world, node, batch = self._process.world, self._process.node, order.batch
        assert node is not None
        if world.happens(world.faults.worker_loss / 2):
            return BatchDone(order.number, error=UnavailableError("no worker", address=""))
        stopped = world.happens(world.faults.worker_loss)
        cut = not batch.whole and world.happens(0.2)
        rows = world.chance.randrange(batch.rows) if stopped else world.chance.randint(1, batch.rows) if cut else NEVER
        look_up, number = node.writes.isolation.look_up, order.number

        def go_on(answer: Answer) -> Answer | None:
            return answer if len(answer.rows) < rows else None

        runtime = _runtime(world.runtimes, order.code)
        answer = run(runtime, batch, runtime._limits, lambda *asked: look_up(number, *asked), go_on)
        parts = [Part([answer], Ending() if stopped else None)]
        if stopped and not batch.written:  # the others are not to suffer
            begin = len(answer.rows) + 1
            parts.append(
                Part([run(runtime, batch, runtime._limits, lambda *a: look_up(number, *a), lambda a: a, begin)])
            )
        return BatchDone(order.number, parts)


def _runtime(known: dict[bytes, TriggerRuntime], code: bytes) -> TriggerRuntime:
    runtime = known.get(code)
    if runtime is None:
        sent = decode_code(code)
        maps = {spec.name: spec for spec in sent.maps}
        loaded = load_modules(sent.modules, maps)
        runtime = known[code] = TriggerRuntime(loaded, maps, sent.partitions, sent.limits)
    return runtime
