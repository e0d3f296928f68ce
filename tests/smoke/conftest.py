"""Attach to the stack that is running; make a scratch schema, and leave nothing."""

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from stack.engines import choose
from stack.engines.base import Engine
from stack.ground.errors import StackError
from stack.server.session import LoginFailed
from stack.verbs import single
from stack.verbs.login import STANDBY, login

Connection = psycopg.Connection[tuple[object, ...]]


def pytest_sessionstart(session: pytest.Session) -> None:
    """End in one line, with the cure, when there is nothing to test, or nobody is let in."""
    try:
        engine = choose.choose()
        if all(service.state == "not started" for service in engine.services()):
            pytest.exit("No stack runs here to test. Type `invoke up`, then `nox -s smoke`.", returncode=1)
        if (endpoint := engine.endpoint()) and login(endpoint, engine).endswith(STANDBY):
            pytest.exit(single.STANDBY, returncode=1)
    except LoginFailed as error:
        why = str(error).strip().partition("\n")[0].rstrip(".")
        cure = "Type `invoke doctor`, which finds out why."
        pytest.exit(f"The stack runs and cannot be tested: {why}. {cure}", returncode=1)
    except StackError as error:
        pytest.exit(f"Nothing can be tested. {' '.join(str(error).split())}", returncode=1)


@pytest.fixture(scope="session")
def engine() -> Engine:
    return choose.choose()


@pytest.fixture(scope="session")
def url(engine: Engine) -> str:
    endpoint = engine.endpoint()
    if not endpoint:
        pytest.skip("the chosen layers have no database")
    return endpoint.url(masked=False)


@pytest.fixture
def db(url: str) -> Iterator[Connection]:
    """Give an autocommit connection whose unqualified names live in a schema that is dropped afterwards."""
    schema = sql.Identifier(f"smoke_{secrets.token_hex(6)}")
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        try:
            connection.execute(sql.SQL("SET search_path TO {}").format(schema))
            yield connection
        finally:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))
