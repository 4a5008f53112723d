"""Validate against a JSON Schema: what does not match is rejected, with the field and the reason.

    from tidegrid.triggers import shelf, table

    table("orders.raw", key=("number:int",))
    table("orders", like="orders.raw")
    shelf.validated(
        on="orders.raw",
        emits="orders",
        schema={
            "type": "object",
            "properties": {"amount": {"type": "number", "exclusiveMinimum": 0}, "currency": {"enum": ["EUR", "USD"]}},
            "required": ["amount", "currency"],
        },
    )

Needs the jsonschema library on every node: `pip install 'tidegrid[jsonschema]'`. The draft is what `$schema` says, or the
newest that the library knows. `format` is a remark and is not checked, since what is checked depends on what else is
installed; `$ref` reaches what is inside the schema, never the network. Where a Python type says it as well,
`@trigger(value=...)` takes 3 us for a row of nineteen fields, and this 120.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.triggers.declare import factory, trigger
from tidegrid.triggers.outputs import Delete, Event, Output, Put, Reject
from tidegrid.triggers.write import Write

_REASON_TEXT_MAX: Final = 300


@factory
def validated(
    *,
    on: str,
    emits: str,
    schema: Mapping[str, Any],
    for_schema: int | None = None,
    events: bool = False,
    name: str | None = None,
) -> None:
    """Passes on values that match `schema`. `for_schema`: of writes with this schema number alone."""
    validator = _validator(schema)

    @trigger(on=on, emits=emits, schema=for_schema, name=name or f"validated:{on}:{emits}")
    def validate(write: Write) -> Iterator[Output]:
        if write.op != "delete":
            if (problem := validator(write.value)) is not None:
                raise Reject(problem)
            yield (Event if events else Put)(emits, write.key, write.value)
        elif not events:
            yield Delete(emits, write.key)


def _validator(schema: Mapping[str, Any]) -> Any:
    """From a value to what is wrong with it, None if nothing is."""
    try:
        from jsonschema import Draft202012Validator, SchemaError, exceptions, validators
        from referencing import Registry
    except ImportError:
        raise ConfigurationError(
            "shelf.validated needs the jsonschema library; install it on every node: pip install 'tidegrid[jsonschema]'"
        ) from None
    asked = dict(schema)
    kind = validators.validator_for(asked, default=Draft202012Validator)
    try:
        kind.check_schema(asked)
    except SchemaError as error:
        raise ConfigurationError(f"shelf.validated: the schema is none: {error.message}") from None
    registry: Any = Registry()  # one that fetches nothing
    validator = kind(asked, registry=registry)

    def problem(value: Any) -> str | None:
        error = exceptions.best_match(validator.iter_errors(value))
        if error is None:
            return None
        path = error.json_path.removeprefix("$").removeprefix(".")
        text = error.message if len(error.message) <= _REASON_TEXT_MAX else error.message[:_REASON_TEXT_MAX] + "..."
        return f"field {path!r}: {text}" if path else text

    return problem
