"""Runs declared effects (`tidegrid.triggers.effect`): work outside the grid, at least once for every change of a map.

A runner is a client of the grid. It follows maps by closed epochs, calls the effects of a module, and keeps in a file
of its own how far each is. Nodes know nothing of it.
"""

from tidegrid.effects.clock import Clock, SystemClock
from tidegrid.effects.module import EffectModule, effect_module
from tidegrid.effects.performing import Failure
from tidegrid.effects.run import EffectsRun, run_effects
from tidegrid.effects.runner import Progress
from tidegrid.effects.state_file import Cursor, Parked, StateFile, translated

__all__ = [
    "Clock",
    "Cursor",
    "EffectModule",
    "EffectsRun",
    "Failure",
    "Parked",
    "Progress",
    "StateFile",
    "SystemClock",
    "effect_module",
    "run_effects",
    "translated",
]
