"""The tables of one partition, by map: the one that readers see, and beside it the other generations of a derived map.

Every generation of a map takes in what lands, so readers may go on to another, and back again, at any close; they
differ below the epoch from which the base of each counts (ring/generations.py). As a mapping this is map -> the table
that readers see; maps with one generation, nearly all, cost nothing more than that.

Invariants: where `_shelf` has a map, it has all of its generations that are complete here, the one that readers see
among them; a generation that is being built is not here yet (building.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.ring.generations import FIRST, Generation, Generations
from tidegrid.grid.store.merged import Fold, MergedTable
from tidegrid.grid.store.table import Table

FoldOf = Callable[[str, Epoch], Fold]
"""The fold of a map with one, as of an epoch."""

_SEPARATOR: Final = "@"  # in no map's name


def no_folds(map_name: str, _epoch: Epoch) -> Fold:
    raise AssertionError(f"map {map_name!r} has no fold")


class Tables(dict[str, Table]):
    __slots__ = ("_fold_of", "_session_epochs", "_shelf", "horizon")

    def __init__(self, session_epochs: int, fold_of: FoldOf = no_folds) -> None:
        super().__init__()
        self.horizon = Epoch(0)  # when these were begun: none that let versions go before was further
        self._session_epochs = session_epochs
        self._fold_of = fold_of
        self._shelf: dict[str, dict[int, Table]] = {}

    def declare(self, specs: Iterable[MapSpec]) -> None:
        for spec in specs:
            if spec.merged and not isinstance(self.get(spec.name), MergedTable):
                self[spec.name] = self.new(spec.name, merged=True)
            elif spec.stateful and spec.name not in self:
                self[spec.name] = self.new(spec.name)

    def new(self, map_name: str, *, merged: bool = False) -> Table:
        """A tombstone outlives the sessions that may still refer to its version number."""
        if merged:
            return MergedTable(partial(self._fold_of, map_name), self._session_epochs, self.horizon)
        return Table(self._session_epochs, self.horizon)

    def fold(self, map_name: str, epoch: Epoch) -> Fold:
        """Of a map with one, as of an epoch."""
        return self._fold_of(map_name, epoch)

    def apply(
        self,
        name: str,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        ops: bytes,
        versions: Sequence[int],
        stamp: Stamp,
    ) -> None:
        """The columns of one section, to every generation of its map."""
        table = self.get(name)
        if table is not None:
            table.apply(keys, values, ops, versions, stamp)
        if name in self._shelf:
            for other in self._shelf[name].values():
                if other is not table:
                    other.apply(keys, values, ops, versions, stamp)

    def settle(self, closed: Epoch) -> None:
        """Nothing comes at or below `closed` any more."""
        for _, table in self.every():
            if isinstance(table, MergedTable):
                table.settle(closed)

    # Generations ---------------------------------------------------------------------------------------------------

    def generation(self, map_name: str, number: int) -> Table | None:
        """None: it was dropped, or is not complete here."""
        shelf = self._shelf.get(map_name)
        if shelf is None:
            return self.get(map_name) if number == FIRST else None
        return shelf.get(number)

    def missing(self, generations: Generations) -> list[Generation]:
        """Those that are kept and not complete here."""
        return [one for one in generations.regenerated() if self.generation(one.map, one.number) is None]

    def add(self, generation: Generation, table: Table) -> None:
        """It is complete: from now on it takes in what lands."""
        shelf = self._shelf.setdefault(generation.map, {FIRST: self[generation.map]})
        assert generation.number not in shelf
        shelf[generation.number] = table

    def follow(self, generations: Generations, closed: Epoch) -> None:
        """Lets go of what was dropped, and shows what readers see as of `closed`, where it is complete."""
        for name, shelf in self._shelf.items():
            kept = generations.kept(name)
            for number in [number for number in shelf if number not in kept]:
                del shelf[number]
            shown = shelf.get(generations.at(name, closed))
            if shown is not None:
                self[name] = shown

    def every(self) -> Iterator[tuple[str, Table]]:
        """(name in a checkpoint, table): the first generation of a map by the map's name, the others numbered."""
        for name, table in self.items():
            if name not in self._shelf:
                yield name, table
        for name, shelf in self._shelf.items():
            for number, table in shelf.items():
                yield name if number == FIRST else f"{name}{_SEPARATOR}{number}", table

    def shelved(self) -> list[tuple[str, int]]:
        """(map, number) of all generations of the maps that have several."""
        return [(name, number) for name, shelf in self._shelf.items() for number in shelf]

    def restore(self, shelved: Iterable[tuple[str, int]]) -> None:
        """Empty tables for exactly these, to be filled from a checkpoint."""
        for name, number in shelved:
            shelf = self._shelf.setdefault(name, {})
            known = self.get(name)
            shelf[number] = self.new(name, merged=isinstance(known, MergedTable))
            if len(shelf) == 1:
                self[name] = shelf[number]

    def named(self, name: str) -> Table:
        """That of a name in a checkpoint, or of a map in the log; it is made when it is not there. Raises KeyError."""
        map_name, _, number = name.partition(_SEPARATOR)
        if map_name in self._shelf:
            return self._shelf[map_name][int(number or FIRST)]
        found = self.get(map_name)
        if found is None:
            found = self[map_name] = self.new(map_name)
        return found
