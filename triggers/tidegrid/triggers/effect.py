"""What a trigger module says about work outside the grid: `@effect`, and what such a function is given.

    @effect(on="delays", retries=8, on_give_up="park")
    def mail(event: EffectEvent): ...

A trigger is a pure part of the write, and all nodes agree on what it does; an effect is the place for I/O. No node ever
runs one: it is declared beside the triggers, and a runner of its own (`tidegrid effects`, `tidegrid.effects`) follows
the map and calls it for every change, at least once, in time of its own. So this file knows no clock and no event
loop, as all of this package; it is the declaration alone.

Declarations are kept as those of maps and triggers are (declare.py). Each has one cursor, and so one map.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, get_args

from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.triggers.declare import DECLARATIONS, Declarations

OnGiveUp = Literal["stop", "skip", "park"]
Order = Literal["key", "any"]
F = TypeVar("F", bound=Callable[..., Any])

CONCURRENCY_MAX: Final = 1_000
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}")


@dataclass(frozen=True, slots=True)
class EffectDeclaration:
    """`retries` are tries after the first one; None: for ever. `line` is that of the function."""

    name: str
    function: Callable[..., Any]
    on: str
    retries: int | None
    backoff_seconds: float
    backoff_seconds_max: float
    on_give_up: OnGiveUp
    concurrency: int
    order: Order
    asynchronous: bool
    line: int


@dataclass(frozen=True, slots=True)
class EffectEvent:
    """One change of a map, as an effect is given it.

    `id` names the change for this effect, for ever: the same each time it is given again, and not found in any other
    grid. Hand it to the other side as idempotency key. `op` is "event" of a stream, "put" or "delete" of a table;
    `value` is None for a delete, `version` 0 for an event. `key` is a tuple, also when it has one element. `attempt`
    counts from 1; after a restart of the runner it begins anew.
    """

    id: str
    map: str
    op: str
    key: tuple[Any, ...]
    value: Any
    version: int
    epoch: int
    time_ms: int
    partition: int
    position: int
    index: int
    attempt: int = 1


class GiveUp(Exception):
    """Raise it in an effect to say that trying again is of no use: `on_give_up` says what happens then."""


def effect(
    *,
    on: str,
    name: str | None = None,
    retries: int | None = 8,
    backoff_seconds: float = 0.5,
    backoff_seconds_max: float = 60.0,
    on_give_up: OnGiveUp = "stop",
    concurrency: int = 1,
    order: Order = "key",
) -> Callable[[F], F]:
    """Declares a plain or async function of (event) as an effect on one map, and gives it back unchanged.

    It is called for every change of the map, at least once, by a runner outside the grid; plain functions in a thread
    of their own. Returning is success; whatever it raises is a failure, and it is tried again up to `retries` times
    (None: for ever), after `backoff_seconds`, doubled each time up to `backoff_seconds_max`, with jitter.

    `on_give_up`: "stop" ends the runner with an error, and the change is given again at the next start; "skip" goes on
    without it; "park" keeps it, to be listed and driven again. `concurrency` is how many calls may be under way, one
    that waits to be tried again included. 1: one change after the other, as the map's feed has them; more, with
    `order="key"`: changes of one key one after the other; with `order="any"`: as it comes.

    `name` (the function's, unless given) is what the cursor goes by. Raises ConfigurationError.
    """
    frame = sys._getframe(1)

    def declare(function: F) -> F:
        declared = EffectDeclaration(
            name=_checked_name(function, name),
            function=function,
            on=on,
            retries=retries,
            backoff_seconds=backoff_seconds,
            backoff_seconds_max=backoff_seconds_max,
            on_give_up=on_give_up,
            concurrency=concurrency,
            order=order,
            asynchronous=inspect.iscoroutinefunction(function),
            line=function.__code__.co_firstlineno,
        )
        _check(declared)
        found: Declarations = frame.f_globals.setdefault(DECLARATIONS, Declarations())
        found.effects.append(declared)
        return function

    return declare


def _checked_name(function: Callable[..., Any], name: str | None) -> str:
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise ConfigurationError(f"@effect belongs on a function written with def or async def, not on {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"effect {function.__name__!r} yields; an effect puts nothing into the grid by itself: do the work and return"
        )
    chosen = function.__name__ if name is None else name
    if not isinstance(chosen, str) or not _NAME.fullmatch(chosen):
        raise ConfigurationError(
            f"effect name {chosen!r}: use letters, digits, '_', '-' and '.', at most 128, and begin with a letter"
        )
    signature = inspect.signature(function)
    try:
        signature.bind(None)
    except TypeError:
        raise ConfigurationError(
            f"effect {chosen!r} has the signature {function.__name__}{signature}; it is called with (event)"
        ) from None
    return chosen


def _check(declared: EffectDeclaration) -> None:
    def refuse(text: str) -> ConfigurationError:
        return ConfigurationError(f"effect {declared.name!r}: {text}")

    if not isinstance(declared.on, str) or not declared.on:
        raise refuse(
            f"on={declared.on!r} is not the name of one map; put @effect on the function once per map, each with a name="
        )
    retries = declared.retries
    if retries is not None and (not isinstance(retries, int) or isinstance(retries, bool) or retries < 0):
        raise refuse(f"retries={retries!r}; give a number, 0 for one try only, or None for trying for ever")
    for name in ("backoff_seconds", "backoff_seconds_max"):
        seconds = getattr(declared, name)
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds <= 86_400:
            raise refuse(f"{name}={seconds!r}; give seconds, from 0 to a day")
    if declared.on_give_up not in get_args(OnGiveUp):
        raise refuse(f"on_give_up={declared.on_give_up!r}; choose 'stop', 'skip' or 'park'")
    if declared.order not in get_args(Order):
        raise refuse(f"order={declared.order!r}; choose 'key' or 'any'")
    concurrency = declared.concurrency
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or not 1 <= concurrency <= CONCURRENCY_MAX:
        raise refuse(f"concurrency={concurrency!r}; give a number from 1 to {CONCURRENCY_MAX:,}")
