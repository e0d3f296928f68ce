"""Docker keeps the contract of all engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.engines.base import Engine
from stack.engines.choose import choose
from stack.verbs.up import bring_up
from tests.contract import Contract
from tests.integration.conftest import Make


@pytest.fixture(scope="module")
def started_copy(make_shared: Make) -> Iterator[Path]:
    copy = make_shared(POSTGRES_PASSWORD="hunter2")
    bring_up(choose(copy), 120, pull=False, wait=True)
    yield copy
    choose(copy).stop()


class TestDocker(Contract):
    @pytest.fixture
    def engine(self, started_copy: Path) -> Engine:
        return choose(started_copy)
