"""What the author of a trigger module imports.

    from tidegrid.triggers import Context, Event, Put, Reject, Write, reference, stream, table, trigger

A trigger module declares maps (`table`, `stream`, `reference`) and triggers (`@trigger`). A trigger is a pure function
of the write, the value before it and look-ups: the node that owns the key runs it on every write to its map, and what
it yields becomes durable with that write, or neither does. Work outside the grid is an `@effect`, which a runner beside
the grid calls for every change (`tidegrid.effects`). `tidegrid.triggers.testing` runs one with no grid,
and `tidegrid.triggers.shelf` has ready-made ones.
"""

from tidegrid.triggers.context import Context
from tidegrid.triggers.declare import factory, reference, stream, table, trigger
from tidegrid.triggers.effect import EffectEvent, GiveUp, effect
from tidegrid.triggers.outputs import Delete, Event, Merge, Put, Reject
from tidegrid.triggers.write import Write

__all__ = [
    "Context",
    "Delete",
    "EffectEvent",
    "Event",
    "GiveUp",
    "Merge",
    "Put",
    "Reject",
    "Write",
    "effect",
    "factory",
    "reference",
    "stream",
    "table",
    "trigger",
]
