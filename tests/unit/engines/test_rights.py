"""A server that root starts has none of root's rights; tried for real, so only root can try it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from stack.engines.embedded import rights
from stack.engines.embedded.engine import Embedded
from stack.ground import settings
from stack.ground.errors import Refused, StackError
from stack.ground.run import environment
from stack.verbs import damage, wait, wipe
from stack.verbs import up as up_room
from tests.ports import own_port
from tests.unit.conftest import embedded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a server as another user"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc"),
]
FORMER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
"""How this stack started its server as root once: in disguise."""


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that everybody may enter, unlike those of pytest."""
    made = Path(tempfile.mkdtemp(prefix="stack-rights-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(params=["open", "closed", "closed twice", "a data directory of 0700"])
def place(request: pytest.FixtureRequest, outside: Path) -> Path:
    """Where a checkout may lie: in a directory that anybody may enter, or in one that only root may."""
    steps = {"closed": [0o700], "closed twice": [0o700, 0o755, 0o700]}.get(str(request.param), [0o755])
    made = outside
    for number, mode in enumerate(steps):
        made = made / f"it's {number}"
        made.mkdir()
        made.chmod(mode)
    return made


@pytest.fixture
def engine(programs: Path, place: Path, request: pytest.FixtureRequest) -> Iterator[Embedded]:
    with embedded(programs, place) as made:
        if "0700" in request.node.name:
            (place / "data").chmod(0o700)
        yield made


def up(engine: Embedded) -> None:
    up_room.bring_up(engine, 30, pull=False, wait=True)


def eventually(happened: Callable[[], object], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def sql(engine: Embedded, query: str) -> list[object]:
    with psycopg.connect(engine.endpoint().url(masked=False), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return [row[0] for row in cursor] if cursor.description else []


def has_no_rights(pid: int) -> None:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    told = {name: text.split() for name, text in (line.split(":", 1) for line in lines)}
    assert "0" not in told["Uid"]
    assert "0" not in told["Gid"]
    assert told["Groups"] == []
    assert int(told["CapEff"][0], 16) == int(told["CapPrm"][0], 16) == 0
    assert told["NoNewPrivs"] == ["1"]
    # No door into another user's rooms was left open: what it holds is its own, or nobody's.
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            where = str(link.readlink())
            assert where.startswith(("/dev/", "/proc/")) or link.stat().st_uid or not where.startswith("/"), where


def family(engine: Embedded) -> list[int]:
    pid = engine.postmaster.running().pid
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def test_who_logs_in_can_do_nothing_that_only_root_may(engine: Embedded, outside: Path) -> None:
    secret, room = outside / "secret", outside / "room"
    secret.write_text("root's")
    secret.chmod(0o600)
    room.mkdir(mode=0o755)
    up(engine)
    has_no_rights(engine.postmaster.running().pid)
    for pid in family(engine):
        with suppress(FileNotFoundError):  # it has ended meanwhile
            has_no_rights(pid)
    with pytest.raises(psycopg.Error, match="Permission denied"):
        sql(engine, f"SELECT pg_read_file('{secret}')")
    with pytest.raises(psycopg.Error, match="program"):
        sql(engine, f"COPY (SELECT 1) TO PROGRAM 'cat > \"{room}/written\"'")
    with pytest.raises(psycopg.Error):
        sql(engine, "COPY (SELECT 1) TO PROGRAM 'cat > /etc/cron.d/stack-test'")
    assert not list(room.iterdir())
    assert not Path("/etc/cron.d/stack-test").exists()
    sql(engine, "CREATE TEMP TABLE who (id text); COPY who FROM PROGRAM 'id -u; id -G'")


def test_what_is_behind_a_closed_door_stays_there(programs: Path, outside: Path) -> None:
    (outside / "closed").mkdir(mode=0o700)
    root = outside / "closed" / "checkout"
    root.mkdir()
    for place in (root.parent / "neighbour", root / ".env"):
        place.write_text("# readable by all who come here")
        place.chmod(0o644)
    with embedded(programs, root) as engine:
        up(engine)
        for hidden in (root.parent / "neighbour", root / ".env"):
            with pytest.raises(psycopg.Error, match="No such file"):
                sql(engine, f"SELECT pg_read_file('{hidden}')")
        assert sql(engine, "SHOW data_directory") == [str(engine.home.directory)]
        assert (outside / "closed").stat().st_mode & 0o777 == 0o700


def test_the_whole_life_goes_on_there(engine: Embedded) -> None:
    up(engine)
    sql(engine, "CREATE TABLE kept AS SELECT 42 AS n")
    engine.restart()
    wait.wait_usable(engine, 20)
    assert sql(engine, "SELECT n FROM kept") == [42]
    assert (
        subprocess.run(engine.client("psql", "-XAtc", "SELECT 1").argv, check=True, capture_output=True).stdout
        == b"1\n"
    )
    engine.stop()
    assert engine.services()[0].state == "not started"
    assert "as the account" in next(engine.checks()[0].look()).message
    assert [path.name for path in (engine.root / "data").iterdir()] == ["embedded"]


def test_the_server_does_not_get_what_root_has_in_its_environment(
    engine: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_SECRET", "hunter2")
    up(engine)
    with psycopg.connect(engine.endpoint().url(masked=False)) as connection:
        connection.execute("CREATE TEMP TABLE seen (line text)")
        connection.execute("COPY seen FROM PROGRAM 'env'")
        seen = " ".join(row[0] for row in connection.execute("SELECT line FROM seen"))
    assert "PATH=" in seen
    assert "hunter2" not in seen


def test_a_link_in_place_of_the_log_writes_nothing_of_roots(engine: Embedded, outside: Path) -> None:
    up(engine)
    engine.stop()
    target = outside / "root's"
    target.write_text("untouched")
    target.chmod(0o600)
    engine.home.log.unlink()
    engine.home.log.symlink_to(target)
    with pytest.raises(StackError, match=r"server\.log"):
        up(engine)
    assert target.read_text() == "untouched"


@pytest.mark.parametrize("what", ["directory", "pipe", "link"])
def test_what_lies_in_place_of_the_log_is_not_read_and_the_cure_works(programs: Path, outside: Path, what: str) -> None:
    secret = outside / "root's"
    secret.write_text("secret")
    with embedded(programs, outside) as engine:
        up(engine)
        engine.home.log.unlink()
        if what == "directory":
            engine.home.log.mkdir()
        elif what == "pipe":
            os.mkfifo(engine.home.log)
        else:
            engine.home.log.symlink_to(secret)
        assert engine.last_words("postgres") == ""
        engine.stop()
        if what != "pipe":
            with pytest.raises(StackError, match=r"server\.log") as refused:
                up(engine)
            subprocess.run(["sh", "-c", refused.value.cure.split("`")[1]], check=True)
            up(engine)


@pytest.mark.parametrize("what", ["link", "name", "pipe"])
def test_what_the_server_puts_in_place_of_a_text_gets_nothing_of_roots(
    programs: Path, outside: Path, what: str
) -> None:
    target = outside / "root's"
    target.write_text("untouched")
    with embedded(programs, outside) as engine:
        engine.home.directory.mkdir()
        os.chown(engine.home.directory, 65534, 65534)
        text = engine.home.directory / "pg_hba.conf"
        if what == "pipe":
            os.mkfifo(text)
        else:
            (text.symlink_to if what == "link" else text.hardlink_to)(target)
        with pytest.raises(StackError, match=r"pg_hba\.conf could not be written"):
            engine.data.append("pg_hba.conf", "host all all all scram-sha-256")
        text.unlink()
    assert (target.read_text(), target.stat().st_uid) == ("untouched", 0)


def test_a_lost_version_is_no_way_to_what_only_root_may_read(programs: Path, outside: Path) -> None:
    secret = outside / "root's"
    secret.write_text("secret")
    with embedded(programs, outside) as engine:
        (engine.home.directory / "base" / "1").mkdir(parents=True)
        (engine.home.directory / "base" / "1" / "PG_VERSION").symlink_to(secret)
        assert "PG_VERSION" not in damage.lost_text(engine)
        damage.write_lost_text(engine)
        assert not (engine.home.directory / "PG_VERSION").exists()
        secret.write_text("17\n")
        assert "PG_VERSION" not in damage.lost_text(engine)
        (engine.home.directory / "base" / "1" / "PG_VERSION").unlink()
        (engine.home.directory / "base" / "1" / "PG_VERSION").write_text("17\n")
        assert damage.lost_text(engine)["PG_VERSION"] == "17"


def test_a_server_in_a_container_is_neither_joined_nor_ended(programs: Path, outside: Path) -> None:
    with embedded(programs, outside) as engine:
        up(engine)
        engine.stop()
        way = engine.home.way()
        apart = ["unshare", "--pid", "--fork", *way.prefix, *engine.home.server_argv()]
        with subprocess.Popen(apart, env=environment(way.env), stderr=subprocess.DEVNULL, **way.rights) as container:
            eventually(lambda: "ready" in engine.data.read("postmaster.pid").get("postmaster.pid", ""))
            with pytest.raises(Refused, match=r"is in use by the process .* would destroy it") as refused:
                engine.start()
            with pytest.raises(Refused, match="is in use by the process"):
                wipe.losses(engine)
            engine.stop()
            assert container.poll() is None
            subprocess.run(["sh", "-c", refused.value.cure.split("`")[1]], check=True)
        up(engine)


def former_data(engine: Embedded) -> None:
    """Make a cluster as root, as this stack once did."""
    password = engine.root / "password"
    password.write_text(f"{engine.settings.password}\n")
    postgres = [*FORMER, str(engine.home.programs / "postgres")]
    subprocess.run([*FORMER, *engine.home.initdb(engine.home.directory, password)], check=True, capture_output=True)
    made = f'CREATE DATABASE "{engine.settings.database}";\n\n'
    single = [*postgres, "--single", "-j", "-D", str(engine.home.directory), "postgres"]
    subprocess.run(single, check=True, capture_output=True, input=made.encode())
    assert engine.home.directory.stat().st_uid == 0


@contextmanager
def former_server(engine: Embedded) -> Iterator[None]:
    with engine.home.log.open("ab") as log:
        child = subprocess.Popen([*FORMER, *engine.home.server_argv()], stdout=log, stderr=log)
    eventually(lambda: engine.services()[0].ready)
    yield
    child.wait(20)


def test_data_that_was_made_with_roots_rights_is_taken_over_with_its_rows(engine: Embedded) -> None:
    former_data(engine)
    with former_server(engine):
        sql(engine, "CREATE TABLE kept AS SELECT 42 AS n")
        assert "\t0\t" in Path(f"/proc/{engine.postmaster.running().pid}/status").read_text()
        up(engine)  # while it runs
        assert sql(engine, "SELECT n FROM kept") == [42]
        has_no_rights(engine.postmaster.running().pid)
    owners = {path.lstat().st_uid for path in (engine.home.directory, *engine.home.directory.rglob("*"))}
    assert owners == {engine.home.uid}


def test_a_take_over_that_was_interrupted_is_finished(engine: Embedded) -> None:
    former_data(engine)
    for path in list(engine.home.directory.rglob("*"))[::2]:
        os.chown(path, engine.home.uid, 65534)
    up(engine)
    assert sql(engine, "SELECT 1") == [1]


def test_a_tablespace_of_roots_is_named_and_nothing_is_changed(programs: Path, outside: Path) -> None:
    (outside / "space").mkdir()
    with embedded(programs, outside) as engine:
        former_data(engine)
        with former_server(engine):
            sql(engine, f"CREATE TABLESPACE far LOCATION '{outside / 'space'}'")
            sql(engine, "CREATE TABLE kept TABLESPACE far AS SELECT 42 AS n")
            engine.stop()
        with pytest.raises(StackError, match="chown -R") as refused:
            up(engine)
        assert engine.home.directory.stat().st_uid == 0
        subprocess.run(["sh", "-c", refused.value.cure.split("`")[1]], check=True)
        up(engine)
        assert sql(engine, "SELECT n FROM kept") == [42]


# -- the commands, by root and by the owner of the checkout -----------------------------------------------


@pytest.fixture
def copy(programs: Path, outside: Path) -> Iterator[Path]:
    """A checkout as a user has it."""
    made = outside / "checkout"
    shutil.copytree(settings.ROOT / "stack", made / "stack", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(settings.ROOT / "tasks.py", made)
    (made / "data").mkdir()
    lines = {"STACK_ENGINE": "embedded", "POSTGRES_PORT": own_port(), "POSTGRES_BIN_DIR": f"'{programs}'"}
    (made / ".env").write_text("".join(f"{name}={text}\n" for name, text in lines.items()))
    yield made
    invoke(made, "down")


# An interpreter that others than root may run; root's own may lie in its home.
SAME = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
INVOKE = (SAME if Path(SAME).exists() else sys.executable, "-m", "invoke")


def variables() -> dict[str, str]:
    packages = ":".join(path for path in sys.path if "site-packages" in path)
    return environment({**dict.fromkeys(settings.DEFAULTS, ""), "HOME": "/nonexistent", "PYTHONPATH": packages})


def invoke(copy: Path, *args: str, through: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    argv = [*through, *INVOKE, *args]
    result = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=copy, env=variables(), timeout=60)
    assert "Traceback" not in result.stderr, result.stderr
    return result


def succeed(copy: Path, *args: str, through: tuple[str, ...] = ()) -> str:
    result = invoke(copy, *args, through=through)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


OWNER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
DOCKERS = "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod"
"""What root may in a container that was not asked for more: neither mount, nor look into others' processes."""
WITHOUT_MOUNTS = ("setpriv", f"--bounding-set=-all,{','.join(f'+{name}' for name in DOCKERS.split(','))}")
WITHOUT_USERS = ("setpriv", "--bounding-set=-setuid,-setgid", "--inh-caps=-setuid,-setgid")


def give_to_owner(copy: Path) -> None:
    subprocess.run(["chown", "-R", "65534:65534", str(copy)], check=True)


@pytest.mark.parametrize("first", ["root", "owner"])
def test_root_and_the_owner_of_the_checkout_take_turns(copy: Path, first: str) -> None:
    give_to_owner(copy)
    turns: list[tuple[str, ...]] = [(), OWNER]
    one, other = turns if first == "root" else turns[::-1]
    succeed(copy, "up", through=one)
    succeed(copy, "psql", "-c", "CREATE TABLE kept AS SELECT 42 AS n", through=other)
    succeed(copy, "restart", through=other)
    succeed(copy, "down", through=one)
    succeed(copy, "up", through=other)
    assert "42" in succeed(copy, "psql", "-c", "SELECT n FROM kept", through=one)
    assert (copy / "data" / "embedded").stat().st_uid == 65534
    succeed(copy, "reset-data", "--yes", through=other)
    succeed(copy, "up", through=one)


def test_in_a_container_that_may_not_mount_an_open_checkout_works(copy: Path) -> None:
    succeed(copy, "up", through=WITHOUT_MOUNTS)
    assert "42" in succeed(copy, "psql", "-c", "SELECT 40 + 2", through=WITHOUT_MOUNTS)
    assert invoke(copy, "status", through=WITHOUT_MOUNTS).returncode == 0
    succeed(copy, "restart", through=WITHOUT_MOUNTS)
    shutil.rmtree(copy / "data" / "embedded")
    assert "`invoke down`" in invoke(copy, "up", through=WITHOUT_MOUNTS).stderr
    assert "deleted beneath it" in invoke(copy, "down", through=WITHOUT_MOUNTS).stderr
    succeed(copy, "up", through=WITHOUT_MOUNTS)
    succeed(copy, "down", through=WITHOUT_MOUNTS)


def test_where_nothing_can_be_mounted_a_closed_checkout_is_refused_and_the_cure_works(
    copy: Path, outside: Path
) -> None:
    closed = outside / "closed"
    closed.mkdir(mode=0o700)
    copy.rename(closed / "checkout")
    refused = invoke(closed / "checkout", "up", through=WITHOUT_MOUNTS)
    assert refused.returncode == 1
    assert f"may not enter {closed}" in refused.stderr
    assert "Move the checkout to a directory that others may enter" in refused.stderr
    assert not (closed / "checkout" / "data" / "embedded").exists()
    (closed / "checkout").rename(copy)
    succeed(copy, "up", through=WITHOUT_MOUNTS)


def test_a_reset_that_could_not_start_again_deletes_nothing(copy: Path, outside: Path) -> None:
    succeed(copy, "up", through=WITHOUT_MOUNTS)
    succeed(copy, "psql", "-c", "CREATE TABLE kept AS SELECT 42 AS n", through=WITHOUT_MOUNTS)
    succeed(copy, "down", through=WITHOUT_MOUNTS)
    closed = outside / "closed"
    closed.mkdir(mode=0o700)
    copy.rename(closed / "checkout")
    refused = invoke(closed / "checkout", "reset", "--yes", through=WITHOUT_MOUNTS)
    assert refused.returncode == 1
    assert f"may not enter {closed}" in refused.stderr
    (closed / "checkout").rename(copy)
    succeed(copy, "up", through=WITHOUT_MOUNTS)
    assert "42" in succeed(copy, "psql", "-c", "SELECT n FROM kept", through=WITHOUT_MOUNTS)
    succeed(copy, "down", through=WITHOUT_MOUNTS)


def test_where_root_may_become_nobody_it_says_so(copy: Path) -> None:
    refused = invoke(copy, "up", through=WITHOUT_USERS)
    assert refused.returncode == 1
    assert "Type the command as an ordinary user" in refused.stderr
    doctor = invoke(copy, "doctor", through=WITHOUT_USERS)
    assert doctor.returncode == 1
    assert "Type the command as an ordinary user" in doctor.stdout + doctor.stderr


def test_programs_that_others_may_not_read_are_named_and_the_cure_works(copy: Path, programs: Path) -> None:
    private = copy / "17"
    shutil.copytree(programs.parent, private, symlinks=True)
    (private / "bin").chmod(0o700)
    (private / "share").chmod(0o700)
    with (copy / ".env").open("a") as env:
        env.write(f"POSTGRES_BIN_DIR='{private / 'bin'}'\n")
    refused = invoke(copy, "up")
    assert refused.returncode == 1
    cure = next(words for words in refused.stderr.replace("\n", " ").split("`") if words.startswith("chmod"))
    subprocess.run(["sh", "-c", cure], check=True)
    succeed(copy, "up")


def test_without_an_account_of_postgres_it_is_nobody(copy: Path, outside: Path) -> None:
    lines = Path("/etc/passwd").read_text().splitlines(keepends=True)
    (outside / "passwd").write_text("".join(line for line in lines if not line.startswith("postgres:")))
    view = ("unshare", "--mount", "sh", "-c", f'mount --bind {outside}/passwd /etc/passwd; exec "$@"', "sh")
    succeed(copy, "up", through=view)
    assert (copy / "data" / "embedded").stat().st_uid == 65534
    succeed(copy, "down", through=view)


def test_an_account_in_roots_group_does_not_bring_the_group(monkeypatch: pytest.MonkeyPatch, outside: Path) -> None:
    line = "worker:x:4711:0:in root's group:/:/bin/sh"
    (outside / "passwd").write_text(f"root:x:0:0:root:/root:/bin/sh\n{line}\n")
    (outside / "its").mkdir()
    os.chown(outside / "its", 4711, 0)
    its = str(outside / "its")
    code = f"from pathlib import Path; from stack.engines.embedded import rights; print(*rights.account(Path({its!r})))"
    view = ["unshare", "--mount", "sh", "-c", f'mount --bind {outside}/passwd /etc/passwd; exec "$@"', "sh"]
    answer = subprocess.run(
        [*view, sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=settings.ROOT
    )
    assert answer.stdout.split() == ["worker", "4711", "4711"]
    assert rights.account(outside / "its") != rights.Account("worker", 4711, 0)  # no such account here


def test_where_root_is_an_ordinary_user_in_disguise_it_still_works(copy: Path) -> None:
    """As with `unshare --map-root-user` or a rootless container of one user id: there is nobody else to become."""
    give_to_owner(copy)
    script = '"$@" up && "$@" psql -c "SELECT 40 + 2" && "$@" restart && "$@" down'
    alone = (*OWNER, "unshare", "--user", "--map-root-user", "sh", "-ec", script, "sh")
    result = subprocess.run([*alone, *INVOKE], check=False, capture_output=True, text=True, cwd=copy, env=variables())
    assert result.returncode == 0, result.stderr
    assert "42" in result.stdout
    assert (copy / "data" / "embedded").stat().st_uid == 65534
