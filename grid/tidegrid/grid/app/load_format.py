"""The formats that `tidegrid load` reads, and how a file's name tells which it is."""

from __future__ import annotations

import enum
from pathlib import Path

from tidegrid.grid.model.errors import ConfigurationError


class Format(enum.StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


def format_of(path: Path) -> Format:
    """By the suffix. Raises ConfigurationError."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return Format.CSV
    if suffix in (".jsonl", ".ndjson"):
        return Format.JSONL
    raise ConfigurationError(f"{path}: neither .csv nor .jsonl; say what it is with --format csv or --format jsonl")
