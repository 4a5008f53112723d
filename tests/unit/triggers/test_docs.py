"""docs/triggers.md: its code runs, and its table names the rules there are."""

import re
from pathlib import Path

import pytest
from tidegrid.triggers import Event, Put
from tidegrid.triggers.contract import RULES, findings
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.testing import TriggerTest

TEXT = (Path(__file__).parents[3] / "docs" / "triggers.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
MODULES = [block for block in BLOCKS if "@trigger" in block]
TESTS = [block for block in BLOCKS if "def test_" in block]


def test_the_trigger_modules_load_and_keep_the_contract():
    assert len(MODULES) == 5
    for source in MODULES:
        assert load_modules([("orders", source)]).triggers and findings("orders", source) == []
    (allowed,) = (block for block in BLOCKS if "allow clock" in block)
    assert findings("m", allowed) == [] and findings("m", allowed.replace("allow", ""))


def test_the_tests_pass(tmp_path, monkeypatch):
    (tmp_path / "orders.py").write_text(MODULES[0])
    monkeypatch.chdir(tmp_path)
    (source,) = TESTS
    namespace = {}
    exec(source, namespace)
    ran = [function() for name, function in namespace.items() if name.startswith("test_")]
    assert len(ran) == 2


def test_what_is_said_of_the_first_module():
    orders = TriggerTest(MODULES[0])
    made = orders.put("orders.raw", ("north", 7), {"cents": 100_000, "more": 1}, time_ms=5)
    assert made.outputs == [
        Put("orders", ("north", 7), {"cents": 100_000, "currency": "EUR", "at_ms": 5}),
        Event("orders.large", ("north", 7), {"cents": 100_000}),
    ]
    message = orders.put("orders.raw", ("north", 7), {"cents": "75"}).rejected.message
    assert f"    {message}\n" in TEXT


@pytest.mark.parametrize("rule", [*RULES, "deterministic", "read-only"])
def test_every_rule_is_in_the_table(rule):
    assert any(f"`{rule}`" in line for line in TEXT.split("\n") if line.startswith("| "))
