"""`@trigger(value=Flight)`: values as instances of the author's own type.

A dataclass, a TypedDict, a NamedTuple, a msgspec.Struct, or whatever else msgspec converts to (a tagged union of
Structs, `dict[str, float]`). The value is converted before the trigger runs, whether it looks at it or not, so that
what does not fit is refused always or never; None (a delete) stays None. Fields that the type does not name are left
out, unless it forbids them.

Strict: text is no number. A feed that sends numbers as text says `strict=False`, and then "75" is an int, "1.5" a float,
"true" a bool and "null" a None, while "NA" and "" are none of them. Either way an int is a float where one is asked
for, ISO text is a datetime, date or UUID, and keys of a `dict[int, ...]`, which are str in every value, are read as ints.
A NamedTuple is read from a dict by its field names, or from a list; inside another type msgspec reads it from a list.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from tidegrid.triggers.outputs import Reject

if TYPE_CHECKING:
    from tidegrid.triggers.deployment import TriggerSpec
    from tidegrid.triggers.write import Write

_SAID: Final = re.compile(r"(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<path>.*)`)?", re.DOTALL)
_MISSING: Final = re.compile("Object missing required field `(.*)`")


class ValueType(NamedTuple):
    kind: Any
    strict: bool


def converter(of: ValueType) -> Callable[[Any], Any]:
    """From a plain value to one of the type. The function raises msgspec.ValidationError.

    Raises TypeError and NameError for a type that nothing can be converted to, or that names what is not defined.
    """
    kind, strict = of
    if isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType):  # it looks through the whole type
        raise TypeError(f"{getattr(kind, '__name__', kind)!r} is no dataclass, TypedDict, NamedTuple or msgspec.Struct")
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple_converter(kind, strict)

    def convert(value: Any) -> Any:
        return msgspec.convert(value, kind, strict=strict, str_keys=True)

    return convert


def _named_tuple_converter(kind: Any, strict: bool) -> Callable[[Any], Any]:
    """msgspec knows these as arrays; values are rows with named columns more often."""
    hints, defaults = typing.get_type_hints(kind, include_extras=True), kind._field_defaults
    fields: list[Any] = [
        (name, hints.get(name, Any), msgspec.field(default_factory=_giver(defaults[name])))
        if name in defaults
        else (name, hints.get(name, Any))
        for name in kind._fields
    ]
    row: Any = msgspec.defstruct(kind.__name__, fields)

    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return msgspec.convert(value, kind, strict=strict, str_keys=True)
        return kind(*msgspec.structs.astuple(msgspec.convert(value, row, strict=strict, str_keys=True)))

    return convert


def _giver(default: Any) -> Callable[[], Any]:
    return lambda: default


def function_of(spec: TriggerSpec) -> Callable[..., Any]:
    """What the runtime calls: the author's function; for a typed trigger with the conversion before it."""
    function = spec.function
    if spec.value is None:
        return function
    convert = converter(spec.value)

    def typed(write: Write, *context: Any) -> Any:
        if write.op != "delete":
            try:
                write._value = convert(write.value)
            except msgspec.ValidationError as error:
                raise Reject(f"value of {write.map}: {misfit(error)}") from None
        return function(write, *context)

    return typed


def misfit(error: msgspec.ValidationError) -> str:
    """Where and what, such as `field 'legs[0].carrier': expected str, got int`."""
    said = _SAID.fullmatch(str(error))
    assert said is not None
    what, path = said["what"], said["path"] or ""
    if (missing := _MISSING.fullmatch(what)) is not None:
        return f"field {f'{path}.{missing[1]}' if path else missing[1]!r}: missing"
    what = what[:1].lower() + what[1:].replace("`", "'" if "field" in what else "")
    if said["key"]:
        return f"a key of field {path!r}: {what}" if path else f"a key: {what}"
    return f"field {path!r}: {what}" if path else what
