"""Texts that others have made up, on their way to a wire or a file."""

from __future__ import annotations


def sayable(text: str) -> str:
    """Half of a surrogate pair, which JSON may hold and UTF-8 has no bytes for, is written out: "\\\\ud83d"."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
