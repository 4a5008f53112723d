"""A question on the terminal, which Ctrl-C answers by ending the command at once."""

from __future__ import annotations

import signal

import typer


def confirmed(question: str) -> bool:
    """Raises KeyboardInterrupt. An event loop that runs around it would only note the signal, and wait for the answer."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
