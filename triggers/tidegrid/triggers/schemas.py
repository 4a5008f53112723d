"""Schema numbers: which writes of a map its triggers handle.

A trigger without a number handles all of them. A write that none handles must not be stored: its raw message would be
there and what follows from it would not, and nobody would be told.
"""

from __future__ import annotations

from tidegrid.grid.model.errors import UnknownSchemaError
from tidegrid.triggers.bound import BoundMap


def unhandled_schema(program: BoundMap, schema: int) -> UnknownSchemaError | None:
    """What to tell the writer; None where a trigger handles it."""
    for trigger in program.triggers:
        if trigger.schema is None or trigger.schema == schema:
            return None
    return UnknownSchemaError.of(
        program.name, schema, [trigger.schema for trigger in program.triggers if trigger.schema is not None]
    )
