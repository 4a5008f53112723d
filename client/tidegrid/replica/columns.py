"""Values as rows: which column holds what.

    table   _key (encoded, primary key) | key fields | _version | _epoch | a column per field of the values
    stream  _partition, _position, _index (primary key) | _key | key fields | _epoch | a column per field of the values

A map without named key fields has `_key_json` in their place. A value that is a dict has a column per field, added
when it is first seen; any other value is in `_value`. A list or dict inside a value is JSON text, an int beyond 64
signed bits is text, a bool 0 or 1. A field that repeats a key field is not stored twice. Columns of values have no
declared type: an affinity would turn the text "007" into 7.

Two fields that would need one column (SQL names differ by more than case) are an error that says how to rename.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from tidegrid.grid.model.errors import ConfigurationError, FormatError, GridError
from tidegrid.grid.model.key_text import format_key
from tidegrid.grid.model.keys import Key, decode_stored_key, encode_key
from tidegrid.grid.model.maps import MapSpec

KEY_JSON: Final = "_key_json"
VALUE: Final = "_value"
TABLE_COLUMNS: Final = ("_version", "_epoch")
STREAM_KEY: Final = ("_partition", "_position", "_index")

_INT_MAX: Final = (1 << 63) - 1
_NATIVE: Final = frozenset((type(None), bool, int, float, str, bytes))


def fold(column: str) -> bytes:
    """Equal for names that SQL takes for one."""
    return column.encode().lower()


def to_sql(value: Any) -> Any:
    """A scalar as it is, or as text where SQL has no such value."""
    if isinstance(value, int):
        return value if -_INT_MAX - 1 <= value <= _INT_MAX else str(value)
    if value is None or isinstance(value, float | str | bytes):
        return value
    return json.dumps(value, ensure_ascii=False, default=bytes.hex)


def _picker(names: Sequence[str]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Like itemgetter, but a tuple for any number of names."""
    if len(names) == 1:
        only = names[0]
        return lambda value: (value[only],)
    return itemgetter(*names) if names else lambda value: ()


class Shape:
    """How dicts with these fields become rows: `kept` picks what is in `columns`, `repeated` what the key has too."""

    __slots__ = ("columns", "convert", "has_whole_key", "kept", "places", "repeated", "size")

    def __init__(
        self, columns: list[str], kept: list[str], repeated: list[tuple[int, str]], key_size: int, of_dicts: bool = True
    ) -> None:
        repeated = sorted(repeated)
        self.columns = columns
        self.kept = _picker(kept)
        self.repeated = _picker([name for _, name in repeated])
        self.places = [place for place, _ in repeated]  # in the key
        self.has_whole_key = len(repeated) == key_size > 0
        self.size = len(kept) + len(repeated) if of_dicts else -1  # fields of a dict of this shape
        self.convert = False  # learned: some of its values are nothing that SQL has


def is_key_of(elements: tuple[Any, ...], raw_key: bytes) -> bool:
    try:
        return encode_key(elements, 1 << 30) == raw_key
    except GridError:
        return False


