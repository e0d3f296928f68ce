"""Somebody else's PostgreSQL where `localhost` leads, or at our own address: it is named, and never touched."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from stack.ground import settings
from stack.ground.lock import exclusive
from stack.ground.ports import is_free
from stack.server.programs import server_programs
from tests.integration.checkout import (
    ALONE,
    INVOKE,
    configure,
    docker,
    environment,
    eventually,
    fail,
    foreign,
    run,
    sql,
    succeed,
    value,
)
from tests.integration.conftest import Make

DEFAULT = settings.DEFAULTS["POSTGRES_PASSWORD"]
LOCALHOST_IS_TWO = "127.0.0.1 localhost\n::1 localhost\n"


pytestmark = pytest.mark.skipif(not is_free("::1", 0), reason="this machine has no ::1")
as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give localhost two addresses, or end docker-proxy"
)


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, ...]:
    """What to run a command through so that localhost has two addresses for it; as it is, for who may not."""
    if os.geteuid() != 0:
        return ()
    (tmp_path / "hosts").write_text(LOCALHOST_IS_TWO)
    mounted = f"mount --bind '{tmp_path}/hosts' /etc/hosts && exec \"$@\""
    return ("unshare", "--mount", "sh", "-c", mounted, "sh")


class Other:
    """A PostgreSQL that is not ours, with the same user and database as ours, and rows of its own."""

    def __init__(self, address: str, port: int, password: str) -> None:
        self.login = {"host": address, "port": port, "user": "postgres", "password": password, "autocommit": True}
        self.pid = 0

    def ask(self, query: str, database: str = "convex_poc") -> list[object]:
        with psycopg.connect(**self.login, dbname=database) as connection:  # type: ignore[arg-type]
            cursor = connection.execute(query.encode())
            return [row[0] for row in cursor] if cursor.description else []

    def state(self) -> tuple[list[object], list[object], list[object]]:
        databases = self.ask("SELECT datname || oid FROM pg_database ORDER BY 1")
        return databases, self.ask("SELECT rolpassword FROM pg_authid ORDER BY oid"), self.ask("SELECT * FROM theirs")


@contextmanager
def other(folder: Path, address: str, port: int, password: str = DEFAULT) -> Iterator[Other]:
    """Run such a server, and look in the end whether anybody has touched it."""
    with exclusive(settings.ROOT, timeout=600):
        programs = server_programs(settings.ROOT)
    user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] * (os.geteuid() == 0)
    data = folder / "other"
    (folder / "password").write_text(password)
    subprocess.run(
        [*user, str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "scram-sha-256", "--no-sync",
         "--pwfile", str(folder / "password")],
        check=True, capture_output=True,
    )  # fmt: skip
    argv = [*user, str(programs / "postgres"), "-D", str(data), "-c", f"listen_addresses={address}",
            "-c", f"port={port}", "-c", "unix_socket_directories="]  # fmt: skip
    with (folder / "log").open("w") as log, subprocess.Popen(argv, stdout=log, stderr=log) as child:
        try:
            server = Other(address, port, password)
            server.pid = child.pid
            eventually(lambda: "ready to accept" in (folder / "log").read_text())
            server.ask("CREATE DATABASE convex_poc", "postgres")
            server.ask("CREATE TABLE theirs AS SELECT generate_series(1, 5000)")
            before = server.state()
            yield server
            assert server.state() == before
        finally:
            child.terminate()


def ports(copy: Path, *, within: tuple[str, ...] = ()) -> dict[str, str]:
    """Return what doctor finds of the ports."""
    return finding(copy, "ports", within=within)


def finding(copy: Path, check: str, *, within: tuple[str, ...] = ()) -> dict[str, str]:
    rows: list[dict[str, str]] = json.loads(run(copy, "doctor", "--json", through=within).stdout)["findings"]
    return next(row for row in rows if row["check"] == check)


def test_a_server_that_has_localhost_first_makes_the_port_taken(
    either: Path, tmp_path: Path, two: tuple[str, ...]
) -> None:
    port = value(either, "POSTGRES_PORT")
    with other(tmp_path, "::1", int(port)) as theirs:
        taken = f"Port {port} is taken on ::1, to which the name localhost leads as well as to 127.0.0.1, by postgres"
        fail(either, 1, "up", saying=(taken, f"process {theirs.pid}", "invoke init --isolated"), through=two)
        assert ports(either, within=two)["state"] == "failed"
        succeed(either, "init", "--isolated", through=two)
        assert value(either, "POSTGRES_PORT") != port
        succeed(either, "up", through=two)
        assert ports(either, within=two)["state"] == "ok"


def test_a_server_that_comes_to_localhost_later_is_told_and_never_touched(
    either: Path, tmp_path: Path, two: tuple[str, ...]
) -> None:
    said = run(either, "up", through=two)
    assert said.returncode == 0
    assert "127.0.0.1" in said.stderr
    assert "localhost" not in said.stderr
    sql(either, "CREATE TABLE ours AS SELECT 1 AS one")
    succeed(either, "snapshot", "before", through=two)
    sql(either, "INSERT INTO ours VALUES (2)")
    port = value(either, "POSTGRES_PORT")
    with other(tmp_path, "::1", int(port)) as theirs:
        again = run(either, "up", through=two)
        assert again.returncode == 0
        assert f"Port {port} is taken on ::1" in again.stderr
        assert "write 127.0.0.1, not localhost" in again.stderr
        (row,) = json.loads(succeed(either, "status", "--json", through=two))["services"]
        assert row["address"] == f"postgresql://postgres:********@127.0.0.1:{port}/convex_poc"
        found = ports(either, within=two)
        assert found["state"] == "failed"
        assert f"process {theirs.pid}" in found["message"]
        assert finding(either, "log in", within=two)["state"] == "ok"
        assert succeed(either, "psql", "-c", "COPY (SELECT count(*) FROM ours) TO STDOUT", through=two) == "2\n"
        succeed(either, "snapshot", "after", through=two)
        succeed(either, "restore", "before", through=two)
        assert sql(either, "SELECT * FROM ours") == [1]
        succeed(either, "restore", "after", through=two)
        succeed(either, "drop-snapshot", "before", "--yes", through=two)
        assert "after" in succeed(either, "snapshots", through=two)
        assert sql(either, "SELECT * FROM ours ORDER BY 1") == [1, 2]
        assert f"@127.0.0.1:{port}/" in succeed(either, "env", through=two)
        for command in (("down",), ("init", "--isolated"), ("up",)):
            succeed(either, *command, through=two)
        assert ports(either, within=two)["state"] == "ok"
        assert sql(either, "SELECT * FROM ours ORDER BY 1") == [1, 2]
    assert run(either, "down").returncode == 0


@pytest.mark.parametrize("published", ["[::1]:{}:80", "[::]:{}:80"])
def test_a_container_on_localhost_is_named(make: Make, published: str) -> None:
    copy = make(**ALONE)
    port = value(copy, "POSTGRES_PORT")
    with foreign("--publish", published.format(port)) as name:
        fail(copy, 1, "up", saying=(f"Port {port} is taken on ::1", f"by the container {name}"))
    succeed(copy, "up")


def test_a_page_of_another_program_on_localhost_takes_a_port_too(make: Make, two: tuple[str, ...]) -> None:
    copy = make()
    port = int(value(copy, "CONVEX_DASHBOARD_PORT"))
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        fail(copy, 1, "up", saying=(f"Port {port} is taken on ::1", f"process {os.getpid()}"), through=two)


def test_our_own_listeners_are_no_strangers(make: Make) -> None:
    copy = make(**{**ALONE, "STACK_LAYERS": "dev,alone,wide"})
    wide = 'services: {postgres: {ports: !override ["${POSTGRES_PORT}:5432"]}}\n'
    (copy / "docker-compose.wide.yml").write_text(wide)
    for _ in range(2):
        said = run(copy, "up")
        assert said.returncode == 0
        assert "is taken" not in said.stderr
        assert ports(copy)["state"] == "ok"
    assert finding(copy, "open door")["state"] == "warning"
    assert f"@127.0.0.1:{value(copy, 'POSTGRES_PORT')}/" in said.stderr


def end_forwarding(port: int) -> None:
    """End Docker's program that listens on our port, as a crash does: `docker ps` still shows the port as ours."""
    for each in psutil.process_iter(["name", "cmdline"]):
        if each.info["name"] == "docker-proxy" and ["-host-port", str(port)] == each.info["cmdline"][5:7]:
            each.kill()
    eventually(lambda: is_free("127.0.0.1", port))


