"""Strict mode: every write is run twice, and what breaks the contract of a trigger is named, with its line.

For tests and development: it costs more than twice the time. Rules, by their stable names:

    deterministic   both runs give the same outputs, or refuse alike
    read-only       the write, its value and previous value, and what was looked up, are as they were given

The first run is the one of production, and what it gives counts. The second runs the same triggers on copies and
watches them; where something was changed in place, a third hands out values that refuse, to find the line. What differs
from process to process (the order of a set, say), or only now and then, two runs in one process need not show.

Lifecycle: one StrictMode per runtime, one StrictSession per frame. A breach rejects the write, as a failure.
Prior art: the replay check of workflow engines, Temporal's among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import GeneratorType
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import UNSET
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.keys import decode_key, encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value
from tidegrid.triggers.blame import yielded_at
from tidegrid.triggers.bound import OP_NAMES, BoundMap, Output
from tidegrid.triggers.context import FrameContext, State
from tidegrid.triggers.deployment import Deployment, TriggerSpec
from tidegrid.triggers.frozen import READ_ONLY, freeze
from tidegrid.triggers.rejection import Rejection, key_text, rejection
from tidegrid.triggers.seeded import WriteName
from tidegrid.triggers.session import Session
from tidegrid.triggers.typed import converter
from tidegrid.triggers.write import Write

_LIMITS: Final = Limits()
_COPY: Final = "copy it first, such as dict(value), and change the copy"
_PURE: Final = (
    "a trigger is a function of its write and its look-ups: time is write.time_ms, chance is grid.random, "
    "and nothing is kept from one call to the next"
)


class Breach(NamedTuple):
    """A broken rule; `text` is a sentence that begins with the trigger's name."""

    rule: str
    trigger: str
    module: str
    line: int
    text: str


class Runtime(Protocol):
    """What strict mode needs of a second TriggerRuntime."""

    def program(self, map_name: str) -> BoundMap | None: ...

    def bind(self, frame: FrameContext, state: State) -> Session: ...

    def suspend(self, why: Mapping[str, str]) -> None: ...


class StrictMode:
    def __init__(self, deployment: Deployment, make: Callable[[Deployment], Runtime]) -> None:
        self._journal = _Journal()
        watched = tuple(self._journal.watched(trigger) for trigger in deployment.triggers)
        self._runtime = make(dataclasses.replace(deployment, triggers=watched))

    def suspend(self, why: Mapping[str, str]) -> None:
        self._runtime.suspend(why)

    def bind(self, plain: Session, frame: FrameContext, state: State) -> StrictSession:
        return StrictSession(plain, self._runtime, self._runtime.bind(frame, state), self._journal)


class StrictSession(Session):
    """A session that compares. `breach` is what the last write broke, None if nothing."""

    __slots__ = ("_journal", "_plain", "_runtime", "_watched", "breach")

    def __init__(self, plain: Session, runtime: Runtime, watched: Session, journal: _Journal) -> None:
        self._plain = plain
        self._runtime = runtime
        self._watched = watched
        self._journal = journal
        self.breach: Breach | None = None

    def activate(
        self,
        program: BoundMap,
        op: int,
        key: bytes,
        value: bytes | None,
        version: int,
        name: WriteName,
        schema: int = 0,
        decoded: Any = UNSET,
        *more: Any,
        **options: Any,
    ) -> list[Output] | Rejection:
        """As `Session.activate`; a breach of a rule is a Rejection."""
        plain, watched, journal = self._plain, self._watched, self._journal
        outcome = plain.activate(program, op, key, value, version, name, schema, decoded, *more, **options)
        program_watched = self._runtime.program(program.name)
        assert program_watched is not None

        def again(frozen: bool) -> list[Output] | Rejection:
            journal.begin(frozen)
            found = watched.activate(program_watched, op, key, value, version, name, schema, UNSET, *more, **options)
            return _whole(watched, found)

        self.breach = self._examine(_whole(plain, outcome), again)
        journal.begin(False)
        if (routed := getattr(plain, "routed", None)) is not None:
            object.__setattr__(self, "routed", routed if self.breach is None else [])
        if self.breach is None:
            return outcome
        _, trigger, module, line, text = self.breach
        return rejection(trigger, module, line, decode_key(key), text, failed=True)

    def end(self) -> None:
        self._plain.end()
        self._watched.end()

    def _examine(
        self, outcome: list[Output] | Rejection, again: Callable[[bool], list[Output] | Rejection]
    ) -> Breach | None:
        if type(outcome) is Rejection and outcome.reason.endswith(READ_ONLY):  # a value of a reference map
            text = f"trigger {outcome.trigger!r} changes a value that it looked up; {_COPY}"
            return Breach("read-only", outcome.trigger, outcome.module, outcome.line, text)
        second = again(False)
        calls, yielded = self._journal.calls, self._journal.yielded
        for call in calls:
            if (what := call.changed()) is not None:
                frozen = again(True)
                line = call.spec.line
                if type(frozen) is Rejection and frozen.reason.endswith(READ_ONLY) and frozen.trigger == call.spec.name:
                    line = frozen.line
                text = f"trigger {call.spec.name!r} changed {what} in place; {_COPY}"
                return Breach("read-only", call.spec.name, call.spec.module, line, text)
        return _difference(outcome, second, calls, yielded)


