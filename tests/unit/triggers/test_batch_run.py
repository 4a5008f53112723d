"""A batch in a worker process: what its rows draw does not depend on where a worker began."""

from __future__ import annotations

from tidegrid.grid.log.record import PUT
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value
from tidegrid.triggers.batch import Batch, Section
from tidegrid.triggers.batch_run import run
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime
from tidegrid.triggers.seeded import named_by_key

SOURCE = """
from tidegrid.triggers import *
for name in ("raw", "hop", "out"):
    table(name, key=("k",))

@trigger(on="raw", emits="hop")
def far(write):
    yield Put("hop", write.value, 1)

@trigger(on="hop", emits="out")
def draw(write, grid):
    yield Put("out", write.key, grid.random.random())
"""


def test_a_worker_that_takes_over_midway_draws_what_the_first_would_have_drawn() -> None:
    deployment = load_modules([("m", SOURCE)])
    runtime = TriggerRuntime(deployment, {spec.name: spec for spec in deployment.maps}, 1, Limits())
    keys = [encode_key(key) for key in ("a", "b", "a", "a")]
    named = named_by_key(b"source", keys)
    assert [number for _, number in named] == [0, 0, 1, 2]
    value = encode_value(1, Limits())
    numbers = [number for _, number in named]
    section = Section("hop", 0, 1, keys, [value] * 4, bytes([PUT] * 4), (), b"source", numbers)
    batch = Batch((PartitionId(0), Epoch(5), 1, Epoch(0)), str(1 << 80), False, [section], 1.0)

    def drawn(begin: int) -> list[bytes | None]:
        return run(runtime, batch, Limits(), lambda *_: None, lambda answer: answer, begin).values

    whole = drawn(0)
    assert len({*whole}) == 4
    assert [drawn(begin) for begin in range(4)] == [whole[begin:] for begin in range(4)]