@as_root
@pytest.mark.parametrize("password", ["postgres", "another"])
def test_a_server_in_the_place_of_ours_is_named_and_never_touched(make: Make, tmp_path: Path, password: str) -> None:
    copy = make(**ALONE)
    succeed(copy, "up")
    sql(copy, "CREATE TABLE ours AS SELECT 1 AS one")
    succeed(copy, "snapshot", "before")
    port = int(value(copy, "POSTGRES_PORT"))
    end_forwarding(port)
    with other(tmp_path, "127.0.0.1", port, password) as theirs:
        found = finding(copy, "log in")
        assert found["state"] == "failed"
        for words in ("Another ", "this stack's", f"127.0.0.1:{port}", f"postgres (process {theirs.pid})"):
            assert words in found["message"]
        run(copy, "doctor", "--fix")
        status = run(copy, "status")
        assert status.returncode == 1
        if password == "postgres":
            name = f"Another server answers at 127.0.0.1:{port}, not this stack's: PostgreSQL 17"
            assert name in status.stdout
            fail(copy, 1, "up", saying=(name, "It was not touched", f"its data in {tmp_path}/other", "`invoke down`"))
            for command in (("snapshot",), ("restore",), ("drop-snapshot", "before", "--yes"), ("snapshots",)):
                fail(copy, 1, *command, saying=(name, str(theirs.pid)))
        else:
            said = fail(copy, 1, "up", saying=(f"another server than this stack's answers at 127.0.0.1:{port}",))
            assert "the data was initialised" not in said
            assert f"process {theirs.pid}" in said
            fail(copy, 1, "restore", saying=("`invoke doctor` finds out why",))
    for cure in ("down", "up", "restore"):
        succeed(copy, cure)
    assert sql(copy, "SELECT * FROM ours") == [1]


