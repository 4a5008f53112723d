"""`__requires__`: read without running anything."""

from __future__ import annotations

import pytest
from tidegrid.grid.model.errors import TriggerModuleError
from tidegrid.triggers.deployment import Module
from tidegrid.triggers.requirements import requirements_of


def of(*sources: str) -> tuple[str, ...]:
    return requirements_of(Module(f"m{number}", source) for number, source in enumerate(sources))


def test_of_all_modules_each_once() -> None:
    assert of("import nothing\n__requires__ = ('numpy>=1.26,<3', 'python>=3.11')", "x = 1") == (
        "numpy>=1.26,<3",
        "python>=3.11",
    )
    assert of("__requires__ = ['a']", "__requires__: tuple[str, ...] = ('b', 'a')") == ("a", "b")
    assert of("__requires__ = 'a~=2.0'") == ("a~=2.0",)
    assert of("def (") == () == of("def f():\n    __requires__ = 3")


@pytest.mark.parametrize(
    "value", ["3", "names()", "('a', 1)", "('a b',)", "('-e .',)", "('https://example.org/a.whl',)"]
)
def test_what_is_no_requirement(value: str) -> None:
    with pytest.raises(TriggerModuleError, match=r"'m0', line 2: __requires__") as caught:
        of(f"\n__requires__ = {value}")
    assert caught.value.line == 2
