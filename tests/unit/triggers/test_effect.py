"""@effect: what it declares, what it refuses, and that nodes pass over it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from tidegrid.grid.model.errors import ConfigurationError, TriggerModuleError
from tidegrid.triggers import EffectEvent, effect
from tidegrid.triggers.declare import DECLARATIONS, declarations_of
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.testing import TriggerTest

MODULE = """
from tidegrid.triggers import EffectEvent, Event, effect, stream, table, trigger

table("raw", key=("id:int",))
stream("late")

@trigger(on="raw", emits="late")
def translate(write):
    yield Event("late", write.key, {"minutes": write.value})

@effect(on="late")
def mail(event: EffectEvent):
    raise AssertionError("no node calls it")

@effect(on="raw", name="search-index", retries=None, backoff_seconds=2, backoff_seconds_max=1, on_give_up="park", concurrency=8, order="any")
async def index(event: EffectEvent):
    raise AssertionError("no node calls it")
"""


def test_what_is_declared() -> None:
    module = ModuleType("author")
    exec(MODULE, module.__dict__)
    mail, index = declarations_of(module.__dict__).effects
    assert (mail.name, mail.on, mail.retries, mail.on_give_up, mail.concurrency) == ("mail", "late", 8, "stop", 1)
    assert (mail.order, mail.asynchronous, mail.line) == ("key", False, 11)
    assert mail.function is module.__dict__["mail"]
    assert (index.name, index.asynchronous, index.retries, index.on_give_up) == ("search-index", True, None, "park")
    assert (index.backoff_seconds, index.backoff_seconds_max, index.concurrency, index.order) == (2, 1, 8, "any")
    assert DECLARATIONS not in globals()


def test_nodes_pass_over_effects() -> None:
    deployment = load_modules([("author", MODULE)])
    assert [trigger.name for trigger in deployment.triggers] == ["translate"]
    (namespace,) = {id(trigger.namespace): trigger.namespace for trigger in deployment.triggers}.values()
    assert [found.name for found in declarations_of(namespace).effects] == ["mail", "search-index"]
    outputs = TriggerTest(MODULE).put("raw", 1, 75).outputs
    assert [output.map for output in outputs] == ["late"]


def test_a_module_of_effects_alone_is_a_deployment_without_triggers() -> None:
    source = "from tidegrid.triggers import effect\n@effect(on='elsewhere')\ndef mail(event): pass\n"
    deployment = load_modules([("author", source)])
    assert deployment.triggers == () and deployment.maps == ()


def test_the_function_stays_what_it_is() -> None:
    space: dict[str, Any] = {}
    exec("from tidegrid.triggers import effect\n@effect(on='s')\ndef f(event): return event.value", space)
    event = EffectEvent("id", "s", "event", ("k",), 7, 0, 1, 0, 0, 0, 0)
    assert space["f"](event) == 7 and event.attempt == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"on": ("a", "b")}, "once per map"),
        ({"on": ""}, "once per map"),
        ({"on": "s", "name": "two words"}, "effect name"),
        ({"on": "s", "retries": -1}, "retries"),
        ({"on": "s", "retries": True}, "retries"),
        ({"on": "s", "backoff_seconds": -0.1}, "backoff_seconds"),
        ({"on": "s", "backoff_seconds_max": "long"}, "backoff_seconds_max"),
        ({"on": "s", "on_give_up": "retry"}, "on_give_up"),
        ({"on": "s", "order": "fifo"}, "order"),
        ({"on": "s", "concurrency": 0}, "concurrency"),
        ({"on": "s", "concurrency": 1_001}, "concurrency"),
    ],
)
def test_what_is_refused(options: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        effect(**options)(a_function())


def a_function() -> Any:
    def function(event: EffectEvent) -> None: ...

    return function


def test_functions_that_are_none_of_an_effect() -> None:
    def two(event: object, grid: object) -> None: ...
    def yields(event: object) -> Any:
        yield

    for function, text in ((two, r"called with \(event\)"), (yields, "yields"), (print, "def")):
        with pytest.raises(ConfigurationError, match=text):
            effect(on="s")(function)


def test_the_line_at_fault_is_named() -> None:
    with pytest.raises(TriggerModuleError, match=r"line 3.*order") as caught:
        load_modules(
            [("m", "from tidegrid.triggers import effect\n\n@effect(on='s', order='none')\ndef f(event): ...\n")]
        )
    assert caught.value.fields["line"] == 3
