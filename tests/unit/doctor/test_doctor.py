"""Each fault is caused for real, on a real PostgreSQL 17 where it takes one; then doctor is asked."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psycopg
import pytest

from stack.doctor import case, on_data, on_database, run
from stack.engines import choose
from stack.engines.docker.engine import Docker
from stack.engines.embedded.engine import Embedded
from stack.ground import disk, settings
from stack.ground.errors import StackError
from stack.server import pgdata, programs, releases, session
from stack.server.programs import server_programs
from stack.verbs import up as up_room
from stack.verbs.facts import MARK
from tests.ports import own_port

pytestmark = pytest.mark.xdist_group("doctor")  # they share a server

Findings = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def nobodys_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.DEFAULTS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout on the embedded engine."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "data").mkdir()
    write(root, STACK_ENGINE="embedded", POSTGRES_PORT=own_port(), POSTGRES_BIN_DIR=server_programs(settings.ROOT))
    yield root
    embedded(root).stop()


@pytest.fixture
def root(checkout: Path) -> Iterator[Path]:
    """The same while its server runs, as it was before each test."""
    up(checkout)
    before = (checkout / ".env").read_text()
    yield checkout
    (checkout / ".env").write_text(before)
    (checkout / ".env").chmod(0o600)


@pytest.fixture
def down(checkout: Path, tmp_path: Path) -> Path:
    """A copy of the checkout, with its data, that is down and may be broken."""
    if not (checkout / "data" / "embedded").exists():
        up(checkout)
    embedded(checkout).stop()
    made = shutil.copytree(checkout, tmp_path / "down")
    write(made, POSTGRES_PORT=own_port())
    return Path(made)


def write(root: Path, **lines: object) -> None:
    file = root / ".env"
    old = file.read_text().splitlines() if file.exists() else []
    kept = [line for line in old if line.partition("=")[0] not in lines]
    file.write_text("\n".join([*kept, *(f"{name}='{value}'" for name, value in lines.items()), ""]))
    file.chmod(0o600)


SERVERS: dict[Path, Embedded] = {}


def embedded(root: Path) -> Embedded:
    """Return the engine as the settings are now; one object for each checkout, whose child the server is."""
    found = settings.load(root, {})
    made = SERVERS.setdefault(root, Embedded(found, root))
    made.settings = made.home.settings = found
    return made


def up(root: Path) -> None:
    up_room.bring_up(embedded(root), 30, pull=False, wait=True)


def sql(root: Path, *statements: str, **other: Any) -> None:
    with psycopg.connect(embedded(root).endpoint().url(masked=False), autocommit=True, **other) as connection:
        for statement in statements:
            connection.execute(statement.encode())


class Report(NamedTuple):
    code: int
    findings: Findings
    text: str

    def __getitem__(self, check: Any) -> Any:
        return self.findings[check]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run doctor and return its exit code, its findings by check, and all that it printed."""

    def ask(root: Path, *, fix: bool = False) -> Report:
        capsys.readouterr()
        code = run.doctor(root, fix=fix, as_json=True)
        printed = capsys.readouterr()
        found = json.loads(printed.out)["findings"]
        assert all(row["state"] in ("ok", "warning", "failed", "skipped") for row in found)
        assert all(row["cure"] for row in found if row["state"] == "warning")
        assert code == any(row["state"] == "failed" for row in found)
        worst = sorted(found, key=lambda row: ("skipped", "ok", "warning", "failed").index(row["state"]))
        return Report(code, {row["check"]: row for row in worst}, printed.out + printed.err)

    return ask


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day on which the programs of this machine are the newest release."""
    monkeypatch.setattr(releases, "NEWEST", "17.0")


@pytest.mark.usefixtures("newest")
def test_a_stack_in_good_health(root: Path, ask: Any) -> None:
    report = ask(root)
    assert report.code == 0
    assert {row["state"] for row in report.findings.values()} == {"ok"}
    assert {each.name for each in run.every(case.Case(root))} == set(report.findings)


@pytest.mark.usefixtures("newest")
def test_one_line_each_with_the_cure(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / ".env").chmod(0o644)
    assert run.doctor(root, fix=False, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(run.every(case.Case(root)))
    (warning,) = (line for line in lines if line.startswith("warning"))
    assert "env secrets" in warning
    assert "mode 644" in warning
    assert f"chmod 600 '{root}/.env'" in warning


def test_every_check_comes_after_those_that_it_needs_and_says_what_it_wants() -> None:
    names = [each.name for each in run.told()]
    assert len(names) == len(set(names))
    for each in run.told():
        assert all(names.index(needed) < names.index(each.name) for needed in each.needs)
        assert all(each.texts), f"{each.name} does not say what it wants and what to do"


def test_the_readme_has_the_table_of_the_checks() -> None:
    readme = (settings.ROOT / "README.md").read_text()
    assert run.table() in readme, "make it anew: python -c 'from stack.doctor.run import table; print(table())'"


def test_a_check_that_breaks_is_a_failed_line(root: Path, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (StackError("What.", cure="Cure."), OSError("gone"), session.LoginFailed("gone")):

        def broken(_path: Path, error: Exception = error) -> int:
            raise error

        monkeypatch.setattr(on_data.places, "free", broken)
        report = ask(root)
        assert report.code == 1
        assert report["disk"]["state"] == "failed"
        assert report["log in"]["state"] == "ok"


# -- settings ---------------------------------------------------------------------------------------------


def test_a_refused_env_file_is_still_a_report(root: Path, ask: Any) -> None:
    with (root / ".env").open("a") as file:
        file.write("POSTGRES_PASSWORD=pa$word-hunter2\n")
    report = ask(root)
    assert report.code == 1
    assert "line 4" in report["env file"]["message"]
    assert "hunter2" not in report.text
    assert {row["state"] for row in report.findings.values()} - {"failed"} == {"ok", "skipped"}
    assert [name for name, row in report.findings.items() if row["state"] == "ok"] == ["env secrets"]


def test_an_env_file_that_others_can_read(root: Path, ask: Any) -> None:
    (root / ".env").chmod(0o644)
    assert ask(root)["env secrets"]["state"] == "warning"
    report = ask(root, fix=True)
    assert report["env secrets"]["state"] == "ok"
    assert report["env secrets"]["fixed"]
    assert stat.S_IMODE((root / ".env").stat().st_mode) == 0o600


def test_what_cannot_be_mended_is_said_once_and_hinders_nothing_else(
    down: Path, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_engine: object) -> None:
        raise StackError("The disk says no.")

    monkeypatch.setattr(on_data, "sweep", refuse)
    (down / "data" / ".wiped-embedded-1").mkdir()
    (down / ".env").chmod(0o644)
    report = ask(down, fix=True)
    assert report["leftovers"]["state"] == "warning"
    assert report["env secrets"]["fixed"]
    assert report.text.count("The disk says no.") == 1


def test_no_env_file(tmp_path: Path, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_ENGINE", "embedded")
    monkeypatch.setenv("POSTGRES_PORT", str(own_port()))
    shutil.copy(settings.ROOT / ".env.example", tmp_path)
    assert ask(tmp_path)["env file"]["state"] == "warning"
    assert not (tmp_path / ".env").exists()
    assert ask(tmp_path, fix=True)["env file"]["fixed"]
    assert (tmp_path / ".env").read_text() == (tmp_path / ".env.example").read_text()


# -- what the stack runs on, as a Docker that is not there, too old or elsewhere would tell it -----------------


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A checkout whose `docker` is a script that gives these answers."""
    monkeypatch.setenv("STACK_ENGINE", "docker")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("docker-compose.yml", "docker-compose.dev.yml"):
        shutil.copy(settings.ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()

    def answering(body: str) -> Path:
        (tmp_path / "bin" / "docker").write_text(f'#!/bin/sh\ncase "$*" in\n{body}\nesac\n')
        (tmp_path / "bin" / "docker").chmod(0o755)
        return tmp_path

    return answering


@pytest.mark.parametrize(
    ("answers", "saying"),
    [
        ("version*) echo 24.0.7;; compose*) echo 2.30.0;;", "Engine 24.0.7 is too old"),
        ("version*) echo 26.1.5;; compose*) echo v2.23.9;;", "Compose v2.23.9 is too old"),
        ("version*) echo 26.1.5;; *) echo \"docker: 'compose' is not a docker command.\" >&2; exit 1;;", "no Compose"),
        ("*) echo 'permission denied while trying to connect to the docker daemon socket' >&2; exit 1;;", "usermod"),
        ("*) echo 'Cannot connect to the Docker daemon at unix:///x' >&2; exit 1;;", "Docker does not answer"),
    ],
)
def test_a_docker_that_cannot_be_used(docker: Any, ask: Any, answers: str, saying: str) -> None:
    report = ask(docker(answers))
    assert report.code == 1
    assert saying in report["platform"]["message"] + report["platform"]["cure"]
    assert report["platform"]["cure"]
    assert {report[name]["state"] for name in ("images", "ports", "services", "log in")} == {"skipped"}


def test_compose_5_is_new_enough(docker: Any, ask: Any) -> None:
    report = ask(docker("version*) echo 29.0.0;; 'compose version'*) echo 5.0.0;; *) exit 1;;"))
    assert report["platform"]["state"] == "ok"


def test_docker_is_not_there(docker: Any, ask: Any) -> None:
    root = docker("")
    (root / "bin" / "docker").unlink()
    report = ask(root)
    assert "not found on PATH" in report["platform"]["message"]
    assert [name for name, row in report.findings.items() if row["state"] == "ok"] == []


def test_docker_on_another_machine(docker: Any, ask: Any) -> None:
    versions = "version*) echo 26.1.5;; 'compose version'*) echo 2.26.1;;"
    report = ask(docker(f"{versions} context*) echo ssh://me@far.example.com;; *) exit 1;;"))
    assert report["machine"]["state"] == "failed"
    assert "far.example.com" in report["machine"]["message"]
    report = ask(docker("context*) echo tcp://10.9.9.9:2375;; *) echo 'Cannot connect' >&2; exit 1;;"))
    assert "10.9.9.9" in report["machine"]["message"]  # though nothing answers there
    report = ask(docker(f"{versions} context*) echo unix:///var/run/docker.sock;; *) exit 1;;"))
    assert report["machine"]["state"] == "ok"


def test_no_docker_and_no_data_is_a_warning_with_the_reason(
    docker: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACK_ENGINE", "auto")
    monkeypatch.setenv("POSTGRES_BIN_DIR", str(server_programs(settings.ROOT)))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/bin:/bin")
    report = ask(docker("*) echo 'permission denied while trying to connect to the docker socket' >&2; exit 1;;"))
    assert report["platform"]["state"] == "warning"
    assert "embedded engine" in report["platform"]["message"]
    assert "usermod" in report["platform"]["message"]


def test_images_that_are_not_here(docker: Any, ask: Any) -> None:
    answers = """version*) echo 26.1.5;; 'compose version'*) echo 2.26.1;;
        compose*config*) echo '{"services": {"a": {"image": "known:1"}, "b": {"image": "gone:1"}}}';;
        'image inspect'*) echo 'No such image' >&2; exit 1;;
        'manifest inspect known:1') ;; 'manifest inspect gone:1') echo 'no such host' >&2; exit 1;;"""
    report = ask(docker(answers))
    assert report["images"]["state"] == "failed"
    assert "gone:1 is not here, and its registry does not give it: no such host" in report["images"]["message"]
    assert "known:1 is not here yet." in report.text


# -- the data ---------------------------------------------------------------------------------------------


def test_a_port_that_a_process_holds(down: Path, ask: Any) -> None:
    port = settings.load(down, {}).ports["POSTGRES_PORT"]
    assert ask(down)["ports"]["state"] == "ok"
    with socket.create_server(("127.0.0.1", port)):
        report = ask(down)
    assert report["ports"]["state"] == "failed"
    assert f"Port {port} is taken by " in report["ports"]["message"]
    assert f"(process {os.getpid()})" in report["ports"]["message"]
    write(down, BIND_ADDRESS="192.0.2.1")
    assert "not an address of this machine" in ask(down)["ports"]["message"]


def test_a_data_directory_that_is_a_link_a_file_or_open_to_all(down: Path, ask: Any) -> None:
    place, elsewhere = down / "data" / "embedded", down / "elsewhere"
    place.chmod(0o755)
    assert "mode 755" in ask(down)["directories"]["message"]
    place.chmod(0o700)
    assert ask(down)["directories"]["state"] == "ok"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    report = ask(down)
    assert report["directories"]["state"] == "failed"
    assert f"`rm {place}`" in report["directories"]["cure"]
    assert str(elsewhere) in report["directories"]["message"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "is_symlink", lambda _path: False)
        patch.setattr(Path, "is_mount", lambda path: path == place)
        assert f"{place} is a mount" in ask(down)["directories"]["message"]
    elsewhere.rename(down / "gone")
    assert ask(down)["directories"]["state"] == "failed"
    place.unlink()
    place.touch()
    assert "not a directory" in ask(down)["directories"]["message"]


def test_data_of_another_major_version(down: Path, ask: Any) -> None:
    (down / "data" / "embedded" / "PG_VERSION").write_text("16\n")
    report = ask(down)
    assert report["data version"]["state"] == "failed"
    assert "made by PostgreSQL 16, and the stack runs 17" in report["data version"]["message"]
    assert "pg_dump" in report["data version"]["cure"]
    with pytest.raises(StackError, match="made by PostgreSQL 16, and the stack runs 17"):
        up(down)


def without_tables(root: Path) -> None:
    """Make a cluster as it is before the database is made."""
    for path in (root / "data" / "embedded" / "base").iterdir():
        if not path.name.isdigit() or int(path.name) >= pgdata.FIRST_MADE_LATER:
            shutil.rmtree(path)
        else:
            for made_later in path.glob("[1-9][0-9][0-9][0-9][0-9]*"):
                assert int(made_later.name[:5]) < pgdata.FIRST_MADE_LATER


@pytest.mark.parametrize("name", ["PG_VERSION", "global/pg_control", "global/1262", "pg_xact", "pg_hba.conf"])
def test_half_made_data(down: Path, ask: Any, name: str) -> None:
    assert ask(down)["first start"]["state"] == "ok"
    without_tables(down)
    path = down / "data" / "embedded" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = ask(down)
    assert report["first start"]["state"] == "failed"
    assert "half-made" in report["first start"]["message"]
    assert "MB and no table. To keep it as a copy" in report["first start"]["cure"]
    assert "`invoke reset-data --service embedded`" in report["first start"]["cure"]


@pytest.mark.parametrize("name", ["global/pg_control", "global/1262", "pg_xact", "PG_VERSION", "pg_hba.conf"])
def test_data_with_tables_is_never_half_made(root: Path, down: Path, ask: Any, name: str) -> None:
    path = down / "data" / "embedded" / "base" / "5" / "16400"
    path.write_bytes(bytes(5_000_000))
    path = down / "data" / "embedded" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = ask(down)["first start"]
    said = found["message"] + found["cure"]
    assert found["state"] == "failed"
    assert "(5.0 MB) that may be tables of yours" in said
    assert "reset" not in said
    assert "half-made" not in said
    if name in ("PG_VERSION", "pg_hba.conf"):
        assert ask(down, fix=True)["first start"]["fixed"]


IMAGES_HBA = "# comment\nlocal all all trust\nhost all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\n"


@pytest.mark.parametrize(
    ("lines", "half"),
    [("", True), ("host all all all scram-sha-256\n", False), ("include mine.conf\n", False)],
)
def test_a_container_that_lets_nobody_in_is_half_made(lines: str, half: bool) -> None:
    files = {"": "\n".join(on_data.HALLS), "postgresql.conf": "", **dict.fromkeys(on_data.CORNERSTONES, "17")}
    files["pg_hba.conf"] = IMAGES_HBA + lines
    for engine in (Docker(settings.load(), settings.ROOT), Embedded(settings.load(), settings.ROOT)):
        looked_at = case.Case(settings.ROOT)
        looked_at.__dict__ |= {"engine": engine, "cluster": files}
        assert bool(on_data._half_made(looked_at)) is (half and engine.name == "docker")


def test_leftovers_of_dead_runs(down: Path, ask: Any) -> None:
    (down / "data" / ".wiped-embedded-1" / "base").mkdir(parents=True)
    (down / "data" / ".new-embedded-2").mkdir()
    report = ask(down)
    assert report["leftovers"]["state"] == "warning"
    assert ".wiped-embedded-1" in report["leftovers"]["message"]
    assert ask(down, fix=True)["leftovers"]["fixed"]
    assert not list((down / "data").glob(".[nw]*-*"))
    assert (down / "data" / "embedded" / "PG_VERSION").exists()


@pytest.mark.parametrize(("free", "state"), [(5 * 10**7, "failed"), (10**9, "warning"), (10**10, "ok")])
def test_a_disk_that_fills(down: Path, ask: Any, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=free))
    assert ask(down)["disk"]["state"] == state
    if state == "failed":
        with pytest.raises(StackError, match="50 MB are free"):
            up(down)


# -- the database -----------------------------------------------------------------------------------------


def test_another_password_is_told_and_set(root: Path, ask: Any) -> None:
    sql(root, "ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
    former = settings.load(root, {}).password
    for password in ("it's näw-$ecret\\", former):
        file = (root / ".env").read_text()
        (root / ".env").write_text(file + f'POSTGRES_PASSWORD="{password}"\n'.replace("\\", "\\\\").replace("$", ""))
        wanted = settings.load(root, {}).password
        report = ask(root)
        assert report["log in"]["state"] == "failed"
        assert "initialised with another password" in report["log in"]["message"]
        assert "`invoke doctor --fix`" in report["log in"]["cure"]
        assert report["clock"]["state"] == "skipped"
        fixed = ask(root, fix=True)
        assert fixed.code == 0
        assert fixed["log in"]["fixed"]
        sql(root, "SELECT 1")
        assert wanted == former or wanted not in report.text + fixed.text
    log = (root / "data" / "embedded" / "server.log").read_text()
    assert "log_statement" in log  # it was on
    assert "ecret" not in log
    assert "SCRAM-SHA-256$" not in log
    sql(root, "ALTER SYSTEM RESET log_statement", "SELECT pg_reload_conf()")


def test_a_database_that_is_missing_is_told_and_made(root: Path, ask: Any) -> None:
    sql(root, "DROP DATABASE convex_poc", dbname="postgres")
    report = ask(root)
    assert report["log in"]["state"] == "failed"
    assert "'convex_poc', but postgres" in report["log in"]["message"]
    assert ask(root, fix=True)["log in"]["fixed"]
    sql(root, "SELECT 1")


def test_both_at_once_take_two_rounds(root: Path, ask: Any) -> None:
    write(root, POSTGRES_PASSWORD="another", POSTGRES_DB='odd "name')
    assert ask(root, fix=True)["log in"]["fixed"]
    sql(root, "ALTER ROLE postgres PASSWORD 'postgres'")


def test_a_user_whom_the_data_does_not_know_is_not_made(root: Path, ask: Any) -> None:
    write(root, POSTGRES_USER="somebody")
    report = ask(root, fix=True)
    assert report.code == 1
    assert "no 'somebody', but postgres" in report["log in"]["message"]
    assert "POSTGRES_USER" in report["log in"]["cure"]


def test_a_superuser_whom_nobody_here_knows(root: Path, ask: Any) -> None:
    boss = {"user": "boss", "password": "b"}
    sql(root, "CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'b'")
    sql(root, "ALTER ROLE postgres RENAME TO former", **boss)
    report = ask(root, fix=True)
    assert report.code == 1
    assert "neither 'postgres' nor 'postgres'" not in report["log in"]["message"]
    assert "Put the former POSTGRES_USER and POSTGRES_PASSWORD back" in report["log in"]["cure"]
    sql(root, "ALTER ROLE former RENAME TO postgres", **boss)
    sql(root, "DROP ROLE boss")


def test_an_invalid_index(root: Path, ask: Any) -> None:
    sql(root, "CREATE TABLE twice (n) AS VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        sql(root, 'CREATE UNIQUE INDEX CONCURRENTLY "Broken" ON twice (n)')
    report = ask(root)
    assert report["indexes"]["state"] == "warning"
    assert 'REINDEX INDEX CONCURRENTLY "Broken"' in report["indexes"]["cure"]
    sql(root, "DROP TABLE twice")
    assert ask(root)["indexes"]["state"] == "ok"


def test_a_collation_that_changed(root: Path, ask: Any) -> None:
    sql(root, "UPDATE pg_database SET datcollversion = '0.9' WHERE datname = 'convex_poc'")
    report = ask(root)
    assert report["collation"]["state"] == "warning"
    assert "convex_poc were made with collation version 0.9" in report["collation"]["message"]
    sql(root, "ALTER DATABASE convex_poc REFRESH COLLATION VERSION")
    assert ask(root)["collation"]["state"] == "ok"


def test_a_page_that_the_disk_changed(root: Path, ask: Any) -> None:
    sql(root, "CREATE TABLE damaged AS SELECT generate_series(1, 1000) AS n", "CHECKPOINT")
    with psycopg.connect(embedded(root).endpoint().url(masked=False)) as connection:
        ((path,),) = connection.execute("SELECT pg_relation_filepath('damaged')").fetchall()
    embedded(root).stop()
    with (root / "data" / "embedded" / path).open("r+b") as file:
        file.seek(4096)
        file.write(b"not what was written")
    up(root)
    with pytest.raises(psycopg.errors.DataCorrupted):
        sql(root, "SELECT count(*) FROM damaged")
    report = ask(root)
    assert report["checksums"]["state"] == "failed"
    assert "convex_poc (1 time)" in report["checksums"]["message"]
    sql(root, "DROP TABLE damaged", "SELECT pg_stat_reset()")
    assert ask(root)["checksums"]["state"] == "ok"


@pytest.mark.parametrize(("old", "state"), [(10**9, "warning"), (0, "failed")])
def test_transaction_ids_that_run_out(
    root: Path, ask: Any, monkeypatch: pytest.MonkeyPatch, old: int, state: str
) -> None:
    monkeypatch.setattr(on_database, "AGEING", 0)
    monkeypatch.setattr(on_database, "OLD", old)
    assert ask(root)["transaction ids"]["state"] == state


@pytest.mark.parametrize(("seconds", "words"), [(3600, "s behind"), (-3600, "s ahead of")])
def test_a_clock_that_is_off(root: Path, ask: Any, monkeypatch: pytest.MonkeyPatch, seconds: int, words: str) -> None:
    monkeypatch.setattr(on_database, "time", SimpleNamespace(time=lambda: time.time() + seconds))
    report = ask(root)
    assert report["clock"]["state"] == "warning"
    assert words in report["clock"]["message"]


def test_no_room_for_a_snapshot(root: Path, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free", lambda _path: disk.NEARLY_FULL + 10**6)
    assert ask(root)["snapshot room"]["state"] == "warning"


def test_a_copy_that_a_dead_command_left(root: Path, ask: Any) -> None:
    name = "stack_making_" + 32 * "0"
    sql(root, f'CREATE DATABASE "{name}" ALLOW_CONNECTIONS false CONNECTION LIMIT {MARK}', dbname="template1")
    report = ask(root)
    assert report["unfinished copies"]["state"] == "warning"
    assert f"no longer wanted: {name} (" in report["unfinished copies"]["message"]
    assert ask(root, fix=True)["unfinished copies"]["fixed"]
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        sql(root, dbname=name)


def test_files_that_a_killed_server_left(root: Path, ask: Any) -> None:
    assert ask(root)["lost files"]["state"] == "ok"
    lost = root / "data" / "embedded" / "base" / "4000000"
    lost.mkdir()
    (lost / "1").write_bytes(bytes(3_000_000))
    try:
        found = ask(root)["lost files"]
        assert found["state"] == "warning"
        assert found["message"].startswith("3.0 MB in the cluster belong to no database")
    finally:
        shutil.rmtree(lost)


def test_little_shared_memory(root: Path, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.engines.embedded.checks.SHARED_MEMORY", 1 << 60)
    assert ask(root)["shared memory"]["state"] == "warning"


def test_a_server_that_is_down_is_no_failure(down: Path, ask: Any) -> None:
    report = ask(down)
    assert report.code == 0
    assert {report[name]["state"] for name in ("services", "log in", "clock", "indexes")} == {"skipped"}


# -- an older minor release --------------------------------------------------------------------------------------


def test_a_server_of_an_older_minor_release(root: Path, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "NEWEST", "17.100")
    monkeypatch.setattr(releases, "SEEN", "2033-02-10")
    report = ask(root)
    assert report.code == 0
    assert report["minor version"]["state"] == "warning"
    runs = embedded(root).release()[0]
    assert report["minor version"]["message"] == f"This is PostgreSQL {runs}, and on 2033-02-10 the newest was 17.100."
    assert "`invoke restart`" in report["minor version"]["cure"]
    monkeypatch.setattr(releases, "NEWEST", runs)
    assert report["minor version"] != ask(root)["minor version"]
    assert ask(root)["minor version"]["message"] == f"PostgreSQL {runs}"


def test_the_programs_are_told_of_while_nothing_runs(down: Path, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "NEWEST", "17.100")
    there = Path(settings.load(down, {}).bin_dir)
    assert f"Upgrade what is in {there}" in ask(down)["minor version"]["cure"]
    wheel = down / programs.WHEEL
    wheel.parent.parent.mkdir(parents=True)
    wheel.parent.symlink_to(there.parent)
    write(down, POSTGRES_BIN_DIR="")
    monkeypatch.setattr(programs, "_system", lambda _: iter(()))
    assert "Install the system's PostgreSQL 17" in ask(down)["minor version"]["cure"]


@pytest.mark.parametrize(("told", "state"), [("17.2", "warning"), ("17.999", "ok"), ("16.1", "ok"), ("", "skipped")])
def test_an_image_tells_its_minor_release(docker: Any, ask: Any, told: str, state: str) -> None:
    """While nothing runs; the image has the variables of the published one."""
    port = {"target": 5432, "published": str(own_port()), "host_ip": "127.0.0.1"}
    variables = {"POSTGRES_USER": "u", "POSTGRES_PASSWORD": "p", "POSTGRES_DB": "d"}
    config = json.dumps({"services": {"postgres": {"image": "x", "ports": [port], "environment": variables}}})
    answers = f"""version*) echo 26.1.5;; 'compose version'*) echo 2.26.1;; compose*config*) echo '{config}';;
        'image inspect --format'*) echo '["PG_MAJOR=17","PG_VERSION={told}-1.pgdg13+1"]';;"""
    found = ask(docker(answers))["minor version"]
    assert found["state"] == state
    assert told in found["message"]
    assert ("POSTGRES_IMAGE=postgres:17-trixie" in found["cure"]) == (state == "warning")


# -- somebody else's server -----------------------------------------------------------------------------------


def test_somebody_elses_server(root: Path, tmp_path: Path, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = embedded(root).endpoint().url(masked=False)
    write(tmp_path, STACK_ENGINE="external", DATABASE_URL=url, POSTGRES_BIN_DIR=server_programs(settings.ROOT))
    report = ask(tmp_path)
    assert report.code == 0
    assert report["log in"]["state"] == "ok"
    assert report["minor version"]["message"].startswith(("PostgreSQL 17.", "This is PostgreSQL 17."))
    assert not {"ports", "directories", "images", "leftovers"} & set(report.findings)
    write(tmp_path, DATABASE_URL=url.replace(":postgres@", ":hunter2@"))
    report = ask(tmp_path, fix=True)
    assert report.code == 1
    assert "DATABASE_URL" in report["log in"]["cure"]
    assert "hunter2" not in report.text


def test_no_secret_is_in_what_python_shows_of_an_object(root: Path) -> None:
    write(root, POSTGRES_PASSWORD="hunter2", DATABASE_URL="postgresql://u:hunter2@h/d")
    chosen = choose.choose(root)
    assert "hunter2" not in repr(settings.load(root)) + repr(chosen.endpoint())
