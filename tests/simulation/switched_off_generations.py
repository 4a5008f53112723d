"""Rules of generations switched off. See mutations.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tidegrid.grid.engine import building, feed, tables
from tidegrid.grid.model.ids import Epoch

from tests.simulation import followers

Patch = pytest.MonkeyPatch


def others_left_behind(patch: Patch) -> None:
    """What lands goes to the generation that readers see alone."""

    def apply(self: tables.Tables, name: str, *columns: Any) -> None:
        table = self.get(name)
        if table is not None:
            table.apply(*columns)

    patch.setattr(tables.Tables, "apply", apply)


def late_outputs_counted_with_the_base(patch: Patch) -> None:
    """What was routed late has an effective epoch that the base has already."""
    right = building.Build._take

    def take(self: building.Build, item: Any) -> None:
        since, self.generation = self.generation, self.generation._replace(since=Epoch(0))
        right(self, item)
        self.generation = since

    patch.setattr(building.Build, "_take", take)


def built_from_what_has_not_landed(patch: Patch) -> None:
    """The log may have a frame before its partition is told."""

    def read(self: building.Build, after: Any, records: Sequence[Any]) -> bool:
        self._position = after
        for item in records:
            self._take(item)
            self._position = item.position
        return not records or self._position >= self.partition.tail

    patch.setattr(building.Build, "read", read)


def opened_without_them(patch: Patch) -> None:
    right = building.Builds.look

    def look(self: building.Builds, partition: Any) -> bool:
        right(self, partition)
        return False

    patch.setattr(building.Builds, "look", look)


def followed_across_a_switch(patch: Patch) -> None:
    def through_it(generations: Any, map_name: str, after: Epoch, through: Epoch) -> Epoch:
        return through

    for module in (feed, followers):
        patch.setattr(module, "pause_at", through_it)
