"""Arguments that several commands take, and how their text becomes keys and values."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.json_text import json_text, key_value
from tidegrid.grid.model.errors import InvalidValueError
from tidegrid.grid.model.ids import Epoch

if TYPE_CHECKING:
    from tidegrid.client import Entry, Map
    from tidegrid.grid.model.keys import Key

MapArgument = Annotated[str, typer.Argument(metavar="MAP", help="Name of the map.", show_default=False)]
KeyArgument = Annotated[
    str,
    typer.Argument(
        metavar="KEY", show_default=False,
        help="JSON, or a comma list if the map has key fields: 2013,1,1,UA,1545,EWR. Put -- before one that begins with -.",
    ),
]  # fmt: skip
AsOfOption = Annotated[
    int | None,
    typer.Option(
        "--as-of", metavar="EPOCH", min=1,
        help="As of the end of this epoch: repeatable, a consistent cut. Waits until it is closed.",
    ),
]  # fmt: skip
AtLeastOption = Annotated[
    int | None,
    typer.Option("--at-least", metavar="EPOCH", min=1, help="The latest, but only once this epoch is closed."),
]


async def key_from(text: str, of_map: Map, *, prefix: bool = False) -> Key:
    """Raises InvalidKeyError, UnknownMapError."""
    from tidegrid.grid.model.key_text import parse_key_text

    return parse_key_text(text, (await of_map.spec()).key, prefix=prefix)


def value_from(text: str) -> Any:
    """`-` reads stdin. Raises InvalidValueError."""
    if text == "-":
        text = sys.stdin.read()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(
            f"the value {text[:60]!r} is not JSON ({error}); a text needs quotes of its own: '\"{text[:20]}\"'"
        ) from None


def entry_record(entry: Entry) -> dict[str, Any]:
    return {
        "key": key_value(entry.key),
        "value": entry.value,
        "version": entry.version,
        "epoch": entry.epoch,
        "time_ms": entry.time_ms,
    }


def entry_line(entry: Entry) -> str:
    """Key and value as JSON, a tab between them."""
    return f"{json_text(key_value(entry.key))}\t{json_text(entry.value)}"


def at(version: int, epoch: Epoch) -> str:
    return f"version {version:,}, epoch {epoch:,}" if version else f"epoch {epoch:,}"
