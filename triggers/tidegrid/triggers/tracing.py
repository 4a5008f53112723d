"""Which trigger put out what: a deployment run again on one write, with every output noted as it is yielded.

    tracing = Tracing(deployment, maps, partitions, limits)
    session = tracing.bind(FrameContext(...), state)
    tracing.run(session, program, op, key, value, version, name, schema)      the emissions, in order, or a Rejection

A state that cannot answer a look-up any more raises `Unseen`: the trigger that asked ends there, and the others run on.

An emission knows the line that yielded it and the emission whose trigger set it off, so that a chain of triggers can be
followed back to the write. Pure, as the runtime is; not for the write path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.model.values import encode_value
from tidegrid.triggers.blame import yielded_at
from tidegrid.triggers.bound import DELETE, EVENT, MERGE, PUT, BoundMap
from tidegrid.triggers.context import FrameContext, State
from tidegrid.triggers.deployment import Deployment, TriggerSpec
from tidegrid.triggers.outputs import Delete, Event, Merge, Put
from tidegrid.triggers.rejection import Rejection
from tidegrid.triggers.runtime import TriggerRuntime
from tidegrid.triggers.seeded import WriteName
from tidegrid.triggers.session import Session

_OPS: Final[dict[type, int]] = {Put: PUT, Delete: DELETE, Event: EVENT, Merge: MERGE}


class Unseen(BaseException):
    """What is looked up is not there any more. It passes an author's `except Exception`, and never leaves `run`."""


class Cut(NamedTuple):
    """A trigger that ended for want of a look-up, when `emissions` had come out."""

    trigger: TriggerSpec
    emissions: int


class Emission(NamedTuple):
    """`line`: where it was yielded, 0 where that cannot be seen. `parent`: the emission whose map has this trigger; None:
    the write itself has it."""

    trigger: TriggerSpec
    line: int
    op: int
    map: str
    key: bytes
    value: bytes | None
    parent: Emission | None

    def chain(self) -> list[Emission]:
        """From the write on, this one last."""
        found: list[Emission] = []
        at: Emission | None = self
        while at is not None:
            found.append(at)
            at = at.parent
        return found[::-1]


class Tracing:
    def __init__(self, deployment: Deployment, maps: Mapping[str, MapSpec], partitions: int, limits: Limits) -> None:
        """Raises TriggerModuleError."""
        self.deployment = deployment
        self._limits = limits
        self._emissions: list[Emission] = []
        self.cuts: list[Cut] = []  # of the last run
        self._setting_off: Emission | None = None
        traced = tuple(
            dataclasses.replace(trigger, function=self._traced(trigger), generator=True)
            for trigger in deployment.triggers
        )
        self._runtime = TriggerRuntime(dataclasses.replace(deployment, triggers=traced), maps, partitions, limits)

    def program(self, map_name: str) -> BoundMap | None:
        return self._runtime.program(map_name)

    def bind(self, frame: FrameContext, state: State) -> Session:
        return self._runtime.bind(frame, state)

    def run(
        self,
        session: Session,
        program: BoundMap,
        op: int,
        key: bytes,
        value: bytes | None,
        version: int,
        name: WriteName,
        schema: int,
    ) -> list[Emission] | Rejection:
        """As `Session.activate`: never raises."""
        self._emissions, self.cuts, self._setting_off = [], [], None
        outcome = session.activate(program, op, key, value, version, name, schema)
        return outcome if isinstance(outcome, Rejection) else self._emissions

    def complete_before(self, at: int, target: str) -> bool:
        """Whether the last run has all emissions to `target` that come before its emission `at`."""
        return not any(cut.emissions <= at and self._reached_by((cut.trigger,), target) for cut in self.cuts)

    def candidates(self, source: str, target: str, schema: int) -> list[TriggerSpec]:
        """The triggers that emit to `target` and that a write to `source` of this schema number can set off."""
        own = [
            trigger for trigger in self.deployment.triggers if source in trigger.on and trigger.schema in (None, schema)
        ]
        return self._reached_by(own, target)

    def _reached_by(self, first: Iterable[TriggerSpec], target: str) -> list[TriggerSpec]:
        """Those of `first`, and of the triggers that these may set off, that emit to `target`; in order."""
        found, ahead = dict[str, TriggerSpec](), list(first)
        while ahead:
            trigger = ahead.pop()
            if trigger.name not in found:
                found[trigger.name] = trigger
                ahead += [other for other in self.deployment.triggers if set(other.on) & set(trigger.emits)]
        return [trigger for trigger in self.deployment.triggers if trigger.name in found and target in trigger.emits]

    def _traced(self, spec: TriggerSpec) -> Callable[..., Iterator[Any]]:
        function = spec.function

        def traced(*arguments: Any) -> Iterator[Any]:
            above = self._setting_off
            try:
                produced = function(*arguments)
                for output in _each(produced):
                    line = yielded_at(produced, spec.namespace)
                    self._setting_off = self._note(spec, line, output, above)
                    yield output
                    self._setting_off = above
            except Unseen:
                self.cuts.append(Cut(spec, len(self._emissions)))

        return traced

    def _note(self, spec: TriggerSpec, line: int, output: Any, above: Emission | None) -> Emission | None:
        """What is no output, or cannot be encoded, is for the session to refuse."""
        op = _OPS.get(type(output))
        if op is None:
            return above
        value: bytes | None = None
        if op != DELETE:
            value = encode_value(output.operand if op == MERGE else output.value, self._limits)
        emission = Emission(spec, line, op, output.map, encode_key(output.key), value, above)
        self._emissions.append(emission)
        return emission


def _each(produced: Any) -> Iterable[Any]:
    if produced is None:
        return ()
    return (produced,) if type(produced) in _OPS else produced
