"""Which server answers: this checkout's own, a copy of it, or somebody else's that has the same words."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from stack.doctor import case as case_room
from stack.doctor import on_services
from stack.engines.embedded.engine import Embedded
from stack.ground.errors import StackError
from stack.server.address import Endpoint
from stack.server.identity import Stranger
from stack.verbs import login, wait
from stack.verbs import up as up_room
from tests.unit.conftest import embedded

pytestmark = pytest.mark.slow


def up(engine: Embedded) -> None:
    up_room.bring_up(engine, 30, pull=False, wait=True)


def sql(engine: Embedded, query: str, **other: str) -> list[object]:
    with psycopg.connect(engine.endpoint().url(masked=False), autocommit=True, **other) as connection:  # type: ignore[arg-type]
        cursor = connection.execute(query.encode())
        return [row[0] for row in cursor] if cursor.description else []


@pytest.fixture
def two(programs: Path, tmp_path: Path) -> Iterator[tuple[Embedded, Embedded]]:
    """Two checkouts, the data of the second a copy of the first one's, byte for byte."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with embedded(programs, tmp_path / "one") as one, embedded(programs, tmp_path / "two") as two:
        up(one)
        sql(one, "CREATE ROLE plain LOGIN CREATEDB PASSWORD 'postgres'")
        one.stop()
        subprocess.run(["cp", "-a", str(one.home.directory), str(two.home.directory)], check=True)
        up(one)
        up(two)
        yield one, two


@contextmanager
def misled(engine: Embedded, there: Endpoint) -> Iterator[None]:
    """Let an engine's address lead to another server than its own, as a port that is forwarded elsewhere does."""
    real = engine.endpoint
    engine.endpoint = lambda: replace(real(), host=there.host, port=there.port)  # type: ignore[method-assign]
    yield
    engine.endpoint = real  # type: ignore[method-assign]


@pytest.mark.parametrize("user", ["postgres", "plain"])
def test_a_server_on_a_copy_of_the_data_is_a_stranger(two: tuple[Embedded, Embedded], user: str) -> None:
    one, other = two
    for engine in two:
        engine.settings = replace(engine.settings, user=user, password="postgres")
        assert login.login(engine.endpoint(), engine)
    if user == "plain":  # who may not read the server's own files can tell by its age alone
        lock = one.home.directory / "postmaster.pid"
        lines = lock.read_text().splitlines()
        lines[2] = str(int(lines[2]) - 1000)
        lock.write_text("\n".join([*lines, ""]))
    with misled(one, other.endpoint()), pytest.raises(Stranger, match="a copy of the same cluster"):
        login.login(one.endpoint(), one)


# -- what refuses us ----------------------------------------------------------------------------------------


def shut(engine: Embedded, how: str) -> None:
    """Make a server refuse who comes with the default settings."""
    if how == "password":
        sql(engine, "ALTER ROLE postgres PASSWORD 'another'")
    elif how == "role":
        sql(engine, "CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'boss'")
        sql(engine, "ALTER ROLE postgres RENAME TO former", user="boss", password="boss")
    elif how == "database":
        sql(engine, "ALTER DATABASE convex_poc RENAME TO former", dbname="postgres")
    elif how == "nologin":
        sql(engine, "ALTER ROLE postgres NOLOGIN")
    elif how == "closed":
        sql(engine, "ALTER DATABASE convex_poc ALLOW_CONNECTIONS false", dbname="postgres")
    else:
        rules = engine.home.directory / "pg_hba.conf"
        rules.write_text("local all all trust\n" + "host all all all reject\n" * (how == "reject"))
        sql(engine, "SELECT pg_reload_conf()")


WAYS = ["password", "role", "database", "nologin", "closed", "nobody", "reject"]


@pytest.mark.parametrize("how", WAYS)
def test_what_a_stranger_refuses_us_for_is_not_told_of_our_own_data(
    programs: Path, engine: Embedded, tmp_path_factory: pytest.TempPathFactory, how: str
) -> None:
    up(engine)
    with embedded(programs, tmp_path_factory.mktemp("theirs")) as theirs:
        up(theirs)
        shut(theirs, how)
        with misled(engine, theirs.endpoint()):
            with pytest.raises(StackError) as refused:
                wait.wait_usable(engine, 5)
            case = case_room.Case(engine.root)
            case.settings, case.engine = engine.settings, engine
            (found,) = list(on_services.log_in(case))
        for said in (str(refused.value), f"{found.message} {found.cure}"):
            assert re.search(rf"nother (server )?than this stack's .* at 127.0.0.1:{theirs.endpoint().port}", said)
            assert f"postgres (process {theirs.postmaster.running().pid})" in said
            assert "`invoke down`" in said
            for untrue in ("the data was initialised", "its pg_hba.conf", "lets nobody in", "may not log in"):
                assert untrue not in said
        assert not found.fix


@pytest.mark.parametrize("how", WAYS)
def test_what_our_own_refuses_us_for_is_told_as_ever(engine: Embedded, how: str) -> None:
    up(engine)
    sql(engine, "CREATE TABLE kept AS SELECT 42 AS n")
    shut(engine, how)
    with pytest.raises(StackError) as refused:
        wait.wait_usable(engine, 5)
    assert "nother server" not in str(refused.value)
    assert {
        "password": "initialised with another password", "role": "initialised with another user",
        "database": "initialised with another user or database", "nologin": "may not log in",
        "closed": "lets nobody in", "nobody": "lets nobody in from here", "reject": "turns this machine away",
    }[how] in str(refused.value)  # fmt: skip


def test_where_nobody_can_look_inside_nothing_is_guessed(engine: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    up(engine)
    sql(engine, "ALTER ROLE postgres PASSWORD 'another'")

    def fails(*_: object) -> object:
        raise StackError("nobody there")

    monkeypatch.setattr(engine.inside, "peer", fails)
    with pytest.raises(StackError) as refused:
        wait.wait_usable(engine, 5)
    assert "the data was initialised" not in str(refused.value)
    assert "does not take the password" in str(refused.value)
