"""What worker processes have made of a batch, in the place of a session of triggers: `activate` gives what came of a row,
or None where the answer ends.

The frame is computed as any other, with this instead of a session, so conditions, version numbers, room and placing are
decided where they are for all frames. A row is taken from the answer only if it was run for the same key under the
same version number; from the first one on that was not, the rest is left for the next frame. So is all that comes after a
row for which the frame, or what is parked, has no room: it was run as if that row were stored.

A worker ran code that is not trusted, so nothing in its answer is: an output that the triggers of the map could not have
made is a failure of its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from msgspec import UNSET
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import PartitionId
from tidegrid.grid.model.keys import check_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import check_value
from tidegrid.triggers.batch import Answer, Batch
from tidegrid.triggers.bound import DELETE, BoundMap
from tidegrid.triggers.deployment import TriggerSpec
from tidegrid.triggers.rejection import Rejection
from tidegrid.triggers.runtime import Output, Routed
from tidegrid.triggers.seeded import WriteName
from tidegrid.triggers.session import overran

TEXT_MAX: Final = 2_000
T = TypeVar("T")
_FORGED: Final = "its worker process made with an output that it cannot have made"


class Ending(NamedTuple):
    """The row that comes next was never answered: its worker was stopped. `text`: empty where that was for its budget."""

    text: str = ""

    @property
    def overran(self) -> bool:
        return not self.text


class Part(NamedTuple):
    """What one worker has told of a batch, in order, and how it was lost, if it was and it is known with which row."""

    answers: Sequence[Answer]
    ending: Ending | None = None


class _Row(NamedTuple):
    key: bytes
    version: int
    outputs: list[Output]
    routed: list[Routed]
    rejection: Rejection | None


class Made:
    """`requests`: those whose rows are in the batch. `routed`: as `Session.routed`. `stopped`: the last row of which the
    worker was stopped."""

    __slots__ = ("_limits", "_note_overrun", "_partition", "_rows", "requests", "routed", "stopped")

    def __init__(
        self,
        partition: PartitionId,
        batch: Batch,
        parts: Sequence[Part],
        limits: Limits,
        note_overrun: Callable[[str], None],
        requests: Sequence[object] = (),
    ) -> None:
        self.requests = requests
        self.routed: list[Routed] = []
        self._partition = partition
        self._limits = limits
        self._note_overrun = note_overrun
        self.stopped: Rejection | None = None
        told: list[_Row | Ending] = []
        try:
            for part in parts:
                for answer in part.answers:
                    told += list(_rows(batch, answer))  # whole, or not at all
                if part.ending is not None:
                    told.append(part.ending)
        except (IndexError, ValueError):
            told.append(Ending("its worker process gave an answer that makes no sense"))
        self._rows = iter(told)

    def covers(self, request: object) -> bool:
        return any(one is request for one in self.requests)

    def activate(
        self,
        program: BoundMap,
        _op: int,
        key: bytes,
        _value: bytes | None,
        version: int,
        _name: WriteName,
        _schema: int = 0,
        _decoded: Any = UNSET,
        depth: int = 0,
    ) -> list[Output] | Rejection | None:
        """As `Session.activate`; None: this row, and all that follow, were not run."""
        row = next(self._rows, None)
        self.routed = []
        if isinstance(row, Ending):
            return self._ended(row, program, key)
        if row is None or (row.key, row.version) != (key, version):
            self.leave_rest()
            return None
        if row.rejection is not None:
            return _known(program, row.rejection)
        if not self._possible(program, row, depth):
            return overran(program, _blamed(program), key, _FORGED)
        self.routed = row.routed
        return row.outputs

    def leave_rest(self) -> None:
        """What comes next was not run, or on what is not so: the answer ends here."""
        self._rows = iter(())

    def end(self) -> None:
        """As `Session.end`."""

    def _ended(self, ending: Ending, program: BoundMap, key: bytes) -> Rejection:
        spec = _blamed(program)
        if ending.overran:
            self._note_overrun(spec.name)
        self.stopped = overran(program, spec, key, ending.text)
        return self.stopped

    def _possible(self, program: BoundMap, row: _Row, depth: int) -> bool:
        deepest = self._limits.chain_depth_max + depth + 1
        if len(row.outputs) + len(row.routed) > self._limits.outputs_max:
            return False
        return all(self._of_trigger(program, self._partition, output) for output in row.outputs) and all(
            partition != self._partition and depth < deeper <= deepest and self._of_trigger(program, partition, output)
            for partition, deeper, output in row.routed
        )

    def _of_trigger(self, program: BoundMap, partition: int, output: Output) -> bool:
        op, name, key, value = output
        target = program.reach.targets.get(name)
        if target is None or op not in target.takes or len(key) > self._limits.key_bytes_max:
            return False
        try:
            check_key(key)
            if value is not None:
                check_value(value, self._limits)
        except GridError:
            return False
        well_formed = target.matches is None or target.matches(key) is not None
        return (value is None) == (op == DELETE) and well_formed and target.map.partition_of(key) == partition


def _blamed(program: BoundMap) -> TriggerSpec:
    """In a commit group, a write whose triggers are not isolated may run apart along with others."""
    return program.reach.blamed or program.triggers[0].spec


def _known(program: BoundMap, told: Rejection) -> Rejection:
    """It names a trigger that may have run; whether it parks is what that trigger declares."""
    specs = {trigger.spec.name: trigger.spec for trigger in program.reach.triggers}
    spec = specs.get(told.trigger) or _blamed(program)
    return told._replace(
        trigger=spec.name,
        module=spec.module,
        line=max(0, min(told.line, 1 << 31)),
        key=told.key[:TEXT_MAX],
        reason=told.reason[:TEXT_MAX],
        message=told.message[:TEXT_MAX],
        parks=told.failed and spec.on_error == "park",
    )


def _rows(batch: Batch, answer: Answer) -> Iterator[_Row]:
    """Raises IndexError, ValueError: it is not of one piece."""
    keys = [key for section in batch.sections for key in section.keys]
    outputs = iter(zip(answer.ops, answer.maps, answer.keys, answer.values, strict=True))
    places = iter(answer.places)
    for at, (row, version, (count, away)) in enumerate(zip(answer.rows, answer.versions, answer.counts, strict=True)):
        if min(row, count, away) < 0:
            raise ValueError("a count below zero")
        here = [_output(answer, outputs) for _ in range(count)]
        routed = [(*_next(places), _output(answer, outputs)) for _ in range(away)]
        told = answer.refusals.get(at)
        yield _Row(keys[row], version, here, routed, Rejection(*told) if told is not None else None)


def _output(answer: Answer, outputs: Iterator[tuple[int, int, bytes, bytes | None]]) -> Output:
    op, name, key, value = _next(outputs)
    if name < 0:
        raise ValueError("a map below zero")
    return op, answer.names[name], key, value


def _next(of: Iterator[T]) -> T:
    for one in of:
        return one
    raise IndexError("a column that is too short")