class _Journal:
    """What the watched triggers did since `begin`."""

    def __init__(self) -> None:
        self.begin(False)

    def begin(self, frozen: bool) -> None:
        self.frozen = frozen
        self.calls: list[_Call] = []
        self.yielded: list[_Yielded] = []

    def watched(self, spec: TriggerSpec) -> TriggerSpec:
        """The same trigger, watched. A plain function, so that lines of exceptions are still found."""

        def run(write: Write, *context: Any) -> Any:
            call = _Call(spec, write)
            self.calls.append(call)
            if self.frozen:
                write._value = freeze(write.value)
                with suppress(Exception):  # where there is none to be asked for
                    write._previous = freeze(write.previous)
            produced = spec.function(write, *(_Lookups(grid, call, self.frozen) for grid in context))
            if isinstance(produced, Iterable) and not isinstance(produced, str | bytes | dict):
                return self._followed(spec, produced)
            self.yielded.append(_Yielded(spec, spec.line, produced))
            return produced

        return dataclasses.replace(spec, function=run, generator=False)

    def _followed(self, spec: TriggerSpec, produced: Iterable[Any]) -> Iterator[Any]:
        try:
            for output in produced:
                self.yielded.append(_Yielded(spec, yielded_at(produced, spec.namespace) or spec.line, output))
                yield output
        finally:
            if type(produced) is GeneratorType:
                produced.close()


class _Yielded(NamedTuple):
    """An output, who made it, and at which line."""

    spec: TriggerSpec
    line: int
    output: Any

    def likeness(self, to: Output) -> int:
        """3: it is this output; 2: of the same key; 1: of the same map; 0: another."""
        _, name, key, value = to
        if getattr(self.output, "map", None) != name:
            return 0
        if encode_key(self.output.key) != key:
            return 1
        operand = getattr(self.output, "operand", None)
        return 3 if _encoded(getattr(self.output, "value", operand)) == (value or _encoded(None)) else 2


class _Call:
    """One call of one trigger, with what it was given."""

    __slots__ = ("facts", "looked_up", "spec", "write")

    def __init__(self, spec: TriggerSpec, write: Write) -> None:
        self.spec = spec
        self.write = write
        self.facts = _facts(write)
        self.looked_up: list[tuple[str, Any, Any, bytes]] = []

    def changed(self) -> str | None:
        """What is no longer as it was given, in words."""
        write = self.write
        given = msgspec.structs.replace(write, _key=UNSET, _value=UNSET, _previous=UNSET)
        if write._value is not UNSET:
            value = given.value
            if self.spec.value is not None and write.op != "delete":
                value = converter(self.spec.value)(value)
            if not _alike(write._value, value):
                return f"write.value of key {key_text(given.key)}"
        if write._previous is not UNSET and not _alike(write._previous, given.previous):
            return f"write.previous of key {key_text(given.key)}"
        if _facts(write) != self.facts or (write._key is not UNSET and write._key != given.key):
            return f"the write of key {key_text(given.key)}"
        for name, key, value, before in self.looked_up:
            if _encoded(value) != before:
                return f"the value that grid.get({name!r}, {key_text(key)}) gave"
        return None


