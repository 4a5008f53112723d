"""Runs triggers on the writes of one frame: `activate` takes a write and returns outputs or a rejection.

It never raises, whatever the author's code does (KeyboardInterrupt alone passes): failures are data. An output is
encoded and checked when it is yielded, and if its map has triggers they run at once, before the next output (depth
first, in order). One failure anywhere in the chain rejects the root write with all its outputs; or parks it, if the
trigger that failed says so: then the write is stored, and none of its outputs. An output whose key
belongs to another partition is *routed*: it is left in `routed`, and what it sets off runs there.

Cost on top of the author's code, per write with two outputs: about 2 us, of which 1 us decodes the key. Hence plain
tuples, no dataclass, and the short way for `output.key is write.key`.

Prior art: Temporal's `activate(activation) -> completion`.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import GeneratorType
from typing import Any, Final, NoReturn

from msgspec import UNSET
from tidegrid.grid.model.errors import (
    InvalidKeyError,
    TooLargeError,
    TriggerModuleError,
    TriggerSuspendedError,
    UnknownMapError,
)
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value
from tidegrid.triggers.blame import line_of, text_of, yielded_at
from tidegrid.triggers.bound import (
    DELETE,
    EVENT,
    MERGE,
    OP_NAMES,
    PUT,
    BoundMap,
    BoundTrigger,
    Output,
    Routed,
    Target,
)
from tidegrid.triggers.budget import Overrun, Watch, overrun_text
from tidegrid.triggers.context import Context
from tidegrid.triggers.deployment import TriggerSpec
from tidegrid.triggers.outputs import Delete, Event, Merge, Put, Reject
from tidegrid.triggers.rejection import Rejection, rejection
from tidegrid.triggers.seeded import WriteName
from tidegrid.triggers.write import Write

_OPS: Final[dict[type, int]] = {Put: PUT, Delete: DELETE, Event: EVENT, Merge: MERGE}


class Session:
    """The triggers of one frame. Made by `TriggerRuntime.bind`; not to be used for another frame.

    `routed`: the outputs to other partitions of the write that was activated last.
    """

    __slots__ = ("_context", "_limits", "_maps", "_partition", "_rejection", "_watch", "routed")

    def __init__(
        self, context: Context, maps: dict[str, BoundMap], partition: int, limits: Limits, watch: Watch
    ) -> None:
        self._watch = watch
        self._context = context
        self._maps = maps
        self._partition = partition
        self._limits = limits
        self._rejection: Rejection | None = None
        self.routed: list[Routed] = []

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
        depth: int = 0,
    ) -> list[Output] | Rejection:
        """Outputs of this write, in order and checked, or why a trigger refuses it.

        `key` and `value` are encoded and were let in (value None: a delete); `version` is the number the write gets, `name`
        what its random numbers are seeded by.
        `decoded`: the value, where the caller has decoded it already; it is given away. `depth`: how many triggers lie
        behind a write that was routed here.
        """
        context = self._context
        outputs: list[Output] = []
        if self.routed:
            self.routed = []
        watch = self._watch
        watch.budget = program.reach.budget
        watch.row = context._root = (program, key, value, name)
        if context._random is not None:
            context._random = None
        try:
            self._run(program, op, key, value, decoded, version, schema, depth + 1, outputs)
            watch.row = None
            if watch.stopping:
                watch.settle()
        except KeyboardInterrupt:
            watch.row = None
            raise
        except BaseException as error:
            watch.row = None
            if watch.stopping:
                try:
                    watch.settle()
                except Overrun:  # it came while it was being taken back; it comes once
                    watch.settle()
            refused, self._rejection = self._rejection, None
            self.routed = []
            if refused is None and isinstance(error, Overrun):  # it came as the last trigger returned
                refused = overran(program, program.triggers[-1].spec, key)
                watch.overruns.append(refused.trigger)
            elif refused is None:  # a bug of ours: still only this write is refused
                refused = rejection(program.name, "", 0, key, text_of(error), failed=True)
            return refused
        return outputs

    def end(self) -> None:
        """The frame is computed. A `Write` is no business of the collector, so it must not stay in a circle."""
        if hasattr(self._context, "_write"):
            del self._context._write

    def _run(
        self,
        program: BoundMap,
        op: int,
        key: bytes,
        value: bytes | None,
        decoded: Any,
        version: int,
        schema: int,
        depth: int,
        outputs: list[Output],
    ) -> None:
        """All triggers of one map on one write. The first exception is explained where it passes, then goes on up."""
        context, limits = self._context, self._limits
        for trigger in program.triggers:
            if trigger.schema is not None and trigger.schema != schema:
                continue
            write = Write(context, program, OP_NAMES[op], key, value, version, schema, UNSET, decoded)
            decoded = UNSET  # each trigger has a value of its own
            context._write = write
            produced: Iterable[Any] = ()
            try:
                produced = trigger.function(write, context) if trigger.takes_context else trigger.function(write)
                if not trigger.generator:
                    produced = _outputs_of(produced)
                targets = trigger.targets
                for output in produced:
                    out_op = _OPS.get(type(output))
                    if out_op is None:
                        _refuse_type(output, trigger)
                    target = targets.get(output.map)
                    if target is None:
                        self._refuse_map(output.map, trigger)
                    if out_op not in target.takes:
                        _refuse_op(out_op, target)
                    out_key = output.key
                    if out_key is write._key and target.same_key:
                        encoded, partition = key, self._partition
                    else:
                        encoded = self._encoded(target, out_key)
                        partition = target.map.partition_of(encoded)
                    body: bytes | None = None
                    if out_op == MERGE:
                        body = encode_value(output.operand, limits)
                    elif out_op != DELETE:
                        body = encode_value(output.value, limits)
                    if len(outputs) + len(self.routed) >= limits.outputs_max:
                        _refuse_count(limits.outputs_max)
                    if partition != self._partition:
                        if depth >= limits.chain_depth_max and target.map.triggers:
                            _refuse_depth(target.map, limits.chain_depth_max)
                        self.routed.append((partition, depth, (out_op, target.name, encoded, body)))
                        continue
                    outputs.append((out_op, target.name, encoded, body))
                    if target.map.triggers:
                        self._chain(target.map, out_op, encoded, body, depth, outputs)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                if self._rejection is None:
                    self._rejection = _explain(trigger, write, produced, error)
                    if isinstance(error, Overrun):
                        self._watch.overruns.append(trigger.spec.name)
                _end(produced)
                raise

    def _chain(
        self,
        program: BoundMap,
        op: int,
        key: bytes,
        value: bytes | None,
        depth: int,
        outputs: list[Output],
    ) -> None:
        """Triggers on an output. Its version is 0: the store numbers outputs when the frame lands."""
        if depth >= self._limits.chain_depth_max:
            _refuse_depth(program, self._limits.chain_depth_max)
        self._run(program, op, key, value, UNSET, 0, program.schema, depth + 1, outputs)

    def _encoded(self, target: Target, key: Any) -> bytes:
        """The encoded key of an output that is not simply the key of its write."""
        encoded = encode_key(key, self._limits.key_bytes_max)
        if target.matches is not None and target.matches(encoded) is None:
            fields = ", ".join(f"{field.name}:{field.type}" for field in target.map.spec.key)
            raise InvalidKeyError(
                f"an output to {target.name!r} has the key {key!r}; keys of that map are ({fields})", map=target.name
            )
        return encoded

    def _refuse_map(self, name: Any, trigger: BoundTrigger) -> NoReturn:
        if name in self._maps:
            raise TriggerModuleError(
                f"it emits to {name!r}, which its emits={trigger.spec.emits!r} does not name; add it there", map=name
            )
        raise UnknownMapError.of(str(name), trigger.targets)


def _outputs_of(produced: Any) -> Iterable[Any]:
    """What a trigger that is no generator function returned, as an iterable."""
    if produced is None:
        return ()
    if type(produced) in _OPS:
        return (produced,)
    if isinstance(produced, Iterable) and not isinstance(produced, str | bytes | dict):
        return produced
    raise TriggerModuleError(
        f"it returned an object of type {type(produced).__name__}; return None, a Put, Delete, Event or Merge, or an iterable of these"
    )


def _explain(trigger: BoundTrigger, write: Write, produced: Iterable[Any], error: BaseException) -> Rejection:
    """The line is where the author's code raised; or where it yielded what we refuse; or where the trigger begins."""
    spec = trigger.spec
    line = line_of(error, spec.namespace) or yielded_at(produced, spec.namespace)
    key: object
    try:
        key = write.key
    except Exception:
        key = write._key_bytes
    reason, failed = (error.reason, False) if isinstance(error, Reject) else (_text_of(error, write._source), True)
    parks = failed and spec.on_error == "park"
    suspended = isinstance(error, TriggerSuspendedError)
    return rejection(spec.name, spec.module, line or spec.line, key, str(reason), failed, parks, suspended)


