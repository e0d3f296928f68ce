"""A database per test: copies of a snapshot that are kept ready, taken in the server, and dropped with the session."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.integration.checkout import (
    REPOSITORY,
    containers,
    docker,
    environment,
    eventually,
    fail,
    keepers,
    login,
    run,
    sql,
    succeed,
    tables,
    value,
)  # fmt: skip

TAKE = "SELECT stack.take()"
COPIES = "SELECT datname FROM pg_database WHERE datname ~ '^stack_' ORDER BY 1"


def pool(copy: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(succeed(copy, "pool", "--json"))
    return found


def taker(copy: Path, **other: Any) -> psycopg.Connection[Any]:
    return login(copy, dbname="postgres", **other)


def take(session: psycopg.Connection[Any]) -> str:
    return str(session.execute(TAKE).fetchall()[0][0])


@pytest.fixture
def pooled(either: Path) -> Path:
    """A stack that is up, with a pool of four of a snapshot with a table of three rows."""
    succeed(either, "up")
    sql(either, "CREATE TABLE kept AS SELECT generate_series(1, 3) AS n")
    succeed(either, "snapshot", "one")
    succeed(either, "pool", "one", "--size", "4")
    return either


@contextmanager
def takers(copy: Path, number: int) -> Iterator[list[tuple[psycopg.Connection[Any], str]]]:
    """Log in so often, and let all of them take at once."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(taker(copy)) for _ in range(number)]
        barrier, taken = threading.Barrier(number), list[tuple[psycopg.Connection[Any], str]]()

        def at_once(session: psycopg.Connection[Any]) -> None:
            barrier.wait()
            taken.append((session, take(session)))

        threads = [threading.Thread(target=at_once, args=[each]) for each in sessions]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        yield taken


def test_takers_at_once_get_different_ones_and_the_end_of_a_session_gives_it_back(pooled: Path) -> None:
    succeed(pooled, "pool", "one", "--size", "8")
    assert pool(pooled)["ready"] == 8
    with takers(pooled, 8) as taken:
        names = {name for _, name in taken}
        assert len(names) == 8
        for name in names:
            with login(pooled, dbname=name) as session:
                assert session.execute("SELECT count(*) FROM kept").fetchone() == (3,)
                session.execute("DROP TABLE kept")
        assert sorted(pool(pooled)["taken"]) == sorted(names)
        with taker(pooled) as ninth:
            with pytest.raises(psycopg.Error, match="All 8 databases of the pool are taken") as error:
                take(ninth)
            with pytest.raises(psycopg.Error, match="This session has not taken the database"):
                ninth.execute("SELECT stack.give(%s)", [taken[0][1]])
            with pytest.raises(psycopg.Error, match="This session has not taken the database"):
                ninth.execute("SELECT stack.give('postgres')")
            (cure,) = re.findall("`invoke (pool .*)`", error.value.diag.message_hint or "")
            succeed(pooled, *cure.split())
            assert take(ninth) not in names
        session, name = taken[0]
        session.execute("SELECT stack.give(%s)", [name])
        eventually(lambda: name not in sql(pooled, COPIES))
    eventually(lambda: not names & set(sql(pooled, COPIES)))
    succeed(pooled, "pool", "one", "--size", "2")
    eventually(lambda: len([each for each in sql(pooled, COPIES) if each.startswith("stack_pool")]) == 2)
    assert tables(pooled) == ["kept"]


