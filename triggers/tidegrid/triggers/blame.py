"""Which line of the author's code an exception, or an output, came from.

A frame is the author's if its globals are the namespace of the module: this holds for source that never was a file,
and passes over the frames of libraries that the module calls. The innermost such frame is the one to name.
"""

from __future__ import annotations

import re
from types import GeneratorType
from typing import Any, Final

from tidegrid.grid.model.errors import GridError
from tidegrid.triggers.outputs import Delete, Event, Merge, Put, Reject

_EVALUATED: Final = "<string>"  # code that Python evaluates from a string, annotations say, has lines of its own
_ARGUMENTS: Final = re.compile(
    r"Missing required argument '(?P<missing>\w+)'|Unexpected keyword argument '(?P<unknown>\w+)'"
    r"|Extra positional arguments provided|Argument '\w+' given by name and position"
)


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
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{told}; an output is {meant}" if (meant := _output_meant(error, text)) else told


def _output_meant(error: BaseException, text: str) -> str:
    """`Put("a", key)` fails in C, in words that do not say whose argument is missing: those that the code may mean."""
    found = _ARGUMENTS.fullmatch(text)
    step = error.__traceback__
    if type(error) is not TypeError or found is None or step is None:
        return ""
    while step.tb_next is not None:
        step = step.tb_next
    frame = step.tb_frame
    missing, unknown = found.group("missing"), found.group("unknown")
    meant = [
        f"{output.__name__}({', '.join(output.__struct_fields__)})"
        for output in (Put, Delete, Event, Merge)
        if any(name == output.__name__ or frame.f_globals.get(name) is output for name in frame.f_code.co_names)
        and (missing is None or missing in output.__struct_fields__)
        and (unknown is None or unknown not in output.__struct_fields__)
    ]
    return " or ".join(meant)