class _Lookups:
    """The context of a watched trigger: it remembers what was looked up, and is the real one in all else."""

    __slots__ = ("_call", "_frozen", "_grid")

    def __init__(self, grid: Any, call: _Call, frozen: bool) -> None:
        self._grid = grid
        self._call = call
        self._frozen = frozen

    def get(self, map: str, key: Any, *more: Any, **options: Any) -> Any:
        value = self._grid.get(map, key, *more, **options)
        self._call.looked_up.append((map, key, value, _encoded(value)))
        return freeze(value) if self._frozen else value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)


def _whole(session: Session, outcome: list[Output] | Rejection) -> list[Output] | Rejection:
    """With outputs to other partitions, which are the last of each tuple in `routed`, where there are such."""
    if isinstance(outcome, Rejection):
        return outcome
    routed: Iterable[tuple[Any, ...]] = getattr(session, "routed", ())
    return [*outcome, *(entry[-1] for entry in routed)]


def _difference(
    first: list[Output] | Rejection,
    second: list[Output] | Rejection,
    calls: list[_Call],
    yielded: list[_Yielded],
) -> Breach | None:
    if isinstance(first, Rejection) or isinstance(second, Rejection):
        return _refused(first, second)
    if first == second:
        return None
    at = next((i for i, (one, two) in enumerate(zip(first, second, strict=False)) if one != two), None)
    if at is not None:
        text, output = f"gave {_shown(first[at])}, and again {_shown(second[at])}", second[at]
    else:
        output = max(first, second, key=len)[min(len(first), len(second))]
        text = f"gave {_shown(output)} the one time and not the other"
    if at is not None or len(second) > len(first):
        alike = max(one.likeness(output) for one in yielded)
        candidates = [one for one in yielded if one.likeness(output) == alike]
        before = second[: len(first) if at is None else at].count(output)
        made = candidates[min(before, len(candidates) - 1)]
        return _varies(made.spec.name, made.spec.module, made.line, text)
    emitting = [call.spec for call in calls if output[1] in call.spec.emits]
    spec = emitting[-1] if emitting else calls[-1].spec
    return _varies(spec.name, spec.module, spec.line, text)


def _refused(first: list[Output] | Rejection, second: list[Output] | Rejection) -> Breach | None:
    if isinstance(first, Rejection) and isinstance(second, Rejection):
        if (first.trigger, first.failed) == (second.trigger, second.failed):
            return None
        text = f"was the one to refuse the write, and then it was {second.trigger!r}"
        return _varies(first.trigger, first.module, first.line, text)
    refused = first if isinstance(first, Rejection) else second
    assert isinstance(refused, Rejection)
    text = f"refused the write the one time ({refused.reason}) and not the other"
    return _varies(refused.trigger, refused.module, refused.line, text)


def _varies(trigger: str, module: str, line: int, text: str) -> Breach:
    return Breach("deterministic", trigger, module, line, f"trigger {trigger!r} {text}; {_PURE}")


def _shown(output: Output) -> str:
    op, name, key, value = output
    decoded = "" if value is None else f", {key_text(msgspec.msgpack.decode(value))}"
    return f"{OP_NAMES[op].title()}({name!r}, {key_text(decode_key(key))}{decoded})"


def _facts(write: Write) -> tuple[Any, ...]:
    return write.op, write.version, write.schema, write._key_bytes, write._value_bytes


def _alike(one: Any, other: Any) -> bool:
    """Equal as stored: NaN equals itself, 1 and 1.0 differ."""
    first, second = _encoded(one), _encoded(other)
    return first == second if first or second else bool(one == other)


def _encoded(value: Any) -> bytes:
    """Empty for what cannot be stored."""
    try:
        return encode_value(msgspec.to_builtins(value, builtin_types=(bytes,)), _LIMITS)
    except (GridError, TypeError, ValueError, RecursionError):
        return b""
