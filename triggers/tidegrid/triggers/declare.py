"""What a trigger module says about itself: `table`, `stream`, `reference` and `@trigger` (`@effect`: effect.py).

A declaration is written down in the namespace of the module whose code makes it, under `DECLARATIONS`. So a module
means the same whether a node executes its source, a test imports it, or somebody types it: there is no registry to
activate, and modules that a trigger module imports declare nothing on its behalf. Names are looked up when a
deployment is put together (resolve.py), so the order of declarations does not matter.

A function marked `@factory` declares on behalf of whoever calls it: that is how a library offers ready-made triggers.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.model.maps import KeyField, MapKind
from tidegrid.triggers.typed import ValueType

if TYPE_CHECKING:
    from tidegrid.triggers.effect import EffectDeclaration

DECLARATIONS: Final = "__tidegrid_declarations__"
FACTORIES: Final = "__tidegrid_factories__"

BUDGET_SECONDS_MIN: Final = 0.01
BUDGET_SECONDS_MAX: Final = 60.0  # time does not go on while a write is computed

TriggerFunction = Callable[..., Any]
FoldFunction = Callable[[Any, Any], Any]
F = TypeVar("F", bound=TriggerFunction)

OnError = Literal["reject", "park"]
"""What becomes of a write whose trigger fails: it is refused, or stored without its outputs."""

Isolation = Literal["inline", "process"]
"""Where a trigger runs: in the node itself, or in a worker process."""


@dataclass(frozen=True, slots=True)
class MapDeclaration:
    """`key` and `affinity` are None where the module leaves them to `like`, or to the trigger that emits."""

    name: str
    kind: MapKind
    key: tuple[KeyField, ...] | None
    like: str | None
    affinity: int | None
    schema: int
    line: int
    fold: FoldFunction | None = None


@dataclass(frozen=True, slots=True)
class TriggerDeclaration:
    name: str
    function: TriggerFunction
    on: tuple[str, ...]
    emits: tuple[str, ...]
    schema: int | None
    takes_context: bool
    generator: bool
    line: int
    value: ValueType | None = None
    on_error: OnError = "reject"
    isolation: Isolation = "inline"
    budget: float | None = None


@dataclass(slots=True)
class Declarations:
    """`effects` are for their runner (effect.py); nodes pass over them."""

    maps: list[MapDeclaration] = field(default_factory=list)
    triggers: list[TriggerDeclaration] = field(default_factory=list)
    effects: list[EffectDeclaration] = field(default_factory=list)


def table(
    name: str,
    key: Sequence[str] = (),
    *,
    like: str | None = None,
    affinity: int | None = None,
    schema: int = 0,
    fold: FoldFunction | None = None,
) -> None:
    """Declares a map of keyed state.

    `key` names the elements of a key, each `"name"` (a str) or `"name:type"` with a type of str, int, float, bool,
    bytes, any. `like` takes key and affinity from another map. `affinity=n` puts keys with equal first n elements
    into one partition, so that triggers can look them up. `schema` is the schema number of writes that name none.

    `fold(state, operand)` gives the table's new value of a key for each `Merge` that triggers emit to it; `state` is None
    at first, and None as the answer deletes. It must be pure, and must not change its arguments. One that fails leaves
    the state as it was.
    """
    if fold is not None and not callable(fold):
        raise ConfigurationError(f"map {name!r}: fold is {fold!r}; give a function of (state, operand)", map=name)
    _declare(sys._getframe(1), MapKind.TABLE, name, key, like, affinity, schema, fold)


def stream(
    name: str, key: Sequence[str] = (), *, like: str | None = None, affinity: int | None = None, schema: int = 0
) -> None:
    """Declares a map of events, without state. Its key is that of the map whose trigger emits to it, unless given."""
    _declare(sys._getframe(1), MapKind.STREAM, name, key, like, affinity, schema)


def reference(
    name: str, key: Sequence[str] = (), *, like: str | None = None, affinity: int | None = None, schema: int = 0
) -> None:
    """Declares a small table that every node holds in full, so that any trigger can look up any key of it."""
    _declare(sys._getframe(1), MapKind.REFERENCE, name, key, like, affinity, schema)


def trigger(
    *,
    on: str | Sequence[str],
    emits: str | Sequence[str] = (),
    schema: int | None = None,
    value: Any = None,
    strict: bool = True,
    name: str | None = None,
    on_error: OnError = "reject",
    isolation: Isolation = "inline",
    budget: float | None = None,
) -> Callable[[F], F]:
    """Declares a function as a trigger on one or more maps, and gives it back unchanged.

    It is called with (write, grid), or with (write) if it takes one argument, and yields outputs, or returns None, one
    output or an iterable of outputs, all to maps named in `emits`. `schema` restricts it to writes of that schema
    number; a write whose number no trigger of its map handles is refused. It must be pure: no clock, no I/O, no
    randomness but `grid.random`. `name` is the function's, unless given.

    `value` is a type, such as a dataclass: `write.value` is then an instance of it, and a write that does not fit is
    rejected. Text is no number; with `strict=False`, text that reads as one is (typed.py).

    `on_error="park"`: a write on which it fails, with anything but Reject, is stored all the same, none of its outputs
    is made, and it is parked: `tidegrid parked redrive` runs it again, when the code is mended.

    `isolation="process"` runs it in a worker process, for code that is not trusted, or heavy. `budget` is how many seconds
    it may take for one write (None: what the node is configured with): a write that takes longer fails (docs/isolation.md).
    """
    frame = sys._getframe(1)
    names_on, names_emits = _names("on", on), _names("emits", emits)
    if value is None and not strict:
        raise ConfigurationError("@trigger(strict=False) says how to read a value=; name the type there")
    if on_error not in get_args(OnError):
        raise ConfigurationError(
            f'@trigger(on_error={on_error!r}): give "reject", or "park" to keep writes that it fails on'
        )
    if isolation not in get_args(Isolation):
        raise ConfigurationError(f'@trigger(isolation={isolation!r}): give "inline", or "process" for a worker process')
    if budget is not None and not BUDGET_SECONDS_MIN <= budget <= BUDGET_SECONDS_MAX:
        raise ConfigurationError(
            f"@trigger(budget={budget!r}): give seconds for one write, from {BUDGET_SECONDS_MIN:g} to {BUDGET_SECONDS_MAX:g}"
        )
    value_type = None if value is None else ValueType(value, strict)

    def declare(function: F) -> F:
        takes_context = _takes_context(function)
        maker = _maker(frame)
        declared = TriggerDeclaration(
            name=name or function.__name__,
            function=function,
            on=names_on,
            emits=names_emits,
            schema=schema,
            takes_context=takes_context,
            generator=inspect.isgeneratorfunction(function),
            line=function.__code__.co_firstlineno if maker is frame else maker.f_lineno,
            value=value_type,
            on_error=on_error,
            isolation=isolation,
            budget=budget,
        )
        _of_frame(maker).triggers.append(declared)
        return function

    return declare


def factory(function: F) -> F:
    """Marks a function that declares for its caller, and gives it back unchanged.

    What it declares belongs to the module that calls it, at the line of the call. A factory may call another one.
    """
    function.__globals__.setdefault(FACTORIES, set()).add(function.__code__)
    return function


def declarations_of(namespace: Mapping[str, Any]) -> Declarations:
    """What the module with this namespace declared."""
    found = namespace.get(DECLARATIONS)
    return found if isinstance(found, Declarations) else Declarations()


def _maker(frame: FrameType) -> FrameType:
    """The code that declares: not a factory, but whoever called it."""
    while frame.f_code in frame.f_globals.get(FACTORIES, ()) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _of_frame(frame: FrameType) -> Declarations:
    found: Declarations = frame.f_globals.setdefault(DECLARATIONS, Declarations())
    return found


def _declare(
    frame: FrameType,
    kind: MapKind,
    name: str,
    key: Sequence[str],
    like: str | None,
    affinity: int | None,
    schema: int,
    fold: FoldFunction | None = None,
) -> None:
    if key and like is not None:
        raise ConfigurationError(f"map {name!r} is given key= and like={like!r}; keep one of them", map=name)
    fields = tuple(KeyField.parse(text) for text in _names("key", key)) if key else None
    maker = _maker(frame)
    declared = MapDeclaration(name, kind, fields, like, affinity, schema, maker.f_lineno, fold)
    _of_frame(maker).maps.append(declared)


def _names(what: str, given: str | Sequence[str]) -> tuple[str, ...]:
    """One name, or several. `("flights")` is a str in Python, and means one name here."""
    names = (given,) if isinstance(given, str) else tuple(given)
    if what == "on" and not names:
        raise ConfigurationError("@trigger(on=...) names no map; say which map's writes it runs on")
    for name in names:
        if not isinstance(name, str):
            raise ConfigurationError(f"{what}={given!r}: write names as text, such as {what}=('flights',)")
    return names


def _takes_context(function: TriggerFunction) -> bool:
    if not inspect.isfunction(function):
        raise ConfigurationError(f"@trigger belongs on a function written with def, not on {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"trigger {function.__name__!r} is async; a trigger is a pure function of the write and waits for nothing: write plain def"
        )
    signature = inspect.signature(function)
    for arguments, takes_context in (((None, None), True), ((None,), False)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return takes_context
    raise ConfigurationError(
        f"trigger {function.__name__!r} has the signature {function.__name__}{signature}; it is called with (write, grid), or with (write)"
    )