def _text_of(error: BaseException, program: BoundMap) -> str:
    return overrun_text(program.reach.budget) if isinstance(error, Overrun) else text_of(error)


def overran(program: BoundMap, spec: TriggerSpec, key: bytes, text: str = "") -> Rejection:
    """Of a write that had to be stopped from outside; `text` where it was not its budget that ended it."""
    try:
        shown: object = program.read_key(key)
    except Exception:
        shown = key
    reason = text or overrun_text(program.reach.budget)
    return rejection(spec.name, spec.module, spec.line, shown, reason, True, spec.on_error == "park")


def _end(produced: Iterable[Any]) -> None:
    """Ends the author's generator now, so that what its `finally` does cannot surface later."""
    if type(produced) is GeneratorType:
        try:
            produced.close()
        except KeyboardInterrupt:
            raise
        except BaseException:  # the first failure is the one to tell
            pass


def _refuse_type(output: Any, trigger: BoundTrigger) -> NoReturn:
    said = "yielded" if trigger.generator else "returned"
    raise TriggerModuleError(
        f"it {said} an object of type {type(output).__name__} as an output; outputs are Put, Delete, Event and Merge"
    )


def _refuse_op(op: int, target: Target) -> NoReturn:
    if EVENT in target.takes:
        raise TriggerModuleError(
            f"map {target.name!r} is a stream, which takes Event and not {OP_NAMES[op].title()}", map=target.name
        )
    if op == MERGE:
        raise TriggerModuleError(
            f"map {target.name!r} has no fold, so it takes no Merge; declare it with table({target.name!r}, ..., fold=function)",
            map=target.name,
        )
    raise TriggerModuleError(
        f"map {target.name!r} is a table, which takes Put and Delete and not Event", map=target.name
    )


def _refuse_depth(program: BoundMap, limit: int) -> NoReturn:
    raise TooLargeError(
        f"triggers set off triggers more than {limit} deep, at map {program.name!r}; do their maps form a circle?",
        what="chain of triggers",
        limit=limit,
    )


def _refuse_count(limit: int) -> NoReturn:
    raise TooLargeError(
        f"the write has more than {limit:,} outputs; emit fewer, or summarise", what="outputs", limit=limit
    )