@as_root
def test_a_server_on_a_copy_of_our_files_in_the_place_of_ours_is_never_touched(make: Make, tmp_path: Path) -> None:
    copy = make(**ALONE)
    succeed(copy, "up")
    sql(copy, "CREATE TABLE ours AS SELECT 1 AS one")
    succeed(copy, "snapshot", "before")
    succeed(copy, "down")
    theirs = tmp_path / "theirs"
    subprocess.run(["cp", "-a", str(copy / "data" / "pg"), str(theirs)], check=True)
    subprocess.run(["chown", "-R", "0:0", str(theirs)], check=True)
    succeed(copy, "up")
    port = int(value(copy, "POSTGRES_PORT"))
    end_forwarding(port)
    with exclusive(settings.ROOT, timeout=600):
        programs = server_programs(settings.ROOT)
    argv = ["unshare", "--user", "--map-user=1000", "--map-group=1000", str(programs / "postgres"), "-D", str(theirs),
            "-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", "unix_socket_directories="]  # fmt: skip
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as child:
        try:
            eventually(lambda: not is_free("127.0.0.1", port))
            eventually(lambda: run(copy, "status").returncode == 1)
            for command in (("up",), ("snapshot",), ("restore",), ("drop-snapshot", "before", "--yes")):
                fail(copy, 1, *command, saying=("on a copy of the same cluster", "It was not touched", str(child.pid)))
        finally:
            child.terminate()
    for cure in ("down", "up", "restore"):
        succeed(copy, cure)
    assert sql(copy, "SELECT * FROM ours") == [1]


@as_root
def test_a_program_in_the_place_of_ours_that_is_no_postgres_is_named(make: Make) -> None:
    copy = make(**ALONE)
    succeed(copy, "up")
    port = int(value(copy, "POSTGRES_PORT"))
    end_forwarding(port)
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as page:
        try:
            eventually(lambda: not is_free("127.0.0.1", port))
            found = finding(copy, "log in")
            assert f"Another than this stack's server listens at 127.0.0.1:{port}" in found["message"]
            assert f"process {page.pid}" in found["message"]
        finally:
            page.terminate()


