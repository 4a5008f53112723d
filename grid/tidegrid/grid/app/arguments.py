"""Arguments that several commands take, and how their text becomes keys and values."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tidegrid.grid.app.json_text import json_text, key_value
from tidegrid.grid.model.errors import ConfigurationError, InvalidValueError
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
    str | None,
    typer.Option(
        "--as-of", metavar="EPOCH|TIME",
        help="As of the end of this epoch: repeatable, a consistent cut. Waits until it is closed. Or a time with its "
        "zone, 2026-01-31T12:00:00Z: as of the epoch closed then, or last before.",
    ),
]  # fmt: skip
AtLeastOption = Annotated[
    int | None,
    typer.Option("--at-least", metavar="EPOCH", min=1, help="The latest, but only once this epoch is closed."),
]
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="With --as-of or --at-least: fail at once if the epoch is not closed yet.")
]
MaxStalenessOption = Annotated[
    float | None,
    typer.Option(
        "--max-staleness", metavar="SECONDS", min=0.001,
        help="The latest, but only from a node whose last close is no older than this.",
    ),
]  # fmt: skip
LinearizableOption = Annotated[
    bool,
    typer.Option(
        "--linearizable", help="The latest, and all that anybody was acknowledged before: the owner asks its log."
    ),
]


def moment_from(
    as_of: str | None, at_least: int | None, no_wait: bool, max_staleness: float | None, linearizable: bool
) -> dict[str, Any]:
    """The options above as `Map.get` and `Map.scan` take them. Raises ConfigurationError."""
    return {
        "as_of": None if as_of is None else instant_from(as_of),
        "at_least": at_least,
        "wait": not no_wait,
        "max_staleness": max_staleness,
        "consistency": "linearizable" if linearizable else "causal",
    }


def instant_from(text: str, option: str = "--as-of") -> int | datetime:
    """An epoch, or a time in ISO form. Raises ConfigurationError."""
    if text.isascii() and text.isdecimal() and len(text) < 20:
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{option} {text!r} is neither an epoch nor a time such as 2026-01-31T12:00:00Z"
        ) from None
    if time.tzinfo is None:
        raise ConfigurationError(
            f"{option} {text!r} has no time zone, so it is no moment: write {time.isoformat()}Z, or {time.isoformat()}+02:00"
        )
    return time


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
