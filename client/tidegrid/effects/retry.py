"""How long to wait before an effect is tried again: pure.

Doubled each time up to a maximum, and between half and all of that by chance, so that what failed together does not
come back together.
"""

from __future__ import annotations

from tidegrid.triggers.effect import EffectDeclaration

_DOUBLINGS_MAX = 60  # past any maximum, and within what a float takes


def pause_seconds(effect: EffectDeclaration, failures: int, chance: float) -> float:
    """After so many `failures` in a row (1, 2, ...); `chance` is from 0 to 1."""
    grown = effect.backoff_seconds * float(1 << min(failures - 1, _DOUBLINGS_MAX))
    most = max(effect.backoff_seconds, effect.backoff_seconds_max)
    return min(most, grown) * (0.5 + chance / 2)


def exhausted(effect: EffectDeclaration, failures: int) -> bool:
    return effect.retries is not None and failures > effect.retries
