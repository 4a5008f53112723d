"""Finds the source text of trigger modules: a file, or an installed module by its path. Reads, runs nothing of them.

This file and packages.py, which lists the files of a package, are the ones of this floor that look at the disk.
"""

from __future__ import annotations

import importlib.util
import io
import tokenize
from collections.abc import Iterable
from pathlib import Path

from tidegrid.grid.model.errors import TriggerModuleError
from tidegrid.triggers.blame import text_of
from tidegrid.triggers.deployment import Module
from tidegrid.triggers.resolve import module_error


def find_modules(names: Iterable[str | Path]) -> tuple[Module, ...]:
    """`find_module` for each."""
    return tuple(find_module(name) for name in names)


def find_module(name: str | Path) -> Module:
    """`flights.py` or `folder/flights.py` is a file, `pkg.flights` an installed module. Raises TriggerModuleError.

    A module is named after its file, without `.py`, or by its whole path. Importing the packages above an installed
    module is how Python finds it, so their code does run.
    """
    text = str(name)
    if isinstance(name, Path) or text.endswith(".py") or "/" in text or "\\" in text:
        path = Path(name)
        return Module(path.stem, _read(path, text))
    if not all(part.isidentifier() for part in text.split(".")):
        raise module_error(
            text, 0, "is neither a .py file nor the path of an installed module; write flights.py or package.flights"
        )
    return Module(text, _read(origin_of(text), text))


def origin_of(name: str) -> Path:
    """The file of an installed module. Raises TriggerModuleError."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        raise _missing(name, error.name or name) from None
    except Exception as error:  # the code of a package above it
        raise module_error(name, 0, f"cannot be found: importing its package failed: {text_of(error)}") from None
    if spec is None:
        raise _missing(name, name)
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise module_error(
            name,
            0,
            f"has no Python source to record (found: {spec.origin or 'a folder'}); name a module with a .py file",
        )
    return Path(spec.origin)


def _missing(name: str, part: str) -> TriggerModuleError:
    hint = f"; there is a file {name}.py here, did you mean that?" if Path(f"{name}.py").exists() else ""
    return module_error(
        name, 0, f"{part!r} is not an installed module{hint or '; install it here, or give the path of a .py file'}"
    )


def _read(path: Path, shown: str) -> str:
    """Decoded as Python would: UTF-8, or as the file's coding line says. Line ends become newlines."""
    try:
        data = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return io.IncrementalNewlineDecoder(None, translate=True).decode(data.decode(encoding), final=True)
    except FileNotFoundError:
        raise module_error(
            path.stem, 0, f"there is no file {shown}; check the path, it is looked up from the working directory"
        ) from None
    except OSError as error:
        raise module_error(path.stem, 0, f"{shown} cannot be read: {error.strerror}") from None
    except (SyntaxError, UnicodeDecodeError) as error:
        raise module_error(path.stem, 0, f"{shown} is not text that Python reads: {error}; save it as UTF-8") from None
