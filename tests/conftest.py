"""Tests marked ``long`` are left out unless ``TETHER_LONG`` is set."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them, and say how they are run."""
    if os.environ.get("TETHER_LONG"):
        return
    skip = pytest.mark.skip(reason="takes long: set TETHER_LONG=1")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skip)