def test_many_takes_leave_nothing_behind(pooled: Path) -> None:
    seen = set[str]()

    def some(number: int) -> None:
        with taker(pooled) as session:
            for n in range(number):
                seen.add(name := take(session))
                if n % 4:
                    session.execute("SELECT stack.give(%s)", [name])
                else:
                    session.execute("SELECT pg_advisory_unlock_all()")  # as pools of connections do

    threads = [threading.Thread(target=some, args=[50]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(seen) == 200
    eventually(lambda: pool(pooled)["ready"] == 4, timeout=60)
    eventually(lambda: len(sql(pooled, COPIES)) == 4)  # a spare of the snapshot is made beside
    assert not seen & set(sql(pooled, COPIES))
    eventually(lambda: "A copy of the database is left" not in run(pooled, "doctor").stdout)


def test_what_was_used_is_not_handed_out_again_whatever_the_transaction_does(pooled: Path) -> None:
    with taker(pooled) as session:
        session.autocommit = False
        name = take(session)
        sql(pooled, "DROP TABLE kept", dbname=name)
        session.rollback()
        assert pool(pooled)["taken"] == [name]
    with takers(pooled, 4) as taken:
        for _, each in taken:
            assert each != name
            assert tables(pooled, dbname=each) == ["kept"]


def test_somebody_on_the_template_stops_nothing(pooled: Path) -> None:
    (stored,) = sql(pooled, "SELECT datname FROM pg_database WHERE datname ~ '^stack-snapshot'")
    sql(pooled, f'ALTER DATABASE "{stored}" ALLOW_CONNECTIONS true')
    with login(pooled, dbname=stored) as session:
        session.execute("BEGIN; LOCK TABLE kept")
        with takers(pooled, 4):
            pass
        eventually(lambda: pool(pooled)["ready"] == 4, timeout=60)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")


def test_a_role_without_rights_takes_when_it_is_let_in(pooled: Path) -> None:
    sql(pooled, "CREATE ROLE tester LOGIN PASSWORD 'x'; CREATE ROLE app; ALTER DATABASE convex_poc OWNER TO app")
    succeed(pooled, "snapshot", "two")
    succeed(pooled, "pool", "two", "--size", "2")
    other = {"user": "tester", "password": "x"}
    with taker(pooled, **other) as session:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            take(session)
        sql(pooled, "GRANT USAGE ON SCHEMA stack TO tester", dbname="postgres")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            take(session)
        sql(pooled, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA stack TO tester", dbname="postgres")
        name = take(session)
        assert sql(pooled, "SELECT current_user::text", dbname=name, **other) == ["tester"]
        owner = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = current_database()"
        assert sql(pooled, owner, dbname=name) == ["app"]
        succeed(pooled, "drop-pool")
        succeed(pooled, "pool", "two", "--size", "2")
        assert take(session) != name  # what was granted stays


def test_a_keeper_or_a_taker_that_is_killed(pooled: Path) -> None:
    program = (
        "import psycopg, sys, time; c = psycopg.connect(sys.argv[1], autocommit=True);"
        f"print(c.execute('{TAKE}').fetchone()[0], flush=True); time.sleep(600)"
    )
    url = f"host=127.0.0.1 port={value(pooled, 'POSTGRES_PORT')} user=postgres password=postgres dbname=postgres"
    with subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        name = child.stdout.readline().strip()
        assert pool(pooled)["taken"] == [name]
        child.kill()
    eventually(lambda: name not in sql(pooled, COPIES))
    eventually(lambda: pool(pooled)["ready"] == 4, timeout=60)
    eventually(lambda: len(keepers(pooled)) == 1)
    keepers(pooled)[0].kill()
    with takers(pooled, 3) as taken, taker(pooled) as last:
        with taker(pooled) as fourth:
            used = take(fourth)
        with pytest.raises(psycopg.Error, match="nothing is at work that makes one") as error:
            take(last)
        assert used in sql(pooled, COPIES)
        report = {each["check"]: each for each in json.loads(succeed(pooled, "doctor", "--json"))["findings"]}
        assert report["pool"]["state"] == "warning"
        assert "nothing is at work that makes more" in report["pool"]["message"]
        cure, _ = re.findall("`invoke (.*?)`", error.value.diag.message_hint or "")
        succeed(pooled, *cure.split())
        assert take(last) not in {used, *(name for _, name in taken)}
    eventually(lambda: pool(pooled)["ready"] == 4, timeout=60)
    eventually(lambda: used not in sql(pooled, COPIES))


@pytest.mark.parametrize("way", ["down", "kill"])
def test_leases_end_with_the_server_and_the_pool_does_not(pooled: Path, way: str) -> None:
    with taker(pooled) as session:
        used = take(session)
        sql(pooled, "DROP TABLE kept", dbname=used)
        if way == "down":
            succeed(pooled, "down")
            eventually(lambda: not keepers(pooled))
        elif service := containers(pooled).get("postgres") if value(pooled, "STACK_ENGINE") == "docker" else "":
            docker("kill", "--signal", "KILL", service)
        else:
            first = (pooled / "data" / "embedded" / "postmaster.pid").read_text().split()[0]
            psutil.Process(int(first)).send_signal(signal.SIGKILL)
        succeed(pooled, "up")
        eventually(lambda: pool(pooled)["ready"] == 4 and pool(pooled)["taken"] == [], timeout=60)
        with takers(pooled, 4) as taken:
            for _, name in taken:
                assert name != used
                assert tables(pooled, dbname=name) == ["kept"]
    eventually(lambda: used not in sql(pooled, COPIES))
    eventually(lambda: len(keepers(pooled)) == 1)
    aside = pooled.with_name("aside")
    pooled.rename(aside)
    try:
        eventually(lambda: not keepers(pooled) and not keepers(aside))
    finally:
        aside.rename(pooled)


def test_a_pool_ends_without_disturbing_those_who_have_one(pooled: Path) -> None:
    with taker(pooled) as session:
        name = take(session)
        with login(pooled, dbname=name) as inside:
            sql(pooled, "CREATE TABLE since ()")
            succeed(pooled, "restore", "one")
            assert tables(pooled) == ["kept"]
            succeed(pooled, "snapshot", "two")
            succeed(pooled, "pool", "two", "--size", "2")
            with taker(pooled) as other:
                assert take(other) != name
                said = run(pooled, "drop-snapshot", "two", "--yes").stderr
                assert "The pool of two ends with it" in said
                with pytest.raises(psycopg.Error, match="There is no pool of databases") as error:
                    take(session)
                assert "`invoke pool SNAPSHOT`" in (error.value.diag.message_hint or "")
            eventually(lambda: [each for each in sql(pooled, COPIES) if each.startswith("stack_pool")] == [name])
            fail(pooled, 2, "drop-pool", saying=("There is no pool",))
            assert "There is no pool" in run(pooled, "pool").stderr
            assert inside.execute("SELECT count(*) FROM kept").fetchone() == (3,)
    eventually(lambda: not [each for each in sql(pooled, COPIES) if each.startswith("stack_pool")])
    eventually(lambda: not keepers(pooled))
    succeed(pooled, "pool", "one", "--size", "1")
    said = run(pooled, "snapshot", "one", "--replace").stderr
    assert "The pool of one ends with it" in said
    succeed(pooled, "pool", "one", "--size", "1")
    succeed(pooled, "drop-pool")
    eventually(lambda: not [each for each in sql(pooled, COPIES) if each.startswith("stack_pool")])


def test_what_is_no_pool_of_ours_is_left_alone(either: Path) -> None:
    succeed(either, "up")
    fail(either, 2, "pool", "one", saying=("There is no snapshot",))
    succeed(either, "snapshot", "one")
    for size in ("0", "-1", "1001", "many"):
        fail(either, 2, "pool", "one", "--size", size, saying=(f"--size {size} is no number of copies",))
    sql(either, "CREATE DATABASE stack_pool_3")
    sql(either, "CREATE SCHEMA stack", dbname="postgres")
    said = fail(either, 2, "pool", "one", saying=("a schema stack in the database postgres that is not ours",))
    (cure,) = re.findall("`(invoke psql .*)`", said)
    succeed(either, *shlex.split(cure)[1:])
    succeed(either, "pool", "one", "--size", "3")
    with takers(either, 3) as taken:
        assert "stack_pool_3" not in {name for _, name in taken}
    succeed(either, "drop-pool")
    eventually(lambda: [each for each in sql(either, COPIES) if each.startswith("stack_pool")] == ["stack_pool_3"])


@pytest.mark.parametrize("command", [("pool",), ("pool", "one"), ("drop-pool",)])
def test_a_server_elsewhere_has_none(copy: Path, command: tuple[str, ...]) -> None:
    url = "postgresql://postgres:postgres@127.0.0.1:1/convex_poc"
    said = run(copy, *command, env={"STACK_ENGINE": "external", "DATABASE_URL": url})
    assert said.returncode == 2
    assert "external" in said.stderr
    assert said.stdout == ""


PAGE = (REPOSITORY / "docs" / "testing.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """Return the page's code in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def settings_of(copy: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(succeed(copy, "env", "--format", "json", "--no-key"))
    return environment(**found)


def test_the_page_for_pytest(pooled: Path, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(block("python"))
    (tmp_path / "test_shop.py").write_text(
        "import psycopg, pytest\n\n\n"
        "@pytest.mark.parametrize('n', range(6))\n"
        "def test_shop(database, n):\n"
        "    with psycopg.connect(database) as shop:\n"
        "        assert shop.execute('DELETE FROM kept').rowcount == 3\n"
    )
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(tmp_path / "test_shop.py")]
    said = subprocess.run(
        argv, check=False, cwd=tmp_path, env=settings_of(pooled), capture_output=True, text=True, timeout=300
    )
    assert "6 passed" in said.stdout, said.stdout + said.stderr
    eventually(lambda: pool(pooled)["ready"] == 4, timeout=60)


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node or npm is not installed here")
def test_the_page_for_node(pooled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "shop.test.mjs").write_text(
        block("js") + "\nimport { test } from 'node:test';\nimport assert from 'node:assert';\n"
        "for (const n of [1, 2, 3, 4, 5, 6])\n"
        "  test(`shop ${n}`, async () => assert.equal((await client.query('DELETE FROM kept')).rowCount, 3));\n"
    )
    (folder / "package.json").write_text("{}")
    for argv in (["npm", "install", "--no-audit", "--no-fund", "pg@8"], ["node", "--test"]):
        said = subprocess.run(
            argv, check=False, cwd=folder, env=settings_of(pooled), capture_output=True, text=True, timeout=300
        )
        assert said.returncode == 0, said.stdout + said.stderr
    assert re.search(r"^(#|ℹ) pass 6$", said.stdout, re.MULTILINE), said.stdout
    eventually(lambda: pool(pooled)["ready"] == 4, timeout=60)
