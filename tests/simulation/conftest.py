"""The slow part, every rule switched off in turn, runs when it is asked for: `pytest tests/simulation -m mutations`."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mutations: breaks a rule and searches for the seed that shows it; slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "mutations" in (config.getoption("-m") or ""):
        return
    slow = [item for item in items if item.get_closest_marker("mutations") is not None]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
