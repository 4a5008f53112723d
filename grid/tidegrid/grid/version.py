"""Which tidegrid this is."""

from __future__ import annotations

from functools import cache


@cache
def version() -> str:
    from importlib import metadata

    try:
        return metadata.version("tidegrid")
    except metadata.PackageNotFoundError:  # run from a source tree that was not installed
        return "unknown"
