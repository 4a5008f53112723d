"""Why a write was refused by a trigger: data, not an exception, because `activate` never raises."""

from __future__ import annotations

from typing import NamedTuple

from tidegrid.grid.model.texts import sayable


class Rejection(NamedTuple):
    """`failed` is False where the trigger raised Reject, True for any other exception and for a broken rule.

    `reason` is the bare text, `message` the sentence for the writer: it names trigger, line and key. `parks`: it failed,
    and says `on_error="park"`, so the write is to be stored all the same. `suspended`: the trigger is, and did not run.
    """

    trigger: str
    module: str
    line: int
    key: str
    reason: str
    message: str
    failed: bool
    parks: bool = False
    suspended: bool = False


KEY_TEXT_MAX = 200


def key_text(key: object) -> str:
    """The key for people, shortened."""
    text = sayable(repr(key))
    return text if len(text) <= KEY_TEXT_MAX else text[: KEY_TEXT_MAX - 3] + "..."


def rejection(
    trigger: str,
    module: str,
    line: int,
    key: object,
    reason: str,
    failed: bool,
    parks: bool = False,
    suspended: bool = False,
) -> Rejection:
    """`module` and `line` are 0 and empty where no code of an author is at fault."""
    text, reason = key_text(key), sayable(reason)
    if failed:
        where = f", module {module!r}, line {line}," if line else ""
        message = f"trigger {trigger!r}{where} failed on key {text}: {reason}"
    else:
        message = f"trigger {trigger!r} rejected key {text}: {reason}"
    return Rejection(trigger, module, line, text, reason, message, failed, parks, suspended)
