from __future__ import annotations

import pytest
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.partitioner import Partitioner, leading, partition_of


def test_affinity_puts_related_keys_together() -> None:
    partitioner = Partitioner(16, 1)
    assert len({partitioner.of(encode_key(("UA", flight))) for flight in range(100)}) == 1
    assert len({Partitioner(16).of(encode_key(("UA", flight))) for flight in range(100)}) == 16


def test_affinity_beyond_the_key_takes_all_of_it() -> None:
    encoded = encode_key(("UA", 2.5))
    assert leading(encoded, 5) == encoded and partition_of(encoded, 16, 5) == partition_of(encoded, 16)


def test_elements_of_every_kind_are_skipped() -> None:
    elements = (None, True, -7, 2.5, "a\0b", b"\0", ("x", (1.5,)), 1)
    encoded = encode_key(elements)
    for count in range(1, len(elements)):
        assert leading(encoded, count) == encode_key(elements[:count])


@pytest.mark.parametrize("encoded", [b"", b"\0", b"0abc", b"!\1\0\0", b"\x40"])
def test_rubbish_cannot_be_skipped(encoded: bytes) -> None:
    partitioner = Partitioner(16, 2)
    with pytest.raises(FormatError):
        partitioner.of(encoded)
    with pytest.raises(FormatError):
        partitioner.many([encode_key(("a", "b")), encoded])


def test_maps_of_equal_affinity_put_equal_keys_together() -> None:
    keys = [encode_key(("UA", number)) for number in range(50)]
    assert Partitioner(7, 0).many(keys) == Partitioner(7, 2).many(keys)
