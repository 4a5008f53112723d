"""Schema numbers that no trigger handles: refused, while what was accepted before stays answered."""

from __future__ import annotations

import pytest
from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.model.errors import UnknownSchemaError, error_from
from tidegrid.grid.model.limits import Limits
from tidegrid.v1.control_pb2 import ControlRecord, Deploy, Module

from tests.unit.engine.stand import NOWHERE, Stand

VERSIONED = """
from tidegrid.triggers import *
table("raw", key=("k",), schema=2)
table("seen", like="raw")

@trigger(on="raw", emits="seen", schema=1)
def old(write):
    yield Put("seen", write.key, ["old", write.value])

@trigger(on="raw", emits="seen", schema=2)
def new(write):
    yield Put("seen", write.key, ["new", write.value])
"""
WITHOUT_OLD = VERSIONED.replace("schema=1", "schema=3")
ANY = VERSIONED.replace(", schema=1", "")


def switch(stand: Stand, source: str) -> None:
    stand.declare(ControlRecord(deploy=Deploy(hash=b"later", modules=[Module(name="module", source=source)])))
    stand.read_control()
    acts_at = stand.node.control.highest_activation
    stand.close(stand.node.control.closed + 1)
    stand.wait_closed(0, carry=Carry(b"", NOWHERE.control, acts_at))


def test_each_schema_goes_to_its_own_trigger() -> None:
    stand = Stand(source=VERSIONED)
    assert not stand.put_now({"a": 1}, map_name="raw", schema=1).errors
    assert not stand.put_now({"b": 1}, map_name="raw", schema=2).errors
    assert stand.value("a", map_name="seen") == ["old", 1] and stand.value("b", map_name="seen") == ["new", 1]


@pytest.mark.parametrize("schema", [0, 3])
def test_a_schema_that_nothing_handles_is_refused_with_those_that_are(schema: int) -> None:
    stand = Stand(source=VERSIONED)
    refused = stand.put_now([("a", 1), ("b", None)], map_name="raw", schema=schema)
    assert set(refused.errors) == {0, 1}
    error = refused.errors[0]
    assert isinstance(error, UnknownSchemaError)
    assert (error.map, error.schema, error.handled) == ("raw", schema, "1, 2")
    assert f"no trigger on map 'raw' handles schema {schema}, only 1, 2" in str(error)
    assert type(error_from(error.code, error.message, error.fields)) is UnknownSchemaError
    assert stand.value("a", map_name="raw") is None and not stand.frames


def test_a_trigger_without_a_number_and_a_map_without_triggers_take_any() -> None:
    stand = Stand(source=ANY)
    assert not stand.put_now({"a": 1}, map_name="raw", schema=7).errors
    assert not stand.put_now({"a": 1}, schema=9).errors


def test_what_was_accepted_stays_accepted_when_a_deployment_no_longer_handles_it() -> None:
    stand = Stand(source=VERSIONED)
    stand.put_now([("a", 1)], map_name="raw", schema=1)
    switch(stand, WITHOUT_OLD)
    again = stand.put_now([("a", 1), ("b", 1)], map_name="raw", schema=1, first=1)
    assert again.versions[0] == 1 and again.repeated == [0]
    assert list(again.errors) == [1] and isinstance(again.errors[1], UnknownSchemaError)


def test_a_refused_write_may_be_sent_again_once_there_is_code_for_it() -> None:
    stand = Stand(source=VERSIONED)
    assert stand.put_now([("a", 1)], map_name="raw", schema=3).errors
    switch(stand, WITHOUT_OLD)
    again = stand.put_now([("a", 1)], map_name="raw", schema=3, first=1)
    assert not again.errors and stand.value("a", map_name="seen") == ["old", 1]


def test_a_write_that_waits_while_its_schema_goes_is_refused() -> None:
    stand = Stand(source=VERSIONED, limits=Limits(frame_writes_max=1))
    stand.put([("a", 1), ("b", 1)], map_name="raw", schema=1)
    waits = stand.put([("c", 1)], map_name="raw", schema=1)
    switch(stand, WITHOUT_OLD)
    stand.land_all()
    assert isinstance(waits.errors[0], UnknownSchemaError)
    assert stand.value("c", map_name="raw") is None


def test_a_batch_in_the_midst_of_which_the_code_changes_is_refused_from_there_on() -> None:
    stand = Stand(source=VERSIONED, limits=Limits(frame_writes_max=1))
    halved = stand.put([("a", 1), ("b", 1), ("c", 1)], map_name="raw", schema=1)
    switch(stand, WITHOUT_OLD)
    stand.land_all()
    assert sorted(halved.errors) == [1, 2] and isinstance(halved.errors[1], UnknownSchemaError)
    assert stand.value("a", map_name="seen") == ["old", 1] and stand.value("b", map_name="raw") is None
