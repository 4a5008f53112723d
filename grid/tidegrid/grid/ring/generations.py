"""Generations of derived maps: the same map, from the raw writes by other code. Part of the fold of the control log.

    generation := (map, number); number 1 is what the triggers made as the writes came
    content of a later one := its base below the epoch `since`, and what is in the log from there on

`since` is the epoch from which the code that made the base has been in force, so what the log has from there on was
made by the same code, and live writes need nothing done twice. Generations of a map differ below their `since` only.

A GENERATION record declares one: owners build it beside the live one. A SWITCH says which one readers see once the
stamping limit in force at its position is closed; earlier epochs are seen in the new shape then, too. It may go back.
A DROP lets go of one that nobody sees.

Invariants: the generation in force at an epoch is a function of the epoch alone (rule E3); it is always kept; numbers
are never taken again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.v1 import control_pb2

_NO_HORIZON: Final = Epoch(0)
FIRST: Final = 1  # what the triggers made as the writes came


class Generation(NamedTuple):
    """`base` names what stands for its outputs below `since`, as readers at or above `horizon` see them; `position` is that
    of its record."""

    map: str
    number: int
    since: Epoch
    base: str
    position: Position
    time_ms: int
    by: str
    horizon: Epoch = _NO_HORIZON


class Switch(NamedTuple):
    """Readers see generation `number` once `acts_at` is closed."""

    map: str
    number: int
    acts_at: Epoch
    position: Position
    time_ms: int


class Generations:
    """Appended to in log order, read by epoch."""

    __slots__ = ("_highest", "_kept", "_switches", "_without_first")

    def __init__(self) -> None:
        self._kept: dict[str, dict[int, Generation]] = {}  # by map, those after the first
        self._switches: dict[str, list[Switch]] = {}
        self._highest: dict[str, int] = {}
        self._without_first: set[str] = set()

    # Reading ----------------------------------------------------------------------------------------------------

    def at(self, map_name: str, epoch: Epoch) -> int:
        """The generation that readers see when `epoch` is the highest that is closed. O(log switches)."""
        switches = self._switches.get(map_name)
        if not switches:
            return FIRST
        index = bisect_right(switches, epoch, key=_acts_at)
        return switches[index - 1].number if index else FIRST

    def kept(self, map_name: str) -> tuple[int, ...]:
        """The numbers of those that can be read, or are being built, lowest first."""
        first = () if map_name in self._without_first else (FIRST,)
        return (*first, *sorted(self._kept.get(map_name, ())))

    def generation(self, map_name: str, number: int) -> Generation | None:
        """One after the first, if it is kept."""
        return self._kept.get(map_name, {}).get(number)

    def regenerated(self) -> Iterable[Generation]:
        """All after the first that are kept."""
        return [one for kept in self._kept.values() for one in kept.values()]

    def switches(self, map_name: str) -> tuple[Switch, ...]:
        return tuple(self._switches.get(map_name, ()))

    def switch_after(self, map_name: str, epoch: Epoch) -> Switch | None:
        """The first that acts above `epoch`."""
        switches = self._switches.get(map_name, [])
        index = bisect_right(switches, epoch, key=_acts_at)
        return switches[index] if index < len(switches) else None

    def wanted(self, map_name: str) -> int:
        """The generation of the newest switch, whether it acts yet or not."""
        switches = self._switches.get(map_name)
        return switches[-1].number if switches else FIRST

    def seen_from(self, map_name: str, closed: Epoch) -> set[int]:
        """What readers see at `closed` or will see after it, if only for an epoch between two switches."""
        later = (one.number for one in self._switches.get(map_name, ()) if one.acts_at > closed)
        return {self.at(map_name, closed), *later}

    @property
    def highest_activation(self) -> Epoch:
        return max((switches[-1].acts_at for switches in self._switches.values()), default=Epoch(0))

    # Folding ----------------------------------------------------------------------------------------------------

    def declare(
        self, position: Position, message: control_pb2.Generation, derived: Callable[[str], bool]
    ) -> tuple[Generation, ...]:
        """What was declared: each of the maps that are derived gets its next number."""
        made: list[Generation] = []
        for name in message.maps:
            if derived(name):
                number = self._highest[name] = self._highest.get(name, FIRST) + 1
                since, base = Epoch(message.since), message.base
                one = Generation(
                    name, number, since, base, position, message.time_ms, message.by, Epoch(message.horizon)
                )
                self._kept.setdefault(name, {})[number] = one
                made.append(one)
        return tuple(made)

    def switch(self, position: Position, message: control_pb2.Switch, acts_at: Epoch) -> tuple[Switch, ...]:
        """What was switched: to a generation that is kept, and not the one that readers will see anyway."""
        made: list[Switch] = []
        for to in message.to:
            name, number = to.map, to.number
            if number in self.kept(name) and number != self.wanted(name):
                switches = self._switches.setdefault(name, [])
                if switches and switches[-1].acts_at == acts_at:
                    switches.pop()  # of two that act at one epoch the later record wins
                made.append(Switch(name, number, acts_at, position, message.time_ms))
                switches.append(made[-1])
        return tuple(made)

    def drop(self, message: control_pb2.Drop, closed: Epoch) -> tuple[tuple[str, int], ...]:
        """What was let go of: nothing that readers see, or will see by a switch that is known."""
        made: list[tuple[str, int]] = []
        for of in message.of:
            name, number = of.map, of.number
            if number in self.kept(name) and number not in self.seen_from(name, closed):
                if number == FIRST:
                    self._without_first.add(name)
                else:
                    del self._kept[name][number]
                made.append((name, number))
        return tuple(made)

    # Checkpoint -------------------------------------------------------------------------------------------------

    def to_plain(self) -> list[Any]:
        return [
            [list(one) for name in sorted(self._kept) for _, one in sorted(self._kept[name].items())],
            [list(one) for name in sorted(self._switches) for one in self._switches[name]],
            sorted(self._highest.items()),
            sorted(self._without_first),
        ]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> Generations:
        made = cls()
        kept, switches, highest, without_first = plain
        for row in kept:
            one = Generation(*row)
            made._kept.setdefault(one.map, {})[one.number] = one
        for row in switches:
            switch = Switch(*row)
            made._switches.setdefault(switch.map, []).append(switch)
        made._highest = dict(highest)
        made._without_first = set(without_first)
        return made


def _acts_at(switch: Switch) -> Epoch:
    return switch.acts_at
