"""Runs a batch in a worker process: the runtime of the grid, over state that is asked for.

The rows of a batch see one another as the rows of a frame do: what an earlier one has written is the latest value of its
key, unless it was refused. Everything else is as it was before the batch, does not change while it runs, and is asked
for once. Of maps that receive outputs nothing is ever looked up, so outputs need no bookkeeping here.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import check_value
from tidegrid.triggers.batch import Answer, Batch, Section
from tidegrid.triggers.bound import DELETE
from tidegrid.triggers.rejection import Rejection
from tidegrid.triggers.runtime import TriggerRuntime

LookUp = Callable[[str, bytes, bool], bytes | None]
"""(map, key, whether it is a reference map) -> the value before the batch."""


class _Sees:
    """What the triggers of a batch look up. `fresh`: (map, key) -> (version, value) of the rows so far."""

    def __init__(self, look_up: LookUp) -> None:
        self.fresh: dict[tuple[str, bytes], tuple[int, bytes | None]] = {}
        self._look_up = look_up
        self._found: dict[tuple[str, bytes, bool], bytes | None] = {}

    def get(self, map_name: str, key: bytes, /) -> bytes | None:
        known = self.fresh.get((map_name, key))
        return known[1] if known is not None else self._asked(map_name, key, False)

    def reference(self, map_name: str, key: bytes, /) -> bytes | None:
        return self._asked(map_name, key, True)

    def _asked(self, map_name: str, key: bytes, reference: bool) -> bytes | None:
        asked = (map_name, key, reference)
        if asked not in self._found:
            self._found[asked] = self._look_up(*asked)
        return self._found[asked]


def run(
    runtime: TriggerRuntime,
    batch: Batch,
    limits: Limits,
    look_up: LookUp,
    go_on: Callable[[Answer], Answer | None],
    begin: int = 0,
) -> Answer:
    """What came of the rows that have triggers, as far as it got. `go_on` is asked before each row, with what there is since it was asked
    last: it gives back where the next ones go, or None to end the batch here.
    `begin`: the first row to run, of a batch whose rows see nothing of one another."""
    runtime.suspend(batch.suspended)
    sees = _Sees(look_up)
    session = runtime.bind(batch.frame, sees)
    answer, first = Answer(), 0
    for section in batch.sections:
        program = runtime.program(section.map)
        stateful = runtime.stateful(section.map)
        for at, (key, value, op) in enumerate(zip(section.keys, section.values, section.ops, strict=True)):
            if first + at < begin:
                continue
            version = section.versions[at] if section.versions else 0
            if batch.written:
                known = sees.fresh.get((section.map, key))
                version = version if known is None else known[0]
                if _refused(section, at, version, known):
                    continue
                version += 1
            body = None if op == DELETE else value
            if program is None:
                sees.fresh[section.map, key] = (version, body)
                continue
            decoded = UNSET
            if batch.written and op != DELETE:
                try:
                    decoded = check_value(value, limits)
                except GridError:  # the node says the same
                    continue
            more = go_on(answer)
            if more is None:
                session.end()
                return answer
            answer = more
            name = (section.origin, section.numbers[at])
            result = session.activate(
                program, op, key, body, version, name, section.schema, decoded, depth=section.depth
            )
            answer.add(first + at, version, result, session.routed)
            if batch.written and stateful and (not isinstance(result, Rejection) or result.parks):
                sees.fresh[section.map, key] = (version, body)
        first += len(section.keys)
    session.end()
    return answer


def _refused(section: Section, at: int, version: int, known: tuple[int, bytes | None] | None) -> bool:
    """A tombstone counts as absent, and still answers to its version number."""
    condition = section.conditions.get(at)
    if condition is None:
        return False
    expected, present = condition
    if known is not None:
        present = known[1] is not None
    return not (expected == (version if present else 0) or (expected and expected == version))
