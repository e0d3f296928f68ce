"""Files of a cluster that are gone, beneath tables: nobody is told to delete them, and each cure is typed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.engines.docker.engine import Docker
from stack.ground import settings
from stack.server import pgdata
from tests.integration.checkout import configure, containers, docker, fail, run, sql, succeed, unique, value
from tests.integration.conftest import copy_for

ROWS = 100_000


def leaf(copy: Path) -> Path:
    return copy / "data" / {"docker": "pg"}.get(value(copy, "STACK_ENGINE"), value(copy, "STACK_ENGINE"))


def fill(copy: Path) -> None:
    sql(copy, f"CREATE TABLE kept AS SELECT n, md5(n::text) FROM generate_series(1, {ROWS}) AS n")
    sql(copy, "CHECKPOINT")


@pytest.fixture(scope="module", params=["docker", "embedded"])
def filled(request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack that is down, with 100,000 rows and a dump of them."""
    with copy_for(request.param, template, tmp_path_factory.mktemp("filled") / unique()) as made:
        succeed(made, "up")
        fill(made)
        succeed(made, "dump", "my.dump")
        succeed(made, "down")
        shutil.copytree(leaf(made), made / "whole")
        yield made
        run(made, "down")


@pytest.fixture
def broken(filled: Path) -> Iterator[Path]:
    """The same, to be broken; it is whole again afterwards."""
    yield filled
    for server in containers(filled).values() if value(filled, "STACK_ENGINE") == "docker" else ():
        docker("kill", server) if docker("inspect", "--format", "{{.State.Running}}", server) == "true" else None
    run(filled, "down")
    for path in (filled / "data").glob("[a-z]*"):
        shutil.rmtree(path)
    subprocess.run(["cp", "-a", str(filled / "whole"), str(leaf(filled))], check=True)


def what(copy: Path) -> str:
    """What `up` and doctor say, of whom neither may advise to delete."""
    up, doctor = run(copy, "up", "--timeout", "20"), run(copy, "doctor")
    said = up.stderr + doctor.stdout
    assert up.returncode == 1, said
    down = "nothing runs; type `invoke up`" in doctor.stdout  # then doctor looks at names alone, and `up` knows more
    assert doctor.returncode == 1 or down, said
    for words in ("reset-data", "reset`", "half-made"):
        assert words not in said, said
    for each in (up.stderr, *([doctor.stdout] if doctor.returncode else [])):
        assert re.search(r"holds \d+ MB, with \d+ files? \(\d.* MB\) that may be tables of yours", each), each
    return said


def type_cures(copy: Path, said: str) -> None:
    """Type what a message has between backticks, in its order, until the load of the dump."""
    cures = re.findall(r"`(invoke down|mv [^`]+|invoke up|invoke load FILE)`", said.partition("To keep all")[2])
    assert [cure.split()[0] for cure in cures[:4]] == ["invoke", "mv", "invoke", "invoke"]
    for cure in cures[:4]:
        if cure.startswith("mv"):
            subprocess.run(shlex.split(cure), check=True)
        else:
            succeed(copy, *cure.replace("FILE", str(copy / "my.dump")).split()[1:])
    assert sql(copy, "SELECT count(*) FROM kept") == [ROWS]
    kept = leaf(copy).with_name(f"{leaf(copy).name}-kept")
    assert (kept / "base").is_dir(), "nothing was kept"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["global/pg_control", "global/pg_filenode.map", "global/1262", "pg_wal/*", "pg_xact",
                                  "base/NUMBER"])  # fmt: skip
