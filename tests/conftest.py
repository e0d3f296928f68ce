"""What all tests share."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, so that no worker is left with it in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
