"""A generation of derived maps from its base to what readers see: declared, complete at every owner, switched to.

Each step is a record of the control log that can be there already, from a run that was ended: then it is gone on with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tidegrid.grid.engine.building import BuildId
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.model.errors import ConfigurationError, UnknownMapError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.generations import FIRST
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.opening import append_control, fold_control
from tidegrid.grid.runtime.replay_plan import ReplayPlan
from tidegrid.v1.control_pb2 import ControlRecord, Drop, Generation, MapGeneration, Switch

_LOOK_SECONDS: Final = 0.02
_PROBLEM_SECONDS: Final = 3.0  # a base that cannot be loaded for so long is not waited for

Numbers = Mapping[str, int]
"""Map -> generation."""


async def declare(log: Log, plan: ReplayPlan, by: str, time_ms: int) -> Numbers:
    """The generations of the plan's base, which are kept from here on."""

    def known(control: ControlState) -> dict[str, int]:
        found = control.generations.regenerated()
        return {one.map: one.number for one in found if one.base == plan.name and one.map in plan.maps}

    def make(control: ControlState) -> ControlRecord | None:
        missing = [name for name in plan.maps if name not in known(control)]
        if not missing:
            return None
        horizon = ControlState.from_bytes(plan.control).horizon
        made = Generation(maps=missing, since=plan.before, base=plan.name, by=by, time_ms=time_ms, horizon=horizon)
        return ControlRecord(generation=made)

    control = await fold_control(log)
    await append_control(log, control, make)
    return known(control)


async def complete(drivers: Sequence[Driver], numbers: Numbers) -> None:
    """Returns when every owner has them. Raises what keeps a base from being loaded."""
    waited = 0.0
    while missing := [build for driver in drivers for build in _missing(driver, numbers)]:
        problems = [problem for driver in drivers for problem in driver.node.tenure.builds.problems.items()]
        ours = [error for build, error in problems if build in missing]
        if ours and waited >= _PROBLEM_SECONDS:
            raise ours[0]
        waited = waited + _LOOK_SECONDS if ours else 0.0
        await asyncio.sleep(_LOOK_SECONDS)


def _missing(driver: Driver, numbers: Numbers) -> Iterable[BuildId]:
    control = driver.node.control
    for name, number in numbers.items():
        declared = control.generations.generation(name, number)
        for partition in driver.node.partitions.values():
            known = declared is not None or number == FIRST
            if not known or not partition.serving or partition.tables.generation(name, number) is None:
                yield partition.id, partition.claim, name, number


async def switch(log: Log, numbers: Numbers, by: str, time_ms: int) -> Epoch:
    """Returns the epoch from which on readers see them. Raises UnknownMapError, ConfigurationError."""

    def make(control: ControlState) -> ControlRecord | None:
        check_kept(control, numbers)
        to = [MapGeneration(map=name, number=n) for name, n in numbers.items() if control.generations.wanted(name) != n]
        return ControlRecord(switch=Switch(to=to, by=by, time_ms=time_ms)) if to else None

    control = await fold_control(log)
    await append_control(log, control, make)
    return max((one[-1].acts_at for name in numbers if (one := control.generations.switches(name))), default=Epoch(0))


async def drop(log: Log, numbers: Numbers) -> Position:
    """Returns where in the control log they are gone. Raises UnknownMapError, ConfigurationError: there is none, or readers
    see it."""

    def make(control: ControlState) -> ControlRecord:
        check_kept(control, numbers)
        for name, number in numbers.items():
            if number in (control.generations.wanted(name), control.generations.at(name, control.closed)):
                raise ConfigurationError(
                    f"generation {number} of map {name!r} is the one that readers see; switch to another first",
                    map=name,
                    generation=number,
                )
        return ControlRecord(drop=Drop(of=[MapGeneration(map=name, number=n) for name, n in numbers.items()]))

    control = await fold_control(log)
    await append_control(log, control, make)
    return control.position


def check_kept(control: ControlState, numbers: Numbers) -> None:
    """Raises UnknownMapError, ConfigurationError."""
    for name, number in numbers.items():
        if name not in control.declared:
            raise UnknownMapError.of(name, control.declared)
        kept = control.generations.kept(name)
        if number not in kept:
            raise ConfigurationError(
                f"map {name!r} has no generation {number}; there is {' and '.join(map(str, kept))}",
                map=name,
                generation=number,
            )
