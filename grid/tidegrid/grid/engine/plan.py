"""What a deployment would change, from declarations alone: triggers, maps, and what it is a plan for.

A plan has an id: it stands for this content on these declarations. Whoever deploys with it is refused when code or
maps have been declared since, or when the content is another. It says nothing of the members: those are asked anew.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.triggers.deployment import Deployment, TriggerSpec
from tidegrid.v1.grid_pb2 import MapChange, TriggerChange

_ID_DIGITS: Final = 12


def plan_id(control: ControlState, content: bytes) -> str:
    """`content` is the hash of the deployment."""
    digest = hashlib.sha256(control.grid_id + content)
    newest = control.deployments[-1] if control.deployments else None
    digest.update((newest.position if newest is not None else 0).to_bytes(8, "big"))
    for name in sorted(control.declared):
        digest.update(spec_message(control.declared[name]).SerializeToString(deterministic=True))
    return digest.hexdigest()[:_ID_DIGITS]


def trigger_changes(active: Deployment | None, coming: Deployment) -> list[TriggerChange]:
    """By name: what came, what went, and whether the text of what stayed is another."""
    before = {trigger.name: trigger for trigger in active.triggers} if active is not None else {}
    texts = (_texts(active) if active is not None else {}, _texts(coming))
    sources = tuple({m.name: m.source for m in side.modules} if side is not None else {} for side in (active, coming))
    changes: list[TriggerChange] = []
    for trigger in coming.triggers:
        old = before.pop(trigger.name, None)
        if old is None:
            change = "added"
        elif _declared(old) != _declared(trigger) or texts[0].get(trigger.name) != texts[1].get(trigger.name):
            change = "changed"
        else:
            change = "same" if sources[0] == sources[1] else "module"
        changes.append(_change(trigger, change))
    changes.extend(_change(trigger, "removed") for trigger in before.values())
    return changes


def map_changes(active: Deployment | None, coming: Deployment, declared: Mapping[str, MapSpec]) -> list[MapChange]:
    """Of the maps that either of them declares, reads or writes."""
    changes: list[MapChange] = []
    specs = {spec.name: spec for spec in coming.maps}
    used = [name for side in (coming, active) if side is not None for t in side.triggers for name in (*t.on, *t.emits)]
    for name in dict.fromkeys([*specs, *used]):
        spec = specs.get(name) or declared.get(name)
        if spec is None:
            continue
        known = declared.get(name)
        change = "same"
        if known is None:
            change = "added"
        elif spec.derived != known.derived:
            change = "derived"
        elif spec.schema != known.schema:
            change = "schema"
        changes.append(
            MapChange(
                spec=spec_message(spec),
                change=change,
                read_by=[trigger.name for trigger in coming.triggers if name in trigger.on],
                written_by=[trigger.name for trigger in coming.triggers if name in trigger.emits],
            )
        )
    return changes


def touched_maps(active: Deployment | None, coming: Deployment, changes: Iterable[TriggerChange]) -> set[str]:
    """Maps on which, or into which, something that is not just the same runs from now on."""
    other = {change.name for change in changes if change.change != "same"}
    sides = [side for side in (active, coming) if side is not None]
    return {name for side in sides for t in side.triggers if t.name in other for name in (*t.on, *t.emits)}


def source_maps(active: Deployment | None, coming: Deployment, declared: Mapping[str, MapSpec]) -> list[str]:
    """The maps whose raw writes show a difference: with triggers in either, written by clients."""
    sides = [side for side in (active, coming) if side is not None]
    names = dict.fromkeys(name for side in sides for trigger in side.triggers for name in trigger.on)
    return [name for name in names if name in declared and not declared[name].derived]


def _change(trigger: TriggerSpec, change: str) -> TriggerChange:
    return TriggerChange(name=trigger.name, module=trigger.module, change=change, on=trigger.on, emits=trigger.emits)


def _declared(trigger: TriggerSpec) -> tuple[object, ...]:
    return (
        trigger.module,
        trigger.on,
        trigger.emits,
        trigger.schema,
        trigger.on_error,
        trigger.isolation,
        trigger.budget,
    )


def _texts(deployment: Deployment) -> dict[str, str]:
    """Trigger -> what its function says, comments and layout left aside."""
    texts: dict[str, str] = {}
    for module in deployment.modules:
        for node in ast.walk(ast.parse(module.source)):
            if isinstance(node, ast.FunctionDef):
                texts[node.name] = ast.dump(node)
    return texts
