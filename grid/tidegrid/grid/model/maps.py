"""What a map is: its kind, key fields, affinity and limits. Maps are declared, never conjured."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field

from tidegrid.grid.model.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}")
KEY_TYPES = ("str", "int", "float", "bool", "bytes", "any")


class MapKind(enum.IntEnum):
    TABLE = 1  # keyed state and its stream
    STREAM = 2  # events only, no state
    REFERENCE = 3  # a small table, copied to every node for look-ups in triggers


@dataclass(frozen=True, slots=True)
class KeyField:
    name: str
    type: str = "str"

    @classmethod
    def parse(cls, text: str) -> KeyField:
        """`"year:int"` or `"carrier"` (a str)."""
        name, _, kind = text.partition(":")
        kind = kind or "str"
        if not name or kind not in KEY_TYPES:
            raise ConfigurationError(
                f"key field {text!r}: write NAME or NAME:TYPE with a type of {', '.join(KEY_TYPES)}"
            )
        return cls(name, kind)


@dataclass(frozen=True, slots=True)
class MapSpec:
    """`affinity` counts the leading key elements that choose the partition (0: all of them).

    `derived` maps are written by triggers alone. `merged` ones are derived by a fold: outputs to them are operands.
    `schema` is the schema number of writes that name none.
    """

    name: str
    kind: MapKind = MapKind.TABLE
    key: tuple[KeyField, ...] = field(default=())
    affinity: int = 0
    derived: bool = False
    schema: int = 0
    merged: bool = False

    def validate(self) -> MapSpec:
        """Returns itself. Raises ConfigurationError."""
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"map name {self.name!r}: use letters, digits, '_', '-' and '.', at most 128, and begin with a letter",
                map=self.name,
            )
        if self.affinity < 0 or (self.key and self.affinity > len(self.key)):
            raise ConfigurationError(
                f"map {self.name!r}: affinity {self.affinity} must lie between 0 (whole key) and the {len(self.key)} key fields",
                map=self.name,
            )
        if self.merged and self.kind is not MapKind.TABLE:
            raise ConfigurationError(
                f"map {self.name!r} is a {self.kind.name.lower()}; only a table has a fold", map=self.name
            )
        if len({part.name for part in self.key}) != len(self.key):
            raise ConfigurationError(f"map {self.name!r} names a key field twice", map=self.name)
        return self

    @property
    def stateful(self) -> bool:
        return self.kind is not MapKind.STREAM
