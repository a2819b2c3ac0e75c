"""What all tests share: how hard hypothesis tries, and what is left out where it cannot work."""

from __future__ import annotations

import sys

import pytest
from hypothesis import settings

settings.register_profile("default", max_examples=200, derandomize=True)
settings.register_profile("thorough", max_examples=5000)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out training where there is no build for it; one that is not set up is a failure."""
    if sys.version_info < (3, 13):
        return
    for item in items:
        if item.get_closest_marker("training"):
            item.add_marker(pytest.mark.skip(reason="there is no training runtime for this Python"))
