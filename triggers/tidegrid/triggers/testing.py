"""Runs a trigger with no grid: for the author's own tests.

    from tidegrid.triggers import Put
    from tidegrid.triggers.testing import TriggerTest

    def test_seats_come_from_the_plane():
        flights = TriggerTest("flights.py")
        result = flights.put("flights.raw", KEY, ROW, references={"planes": {"N14228": {"seats": "149"}}})
        assert result.rejected is None
        assert result.outputs[0].value["seats"] == 149

It is the runtime of the grid: keys, values, limits, chains, partitions, time budgets and messages are those of production.
A trigger that you want to step through takes longer than its budget: give `limits=Limits(trigger_seconds=600)`. Added is
strict mode (strict.py), unless `strict=False`: each trigger runs twice, and one that gives something else the second
time, or changes what it was given in place, raises TriggerModuleError with module, line and the rule that it broke.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from tidegrid.grid.model.errors import DerivedMapError, InvalidKeyError, TriggerModuleError, UnknownMapError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.keys import decode_key, encode_key, key_pattern
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapKind, MapSpec
from tidegrid.grid.model.partitioner import partition_of
from tidegrid.grid.model.values import decode_value, encode_value
from tidegrid.triggers.bound import DELETE, EVENT, MERGE, PUT, Output
from tidegrid.triggers.budget import Watch
from tidegrid.triggers.deployment import Deployment, Module
from tidegrid.triggers.loader import NOTHING_KNOWN, assemble, load_modules
from tidegrid.triggers.outputs import Delete, Event, Merge, Put
from tidegrid.triggers.rejection import Rejection
from tidegrid.triggers.resolve import LoadedModule, module_error
from tidegrid.triggers.runtime import FrameContext, TriggerRuntime
from tidegrid.triggers.schemas import unhandled_schema
from tidegrid.triggers.sources import find_module
from tidegrid.triggers.strict import Breach, StrictSession
from tidegrid.triggers.watchdog import Watchdog

Rows = Mapping[str, Mapping[Any, Any]]
"""Map -> key (a tuple, or a scalar for a key of one) -> value."""

_NO_ROWS: Final[Rows] = {}


class Result(NamedTuple):
    """What one write brought about: outputs in order, those of chained triggers included, or why it was refused."""

    outputs: list[Put | Delete | Event | Merge]
    rejected: Rejection | None


class TriggerTest:
    """The triggers of one module: a path such as `flights.py`, an installed module's path, source text, or a module.

    `maps` are maps that other modules declare. Raises TriggerModuleError.
    """

    def __init__(
        self,
        module: ModuleType | Path | str,
        *,
        maps: Mapping[str, MapSpec] = NOTHING_KNOWN,
        partitions: int = 16,
        limits: Limits | None = None,
        seed: int = 0,
        strict: bool = True,
    ) -> None:
        self.deployment = _load(module, maps)
        self._maps = {**maps, **{spec.name: spec for spec in self.deployment.maps}}
        self._partitions = partitions
        self._limits = limits or Limits()
        self._seed = seed
        self._writes = 0
        self._watch = Watch()
        self._runtime = TriggerRuntime(
            self.deployment, self._maps, partitions, self._limits, strict=strict, watch=self._watch
        )

    def put(
        self,
        map: str,
        key: Any,
        value: Any,
        *,
        state: Rows = _NO_ROWS,
        references: Rows = _NO_ROWS,
        schema: int | None = None,
        epoch: int = 1,
        time_ms: int = 0,
    ) -> Result:
        """A put (an event, if `map` is a stream). `state` is what tables hold before it, `references` reference maps.

        `schema` is the map's own unless given. Raises UnknownMapError, DerivedMapError, UnknownSchemaError,
        InvalidKeyError, InvalidValueError, TooLargeError; and in strict mode TriggerModuleError (module, line, rule).
        """
        op = EVENT if self._spec(map).kind is MapKind.STREAM else PUT
        return self._run(map, op, key, encode_value(value, self._limits), state, references, schema, epoch, time_ms)

    def delete(
        self,
        map: str,
        key: Any,
        *,
        state: Rows = _NO_ROWS,
        references: Rows = _NO_ROWS,
        schema: int | None = None,
        epoch: int = 1,
        time_ms: int = 0,
    ) -> Result:
        """A delete; otherwise as `put`."""
        return self._run(map, DELETE, key, None, state, references, schema, epoch, time_ms)

    def _run(
        self,
        map: str,
        op: int,
        key: Any,
        value: bytes | None,
        state: Rows,
        references: Rows,
        schema: int | None,
        epoch: int,
        time_ms: int,
    ) -> Result:
        spec = self._spec(map)
        if spec.derived:
            raise DerivedMapError.of(map)
        encoded = encode_key(key, self._limits.key_bytes_max)
        if spec.key and not key_pattern(spec.key).fullmatch(encoded):
            fields = ", ".join(f"{field.name}:{field.type}" for field in spec.key)
            raise InvalidKeyError(f"{key!r} is no key of map {map!r}; its keys are ({fields})", map=map)
        rows = _Rows({**self._encoded(state), **self._encoded(references)})
        program = self._runtime.program(map)
        if program is None:
            return Result([], None)
        number = spec.schema if schema is None else schema
        if (unhandled := unhandled_schema(program, number)) is not None:
            raise unhandled
        self._writes += 1  # reference maps differ from one write to the next, so each reads as of an epoch of its own
        frame = FrameContext(
            partition_of(encoded, self._partitions, spec.affinity),
            Epoch(epoch),
            time_ms,
            Epoch(self._writes),
            self._seed,
        )
        version = 1 if rows.get(map, encoded) is None else 2
        session = self._runtime.bind(frame, rows)
        watchdog = Watchdog()  # of this write alone: a test ends when it likes, and leaves no thread behind
        watchdog.watch(self._watch)
        try:
            outcome = session.activate(program, op, encoded, value, version, (b"", 0), number)
        finally:
            watchdog.close()
        if isinstance(session, StrictSession) and session.breach is not None:
            raise _broken(session.breach)
        if isinstance(outcome, Rejection):
            return Result([], outcome)
        routed = [output for _, _, output in session.routed]
        return Result([_readable(output) for output in (*outcome, *routed)], None)

    def _spec(self, name: str) -> MapSpec:
        spec = self._maps.get(name)
        if spec is None:
            raise UnknownMapError.of(name, self._maps)
        return spec

    def _encoded(self, rows: Rows) -> dict[tuple[str, bytes], bytes]:
        return {
            (self._spec(name).name, encode_key(key)): encode_value(value, self._limits)
            for name, entries in rows.items()
            for key, value in entries.items()
        }


class _Rows(NamedTuple):
    """A State over a dict."""

    rows: dict[tuple[str, bytes], bytes]

    def get(self, map_name: str, key: bytes, /) -> bytes | None:
        return self.rows.get((map_name, key))

    def reference(self, map_name: str, key: bytes, /) -> bytes | None:
        return self.rows.get((map_name, key))


def _load(module: ModuleType | Path | str, maps: Mapping[str, MapSpec]) -> Deployment:
    if isinstance(module, ModuleType):
        name = module.__name__
        return assemble([LoadedModule(name, module.__dict__)], [Module(name, "")], maps)
    if isinstance(module, str) and "\n" in module:
        return load_modules([("module", module)], maps)
    return load_modules([find_module(module)], maps)


_OUTPUTS: Final[dict[int, type[Put | Event | Merge]]] = {PUT: Put, EVENT: Event, MERGE: Merge}


def _readable(output: Output) -> Put | Delete | Event | Merge:
    op, name, key, value = output
    if op == DELETE or value is None:
        return Delete(name, decode_key(key))
    return _OUTPUTS[op](name, decode_key(key), decode_value(value))


def _broken(breach: Breach) -> TriggerModuleError:
    error = module_error(breach.module, breach.line, breach.text)
    error.fields["rule"] = breach.rule
    return error
