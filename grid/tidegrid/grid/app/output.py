"""Where a command's words go: answers to stdout, everything else to stderr, in both its manners.

For people, an answer is text. With --json it is one JSON object, or one per line, and nothing else is on stdout; an
error is one JSON object on stderr: {"error": {"code": ..., "message": ..., "fields": {...}}}.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tidegrid.grid.app.json_text import json_text, printable
from tidegrid.grid.model.errors import GridError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


WIDTH_ELSEWHERE = 160  # of a table that is not on a terminal


class Output:
    def __init__(self, as_json: bool, debug: bool = False) -> None:
        self.as_json = as_json
        self.debug = debug

    def record(self, data: Mapping[str, Any]) -> None:
        """An answer with --json: one line."""
        sys.stdout.write(json_text(data) + "\n")

    def answer(self, text: str) -> None:
        """An answer for people."""
        if not self.as_json:
            sys.stdout.write(printable(text) + "\n")

    def show(self, renderable: RenderableType) -> None:
        """A table or a drawing, for people."""
        if not self.as_json:
            self.console().print(renderable)

    def note(self, text: str) -> None:
        """Beside the answer: what is going on, what to know."""
        sys.stdout.flush()
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()

    def flush(self) -> None:
        sys.stdout.flush()

    def error(self, error: GridError) -> None:
        self.flush()
        if self.as_json:
            fields = {"code": type(error).code, "message": error.message, "fields": error.fields}
            sys.stderr.write(json_text({"error": fields}) + "\n")
        else:
            head = _bold_red("error:") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else "error:"
            sys.stderr.write(f"{head} {printable(_sentence(error.message))}\n")
        sys.stderr.flush()

    @property
    def live(self) -> bool:
        """Whether a progress bar on stderr would be seen, and not spoil anything."""
        return sys.stderr.isatty()

    def console(self, *, stderr: bool = False) -> Console:
        from rich.console import Console

        file = sys.stderr if stderr else sys.stdout
        width = None if file.isatty() or "COLUMNS" in os.environ else WIDTH_ELSEWHERE
        return Console(file=file, highlight=False, width=width)


def _bold_red(text: str) -> str:
    return f"\033[1;31m{text}\033[0m"


def _sentence(message: str) -> str:
    return message if message.endswith((".", "!", "?", "\n")) else f"{message}."
