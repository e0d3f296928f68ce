"""What all tests share."""

import os
import shutil
import tempfile

import pytest
from hypothesis import settings

# The same examples on every machine. `pytest --hypothesis-profile=default` looks for new ones.
settings.load_profile("ci")

STATE = "XDG_STATE_HOME"


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' checkouts out of the user's register; the workers inherit the place."""
    if not hasattr(config, "workerinput"):
        os.environ[STATE] = tempfile.mkdtemp(prefix="stack-state-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[STATE], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, so that no worker is left with it in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
