"""Which line of the author's code an exception, or an output, came from.

A frame is the author's if its globals are the namespace of the module: this holds for source that never was a file,
and passes over the frames of libraries that the module calls. The innermost such frame is the one to name.
"""

from __future__ import annotations

from types import GeneratorType
from typing import Any, Final

from tidegrid.grid.model.errors import GridError
from tidegrid.triggers.outputs import Reject

_EVALUATED: Final = "<string>"  # code that Python evaluates from a string, annotations say, has lines of its own


def line_of(error: BaseException, namespace: dict[str, Any]) -> int:
    """Line in the module where `error` was raised, or from where it went into a library; 0 if it passed no such frame."""
    line = 0
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals is namespace and step.tb_frame.f_code.co_filename != _EVALUATED:
            line = step.tb_lineno
        step = step.tb_next
    if not line and error.__cause__ is not None:  # a generator that raises StopIteration, say
        return line_of(error.__cause__, namespace)
    return line


def yielded_at(produced: object, namespace: dict[str, Any]) -> int:
    """Line in the module where this generator stands; 0 if it has ended, or its code is not the module's: a library's."""
    frame = produced.gi_frame if type(produced) is GeneratorType else None
    return frame.f_lineno if frame is not None and frame.f_globals is namespace else 0


def text_of(error: BaseException) -> str:
    """Type and text, as the last line of a traceback has them. Our own errors and rejections speak for themselves."""
    if isinstance(error, GridError | Reject):
        return str(error)
    try:
        text = str(error)
    except Exception:  # the author's own exception class may fail at this too
        text = "(its text cannot be shown)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
