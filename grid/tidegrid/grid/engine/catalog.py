"""What is in force at one epoch: the maps and the trigger code. A function of the epoch alone (rule E3).

A catalog is made when the epoch passes an activation, and shared by all frames until the next one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tidegrid.grid.engine.write import section_bytes
from tidegrid.grid.model.errors import UnknownMapError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.key_grammar import key_pattern
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.model.partitioner import Partitioner
from tidegrid.triggers.runtime import TriggerRuntime


@dataclass(frozen=True, slots=True)
class MapEntry:
    """A map with what is derived from its declaration once: `pattern` matches exactly its well-formed keys."""

    spec: MapSpec
    pattern: re.Pattern[bytes]
    partitioner: Partitioner

    @property
    def key_text(self) -> str:
        return ", ".join(f"{part.name}:{part.type}" for part in self.spec.key) or "any"


class Catalog:
    def __init__(
        self, since: Epoch, specs: Mapping[str, MapSpec], runtime: TriggerRuntime | None, partitions: int
    ) -> None:
        self.since = since
        self.runtime = runtime
        emitted = {name for trigger in runtime.deployment.triggers for name in trigger.emits} if runtime else ()
        self.output_sections_bytes = sum(map(section_bytes, emitted))
        self.maps = {
            name: MapEntry(spec, key_pattern(spec.key), Partitioner(partitions, spec.affinity))
            for name, spec in specs.items()
        }

    def map(self, name: str) -> MapEntry:
        """Raises UnknownMapError."""
        entry = self.maps.get(name)
        if entry is None:
            raise UnknownMapError.of(name, self.maps)
        return entry
