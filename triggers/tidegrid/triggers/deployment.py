"""A deployment: trigger modules, the maps they declare and the triggers they define, pinned by a content hash.

The hash covers names and sources of the modules, in order, each with its length before it: two deployments with one
hash run the same code. It is what a DEPLOY record carries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tidegrid.grid.model.maps import MapSpec
from tidegrid.triggers.declare import FoldFunction, Isolation, OnError, TriggerFunction
from tidegrid.triggers.typed import ValueType


class Module(NamedTuple):
    name: str
    source: str


@dataclass(frozen=True, slots=True)
class TriggerSpec:
    """One trigger, bound to code. `namespace` is its module's: frames with these globals are the author's."""

    name: str
    module: str
    line: int
    function: TriggerFunction
    on: tuple[str, ...]
    emits: tuple[str, ...]
    schema: int | None
    takes_context: bool
    generator: bool
    namespace: dict[str, Any]
    value: ValueType | None = None
    on_error: OnError = "reject"
    isolation: Isolation = "inline"
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """`maps` are those the modules declare, with `derived` set on those that receive outputs; `triggers` in order;
    `folds` by map."""

    modules: tuple[Module, ...]
    maps: tuple[MapSpec, ...]
    triggers: tuple[TriggerSpec, ...]
    hash: bytes
    folds: Mapping[str, FoldFunction] = field(default_factory=dict)


def content_hash(modules: Iterable[Module]) -> bytes:
    """SHA-256, 32 bytes."""
    digest = hashlib.sha256()
    for module in modules:
        for text in module:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
    return digest.digest()


EMPTY = Deployment(modules=(), maps=(), triggers=(), hash=content_hash(()))
"""A grid without triggers."""
