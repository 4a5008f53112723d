"""Folds at work: from bytes to bytes, and never an exception.

A fold that fails, or makes what is no value, leaves the state as it was: the operand is in the log already, and every
copy has to come to the same. It is counted, and the last failure is kept for people.
"""

from __future__ import annotations

from typing import Any

from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.texts import sayable
from tidegrid.grid.model.values import decode_value, encode_value
from tidegrid.triggers.blame import text_of
from tidegrid.triggers.declare import FoldFunction


class BoundFold:
    """The fold of one map: `fold(state or None, operand)` gives the new state, None where there is none any more."""

    __slots__ = ("_fold", "_limits", "failures", "last_failure", "name")

    def __init__(self, name: str, fold: FoldFunction, limits: Limits) -> None:
        self.name = name
        self.failures = 0
        self.last_failure = ""
        self._fold = fold
        self._limits = limits

    def __call__(self, state: bytes | None, operand: bytes) -> bytes | None:
        try:
            made: Any = self._fold(None if state is None else decode_value(state), decode_value(operand))
            return None if made is None else encode_value(made, self._limits)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.failures += 1
            self.last_failure = sayable(text_of(error))
            return state