def test_what_cannot_be_made_anew_is_kept_and_the_dump_brings_it_back(broken: Path, name: str) -> None:
    if "NUMBER" in name:
        name = f"base/{max(int(path.name) for path in (leaf(broken) / 'base').glob('[0-9]*'))}"
        (leaf(broken) / "base/16390").mkdir(exist_ok=True)
        (leaf(broken) / "base/16390/16400").write_bytes(bytes(3_000_000))  # another database has tables
    for path in leaf(broken).glob(name):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    type_cures(broken, what(broken))


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [("PG_VERSION",), ("pg_hba.conf",), ("postgresql.conf",), ("PG_VERSION", "pg_hba.conf", "postgresql.conf")],
    ids=str,
)
def test_text_that_can_be_made_anew_is_made_by_doctor(broken: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (leaf(broken) / name).unlink()
    said = what(broken)
    assert f"{sorted(names)[0]}" in said
    assert "nothing of that is lost" in said
    assert "`invoke doctor --fix`" in said
    run(broken, "doctor", "--fix")
    succeed(broken, "up")
    assert sql(broken, "SELECT count(*) FROM kept") == [ROWS]
    succeed(broken, "doctor")


@pytest.mark.slow
def test_a_file_that_is_lost_while_it_runs(broken: Path) -> None:
    succeed(broken, "up")
    (leaf(broken) / "global/pg_filenode.map").unlink()
    said = what(broken)
    assert "global/pg_filenode.map" in said
    assert run(broken, "status").returncode == 1
    type_cures(broken, said)


@pytest.mark.slow
def test_nobody_is_let_in_and_doctor_mends_it(broken: Path) -> None:
    rules = leaf(broken) / "pg_hba.conf"
    lines = [line for line in rules.read_text().splitlines() if not line.startswith("host all all all")]
    rules.write_text("\n".join([*lines, ""]))
    if value(broken, "STACK_ENGINE") == "embedded":  # its own lines let this machine in
        succeed(broken, "up")
        return
    said = what(broken)
    assert "lets nobody in" in said
    succeed(broken, "doctor", "--fix")
    succeed(broken, "up")
    assert sql(broken, "SELECT count(*) FROM kept") == [ROWS]


@pytest.mark.slow
def test_git_clean_beneath_a_running_server(broken: Path) -> None:
    succeed(broken, "up")
    shutil.rmtree(leaf(broken))
    up, doctor = run(broken, "up", "--timeout", "20"), run(broken, "doctor")
    assert (up.returncode, doctor.returncode) == (1, 1)
    for said in (up.stderr, doctor.stdout):
        assert "deleted beneath it" in said
        assert "`invoke down`" in said
        assert "reset-data" not in said
        assert "half-made" not in said
    if value(broken, "STACK_ENGINE") == "docker":
        assert "lost, unless you have a dump or a copy" in up.stderr
    succeed(broken, "down")  # the cures, typed
    succeed(broken, "up")
    succeed(broken, "load", "my.dump")
    assert sql(broken, "SELECT count(*) FROM kept") == [ROWS]


@pytest.mark.slow
def test_a_server_whose_lock_file_was_deleted_is_found_and_stopped(broken: Path) -> None:
    if value(broken, "STACK_ENGINE") == "docker":
        pytest.skip("there Docker knows what runs")
    succeed(broken, "up")
    (leaf(broken) / "postmaster.pid").unlink()
    fail(broken, 1, "up", saying=("still runs", "postmaster.pid does not tell of it", "`invoke down`"))
    succeed(broken, "down")
    succeed(broken, "up")
    assert sql(broken, "SELECT count(*) FROM kept") == [ROWS]


def test_what_a_container_sees_of_it_is_judged_alike(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if value(broken, "STACK_ENGINE") != "docker":
        pytest.skip("the user may look there")

    def may_not(_path: Path) -> pgdata.Contents:
        raise PermissionError

    seen = pgdata.contents(leaf(broken))
    monkeypatch.setattr(pgdata, "contents", may_not)
    through = Docker(settings.load(broken, {}), broken).data.contents()
    assert through
    assert (through.files, through.files_size, through.complete) == (seen.files, seen.files_size, True)
    assert abs(through.size - seen.size) < 1_000_000


@pytest.fixture
def own_network() -> Iterator[tuple[str, ...]]:
    """What puts a program into a network of its own, in which this machine has the address 192.0.2.1 and no other."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("only root can make a network")
    name = unique()
    inside = ("ip", "netns", "exec", name)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (("link", "set", "lo", "up"), ("addr", "add", "192.0.2.1/32", "dev", "lo")):
            subprocess.run([*inside, "ip", *command], check=True)
        yield inside
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.mark.parametrize("bound", ["192.0.2.1", "0.0.0.0"])
def test_an_address_of_the_network_is_let_in(template: Path, tmp_path: Path, own_network: Any, bound: str) -> None:
    with copy_for("embedded", template, tmp_path / unique()) as copy:
        succeed(copy, "up")
        fill(copy)
        succeed(copy, "down")
        rules = leaf(copy) / "pg_hba.conf"
        before = [line for line in rules.read_text().splitlines() if not line.startswith("host all all all")]
        rules.write_text("\n".join([*before, "# mine", ""]))  # as of a cluster from before
        configure(copy, BIND_ADDRESS=bound)
        try:
            for _ in range(2):
                succeed(copy, "up", through=own_network)
            client = "import psycopg; print(psycopg.connect(%r).execute('SELECT count(*) FROM kept').fetchall())"
            url = f"postgresql://postgres:postgres@192.0.2.1:{value(copy, 'POSTGRES_PORT')}/convex_poc"
            asked = subprocess.run([*own_network, sys.executable, "-c", client % url], capture_output=True, check=True)
            assert asked.stdout == b"[(100000,)]\n"
            assert run(copy, "doctor", through=own_network).returncode == 0
            assert rules.read_text().splitlines() == [*before, "# mine", "host all all all scram-sha-256"]
        finally:
            run(copy, "down", through=own_network)
