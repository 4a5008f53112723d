"""The trigger runtime: a deployment and the maps of the grid, made ready to run.

    runtime = TriggerRuntime(deployment, maps, partitions, limits)      once per deployment
    program = runtime.program(map_name)                                 None: no triggers, skip everything
    session = runtime.bind(FrameContext(...), state)                    once per frame
    session.activate(program, op, key, value, version, name, schema)    once per write: outputs or a Rejection
    runtime.folds[map_name](state, operand)                             state, for tables with a fold

Pure: no clock, no I/O, no randomness of its own. Caches live here, bounded, and hold nothing but what decodes to the
same again. One runtime serves any number of partitions from one thread.
"""

from __future__ import annotations

from collections.abc import Mapping

from tidegrid.grid.model.errors import TriggerModuleError, UnknownMapError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapKind, MapSpec
from tidegrid.grid.model.partitioner import Partitioner
from tidegrid.triggers.batch import encode_code
from tidegrid.triggers.bound import BoundMap, BoundTrigger, Output, Routed, Target, reach_of
from tidegrid.triggers.budget import Watch
from tidegrid.triggers.context import Context, FrameContext, State
from tidegrid.triggers.decoded import DecodedValues, LookedUp
from tidegrid.triggers.deployment import Deployment, TriggerSpec
from tidegrid.triggers.folding import BoundFold
from tidegrid.triggers.rejection import Rejection
from tidegrid.triggers.session import Session
from tidegrid.triggers.strict import StrictMode

__all__ = ["BoundMap", "FrameContext", "Output", "Rejection", "Routed", "Session", "State", "TriggerRuntime"]


class TriggerRuntime:
    """`maps` are all maps in force in the grid, those of the deployment included.

    `strict` runs everything twice to find triggers that break their contract (strict.py): for tests and development.
    Raises TriggerModuleError for a trigger on or to a map that is not among them.
    """

    def __init__(
        self,
        deployment: Deployment,
        maps: Mapping[str, MapSpec],
        partitions: int,
        limits: Limits,
        *,
        strict: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self.deployment = deployment
        self._specs = dict(maps)
        self._partitions = partitions
        self._code: bytes | None = None
        self._watch = watch or Watch()
        self._suspended: Mapping[str, str] = {}
        self._limits = limits
        self._decoded = DecodedValues()
        self._maps = {name: BoundMap(spec, Partitioner(partitions, spec.affinity).of) for name, spec in maps.items()}
        self._looked_up = {name: LookedUp() for name, bound in self._maps.items() if bound.kind is MapKind.REFERENCE}
        self._looked_up_epoch = Epoch(0)
        self.folds = {name: BoundFold(name, fold, limits) for name, fold in deployment.folds.items()}
        for trigger in deployment.triggers:
            for name in (*trigger.on, *trigger.emits):
                if name not in self._maps:
                    problem = UnknownMapError.of(name, self._maps)
                    raise TriggerModuleError(
                        f"trigger {trigger.name!r}: {problem.message}", module=trigger.module, line=trigger.line
                    )
            for name in trigger.on:
                source = self._maps[name]
                source.triggers = (*source.triggers, self._bind_trigger(trigger, source))
        for bound in self._maps.values():
            bound.reach = reach_of(bound, limits.trigger_seconds)
        self._strict: StrictMode | None = None
        if strict:
            self._strict = StrictMode(
                deployment, lambda watched: TriggerRuntime(watched, maps, partitions, limits, watch=self._watch)
            )

    def program(self, map_name: str) -> BoundMap | None:
        """The triggers of a map; None where it has none."""
        found = self._maps.get(map_name)
        return found if found is not None and found.triggers else None

    def stateful(self, map_name: str) -> bool:
        return self._maps[map_name].kind is not MapKind.STREAM

    @property
    def isolated(self) -> bool:
        """Whether anything here runs in worker processes."""
        return any(trigger.isolation == "process" for trigger in self.deployment.triggers)

    def bind(self, frame: FrameContext, state: State) -> Session:
        """A session for the writes of one frame."""
        if frame.ref_epoch != self._looked_up_epoch:  # sessions of before keep their own
            self._looked_up_epoch = frame.ref_epoch
            self._looked_up = {name: LookedUp() for name in self._looked_up}
        context = Context(frame, state, self._maps, self._looked_up, self._decoded)
        session = Session(context, self._maps, frame.partition, self._limits, self._watch)
        return session if self._strict is None else self._strict.bind(session, frame, state)

    def suspend(self, why: Mapping[str, str]) -> None:
        """These triggers, by name, fail with this text, without being run; all others run."""
        if why == self._suspended:
            return
        self._suspended = dict(why)
        for trigger in {trigger for bound in self._maps.values() for trigger in bound.triggers}:
            if trigger.spec.name in why:
                trigger.suspend(why[trigger.spec.name])
            else:
                trigger.resume()
        if self._strict is not None:
            self._strict.suspend(why)

    @property
    def suspended(self) -> Mapping[str, str]:
        return self._suspended

    @property
    def code(self) -> bytes:
        """All that a worker process needs to run the same triggers (batch.py)."""
        if self._code is None:
            self._code = encode_code(self.deployment, self._specs, self._partitions, self._limits)
        return self._code

    def _bind_trigger(self, trigger: TriggerSpec, source: BoundMap) -> BoundTrigger:
        return BoundTrigger(trigger, {name: Target(source, self._maps[name]) for name in trigger.emits})
