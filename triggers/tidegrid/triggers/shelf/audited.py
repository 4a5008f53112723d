"""An audit copy: an event for every write, with what was there before.

    from tidegrid.triggers import shelf, stream, table

    table("prices", key=("symbol",))
    stream("prices.audit")
    shelf.audited(on="prices", emits="prices.audit")

When it was, and in which epoch, is told by every event of a stream; who wrote is known to those who write: put it into
the value. A write that was refused leaves no event, since nothing of it is stored.
"""

from __future__ import annotations

from collections.abc import Iterator

from tidegrid.triggers.declare import factory, trigger
from tidegrid.triggers.outputs import Event
from tidegrid.triggers.write import Write


@factory
def audited(*, on: str, emits: str, previous: bool = True, name: str | None = None) -> None:
    """Every put, delete or event on `on` becomes an event on the stream `emits`: map, op, version, value, previous.

    `previous=False` leaves the previous value out; it has to be left out where `on` is itself written by triggers.
    """

    @trigger(on=on, emits=emits, name=name or f"audited:{on}:{emits}")
    def audit(write: Write) -> Iterator[Event]:
        told = {"map": write.map, "op": write.op, "version": write.version, "value": write.value}
        yield Event(emits, write.key, {**told, "previous": write.previous} if previous else told)