def test_a_server_that_does_not_tell_which_cluster_it_has_is_not_changed(either: Path) -> None:
    succeed(either, "up")
    sql(either, "CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'boss'")
    boss = {"user": "boss", "password": "boss", "dbname": "postgres"}
    sql(either, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", dbname="postgres")
    sql(either, "CREATE ROLE me LOGIN CREATEDB PASSWORD 'postgres'", **boss)
    configure(either, POSTGRES_USER="me")
    succeed(either, "up")
    fail(either, 1, "snapshot", saying=("does not tell which cluster it has", "GRANT EXECUTE"))
    succeed(either, "status")
    sql(either, "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC", **boss)
    assert "does not tell" not in run(either, "snapshots").stderr


@as_root
def test_a_port_that_nothing_forwards_any_more_is_told_with_the_cure(make: Make) -> None:
    copy = make(**ALONE)
    succeed(copy, "up")
    end_forwarding(int(value(copy, "POSTGRES_PORT")))
    assert "Nothing listens" in finding(copy, "log in")["message"]
    fail(copy, 1, "wait-healthy", "--timeout", "3", saying=("Connection refused", "`invoke down`, then `invoke up`"))
    for command in ("down", "up", "wait-healthy"):
        succeed(copy, command)


def test_a_data_directory_elsewhere_in_the_container_is_still_ours(make: Make) -> None:
    copy = make(**{**ALONE, "STACK_LAYERS": "dev,alone,deeper"})
    (copy / "docker-compose.deeper.yml").write_text(
        "services: {postgres: {environment: {PGDATA: /var/lib/postgresql/data/deeper}}}\n"
    )
    succeed(copy, "up")
    succeed(copy, "snapshot", "one")
    succeed(copy, "restore", "one")
    succeed(copy, "status")


# -- the default password, where others reach the port -----------------------------------------------------


def test_an_open_door_is_told_and_closed(either: Path) -> None:
    configure(either, BIND_ADDRESS="0.0.0.0")
    said = run(either, "up")
    assert said.returncode == 0
    assert [line for line in said.stderr.splitlines() if "Warning" in line] == [
        "Warning: PostgreSQL listens on 0.0.0.0 with the default password, which everybody knows. `invoke init"
        " --password` writes a random one into `.env`, and `invoke doctor --fix` gives it to the database."
    ]
    assert finding(either, "open door")["state"] == "warning"
    sql(either, "CREATE TABLE ours AS SELECT 1 AS one")
    told = run(either, "init", "--password")
    assert told.returncode == 0
    assert "`invoke doctor --fix`" in told.stderr
    password = value(either, "POSTGRES_PASSWORD")
    assert len(password) == 32
    assert password not in told.stderr + told.stdout
    assert (either / ".env").stat().st_mode & 0o777 == 0o600
    fixed = run(either, "doctor", "--fix")
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    assert password not in fixed.stdout + fixed.stderr
    assert sql(either, "SELECT * FROM ours") == [1]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        sql(either, "SELECT 1", password="postgres")
    said = run(either, "up")
    assert said.returncode == 0
    assert "Warning" not in said.stderr
    assert finding(either, "open door")["state"] == "ok"
    fail(either, 2, "init", "--password", saying=("of your own already",))
    assert value(either, "POSTGRES_PASSWORD") == password


def test_a_door_that_was_open_while_the_stack_is_down_is_closed_as_up_says(either: Path) -> None:
    succeed(either, "up")
    succeed(either, "down")
    succeed(either, "init", "--password")
    configure(either, BIND_ADDRESS="0.0.0.0")
    fail(either, 1, "up", saying=("initialised with another password", "`invoke doctor --fix`"))
    assert run(either, "doctor", "--fix").returncode == 0
    assert "Warning" not in run(either, "up").stderr
    succeed(either, "snapshot")


@pytest.mark.anew
def test_without_data_the_random_password_counts_at_once(either: Path) -> None:
    configure(either, BIND_ADDRESS="0.0.0.0")
    told = run(either, "init", "--password", "--isolated")
    assert "COMPOSE_PROJECT_NAME=" in told.stderr
    assert "doctor --fix" not in told.stderr
    said = run(either, "up")
    assert said.returncode == 0
    assert "Warning" not in said.stderr
    url = next(line for line in succeed(either, "env").splitlines() if line.startswith("DATABASE_URL="))
    with psycopg.connect(url.partition("=")[2]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_password_of_the_shell_is_not_written_over(either: Path) -> None:
    before = (either / ".env").read_text()
    said = subprocess.run(
        [*INVOKE, "init", "--password"], check=False, capture_output=True, text=True, cwd=either,
        env=environment(POSTGRES_PASSWORD="postgres"),
    )  # fmt: skip
    assert said.returncode == 2
    assert "unset POSTGRES_PASSWORD" in said.stderr
    assert (either / ".env").read_text() == before


def test_a_default_password_in_a_layer_is_to_be_changed_there(make: Make) -> None:
    copy = make(**{**ALONE, "STACK_LAYERS": "dev,alone,mine", "POSTGRES_PASSWORD": "mine", "BIND_ADDRESS": "0.0.0.0"})
    layer = copy / "docker-compose.mine.yml"
    layer.write_text("services: {postgres: {environment: {POSTGRES_PASSWORD: postgres}}}\n")
    said = run(copy, "up").stderr
    assert "with the default password" in said
    assert "It stands in a layer" in said
    layer.write_text("services: {postgres: {environment: {POSTGRES_PASSWORD: better}}}\n")
    fail(copy, 1, "up", saying=("invoke doctor --fix",))
    assert run(copy, "doctor", "--fix").returncode == 0
    assert "default" not in run(copy, "up").stderr


def test_docker_says_itself_that_localhost_is_taken(make: Make) -> None:
    copy = make(**{**ALONE, "STACK_LAYERS": "dev,alone,six"})
    wide = 'services: {postgres: {ports: !override ["[::1]:${POSTGRES_PORT}:5432"]}}\n'
    (copy / "docker-compose.six.yml").write_text(wide)
    port = value(copy, "POSTGRES_PORT")
    said = run(copy, "up").stderr
    assert f"@[::1]:{port}/" in said
    succeed(copy, "snapshot")
    succeed(copy, "restore")
    succeed(copy, "down")
    with foreign("--publish", f"[::1]:{port}:80") as name:
        fail(copy, 1, "up", saying=(f"Port {port} is taken by", name))
    assert docker("ps", "--quiet", "--filter", f"publish={port}") == ""