class Columns:
    """The columns of one replica table, and the shapes of values met so far."""

    def __init__(self, spec: MapSpec, rename: Mapping[str, str], existing: Iterable[str] = ()) -> None:
        self.map = spec.name
        self.stream = not spec.stateful
        self.key_fields = tuple(field.name for field in spec.key)
        self.key_columns = self.key_fields or (KEY_JSON,)
        self.added: list[str] = []  # columns that the table does not have yet
        self._rename = dict(rename)
        self._shapes: dict[tuple[str, ...], Shape] = {}
        self._plain = Shape([VALUE], [VALUE], [], len(self.key_fields), of_dicts=False)
        self._owners: dict[
            bytes, str
        ] = {}  # folded column -> the field it holds; of the table's own columns their name
        own = (*STREAM_KEY, "_key", "_epoch") if self.stream else ("_key", *TABLE_COLUMNS)
        for column in (*own, VALUE):
            self._owners[fold(column)] = f"\0{column}"
        for column in self.key_columns:
            if fold(column) in self._owners:
                raise ConfigurationError(
                    f"map {self.map!r}: the key field {column!r} has the name of a column that every replica table has; declare the map with another name",
                    map=self.map,
                    field=column,
                )
            self._owners[fold(column)] = f"\0{column}"
        self._known: set[bytes] = set(self._owners)
        back = {column: field for field, column in self._rename.items()}
        for column in existing:
            folded = fold(column)
            self._known.add(folded)
            self._owners.setdefault(folded, back.get(column, column))
        self._has_value_column = any(fold(column) == fold(VALUE) for column in existing)

    @property
    def own(self) -> tuple[str, ...]:
        """The columns that each row begins with."""
        if self.stream:
            return (*STREAM_KEY, "_key", *self.key_columns, "_epoch")
        return ("_key", *self.key_columns, *TABLE_COLUMNS)

    def shape(self, names: tuple[str, ...]) -> Shape:
        """The shape of dicts with these fields; notes new columns in `added`. Raises ConfigurationError on a clash."""
        found = self._shapes.get(names)
        if found is None:
            found = self._shapes[names] = self._make(names)
        return found

    def plain_shape(self) -> Shape:
        """The shape of values that are no dicts."""
        if not self._has_value_column:
            self._has_value_column = True
            self.added.append(VALUE)
        return self._plain

    def _make(self, names: tuple[str, ...]) -> Shape:
        columns: list[str] = []
        kept: list[str] = []
        repeated: list[tuple[int, str]] = []
        for name in names:
            if name in self.key_fields and name not in self._rename:
                repeated.append((self.key_fields.index(name), name))
                continue
            column = self._rename.get(name, name)
            folded = fold(column)
            owner = self._owners.setdefault(folded, name)
            if owner != name or not column or "\0" in column:
                raise self._clash(name, column, owner)
            if folded not in self._known:
                self._known.add(folded)
                self.added.append(column)
            columns.append(column)
            kept.append(name)
        return Shape(columns, kept, repeated, len(self.key_fields))

    def _clash(self, name: str, column: str, owner: str) -> GridError:
        if owner == name:
            why = "is no name for a column"
        elif owner.startswith("\0"):
            why = f"has the name of the replica's own column {owner[1:]!r}"
        else:
            why = f"and the field {owner!r} would need one column, as SQL does not tell upper from lower case"
        other = f"{column.strip(chr(0)) or 'field'}_2"
        return ConfigurationError(
            f"map {self.map!r}: the field {name!r} {why}; give the replica rename={{{name!r}: {other!r}}} (--rename '{name}={other}')",
            map=self.map,
            field=name,
        )

    def key_row(self, raw_key: bytes, shape: Shape, repeated: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the key columns hold; `repeated` is what the value says of the key. Raises ConfigurationError."""
        key = decode_stored_key(raw_key)
        if not self.key_fields:
            return (format_key(key),)
        if len(key) != len(self.key_fields):
            raise FormatError(
                f"map {self.map!r}: the key {format_key(key)} has not the declared {len(self.key_fields)} elements",
                map=self.map,
            )
        for place, said in zip(shape.places, repeated, strict=True):
            if said != key[place] and said != str(key[place]):
                raise self._other_key(self.key_fields[place], key, said)
        return tuple(map(to_sql, key))

    def _other_key(self, name: str, key: Key, value: Any) -> GridError:
        return ConfigurationError(
            f"map {self.map!r}: the value of key {format_key(key)} has a field {name!r} that is not the key's ({value!r:.80}); "
            f"give the replica rename={{{name!r}: {'value_' + name!r}}} (--rename '{name}=value_{name}')",
            map=self.map,
            field=name,
        )


def native(values: Iterable[Any]) -> tuple[Any, ...]:
    """A row in which everything is something that SQL has."""
    return tuple(map(to_sql, values))
