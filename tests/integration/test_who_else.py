"""Somebody else at work on the data: under any name, in any container or none; never a second server beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.checkout import (
    ALONE,
    configure,
    containers,
    docker,
    environment,
    fail,
    foreign,
    project,
    run,
    sql,
    succeed,
    tables,
    unique,
    value,
)
from tests.integration.conftest import Make, copy_for
from tests.integration.test_faults_docker import Daemon, daemon  # noqa: F401 - a fixture

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and sees everybody's processes")


def typed(said: str, number: int = 0) -> str:
    """Return what a message says to type."""
    return str(re.findall(r"`([^`]+)`", said.rpartition("Type ")[2])[number])


def shell(command: str, **env: str) -> None:
    """Type a command."""
    subprocess.run(["sh", "-c", command], check=True, capture_output=True, env=environment(**env), timeout=120)


@contextmanager
def bound(source: Path, place: Path) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", str(source), str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


# -- links and mounts --------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.parametrize("where", ["data", "data/pg", "data/convex"])
def test_a_link_to_another_checkouts_data_is_not_started_on(started: Path, make: Make, where: str) -> None:
    sql(started, "CREATE TABLE kept ()")
    other = make(**ALONE)
    if where == "data":
        shutil.rmtree(other / "data")
    (other / where).symlink_to(started / where)
    said = fail(other, 2, "up", saying=(f"{other}/{where} is a symbolic link", "Nothing was started"))
    assert containers(other) == {}
    shell(typed(said))
    succeed(other, "up")
    assert tables(other) == []
    assert tables(started) == ["kept"]


def test_the_embedded_engine_takes_no_other_checkouts_server_for_its_own(template: Path, tmp_path: Path) -> None:
    with (
        copy_for("embedded", template, tmp_path / "one") as one,
        copy_for("embedded", template, tmp_path / "two") as two,
    ):
        try:
            succeed(one, "up")
            sql(one, "CREATE TABLE kept ()")
            pid = (one / "data/embedded/postmaster.pid").read_text().split()[0]
            shutil.rmtree(two / "data")
            (two / "data").symlink_to(one / "data")
            (two / "seed/010.sql").write_text("CREATE TABLE stray ()")
            for command in ("up", "down", "restart", "seed", "snapshot", "status"):
                fail(two, 2, command, saying=(str(one),))
            fail(two, 2, "reset-data", "--yes", saying=("symbolic link",))
            fail(two, 2, "psql", "-c", "CREATE TABLE stray ()", saying=("another checkout", str(one)))
            assert (one / "data/embedded/postmaster.pid").read_text().split()[0] == pid
            assert tables(one) == ["kept"]
            said = fail(two, 2, "up")
            shell(typed(said) if "Type `rm" in said else f"rm {two}/data")
            succeed(two, "up")
            assert tables(two) == []
        finally:
            run(two, "down")
            run(one, "down")


@as_root
def test_a_mount_of_another_checkouts_data_is_seen_by_what_it_is(make: Make) -> None:
    one, two = make(), make()
    succeed(one, "up")
    sql(one, "CREATE TABLE kept ()")
    with bound(one / "data", two / "data"):
        said = fail(two, 2, "up", saying=(f"{two}/data/", "is in use by", f"{project(one)}-postgres"))
        fail(two, 2, "reset-data", "--yes", saying=("mount point",))
        assert containers(two) == {}
        assert tables(one) == ["kept"]
        shell(typed(said))
        succeed(two, "up")  # nobody is at work on it any more
        assert tables(two) == ["kept"]
        succeed(two, "down")


@as_root
def test_a_mounted_server_of_the_embedded_engine_is_not_stopped(template: Path, tmp_path: Path) -> None:
    with (
        copy_for("embedded", template, tmp_path / "one") as one,
        copy_for("embedded", template, tmp_path / "two") as two,
    ):
        succeed(one, "up")
        try:
            with bound(one / "data", two / "data"):
                for command in (("up",), ("down",), ("restart",), ("status",), ("init", "--isolated")):
                    fail(two, 2, *command, saying=("another checkout", str(one)))
            assert tables(one) == []
        finally:
            run(one, "down")


# -- where Docker prints another path -------------------------------------------------------------------------

# The words of other machines. Docker Desktop for Mac puts /host_mnt before the path; with WSL2 it prints a hash below
# /run/desktop/mnt/host/wsl/docker-desktop-bind-mounts (docker/for-win#12109); podman's shim prints the paths inside.
ELSEWHERE = {
    "mac": 'return "/host_mnt" + source',
    "wsl2": 'return "/run/desktop/mnt/host/wsl/docker-desktop-bind-mounts/Ubuntu/" + f"{hash(source):064x}"',
    "podman": 'return "/var/lib/postgresql/data"',
}
SHIM = """#!{python}
import re, subprocess, sys
def other(source):
    if not source.startswith("/"): return source
    {how}
argv = ["{docker}", *sys.argv[1:]]
if sys.argv[1] not in ("ps", "inspect"):
    sys.exit(subprocess.run(argv).returncode)
told = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
for line in told.stdout.splitlines() if sys.argv[1] == "ps" else []:
    words = line.split("\\t")
    if len(words) > 5: words[4] = ",".join(map(other, words[4].split(",")))
    print("\\t".join(words))
if sys.argv[1] == "inspect":
    print(re.sub(r'("Source": ?")([^"]*)', lambda found: found[1] + other(found[2]), told.stdout), end="")
sys.exit(told.returncode)
"""


@pytest.fixture(params=sorted(ELSEWHERE))
def shim(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """An environment in which `docker` prints the mounts as another machine's does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    text = SHIM.format(python=sys.executable, docker=shutil.which("docker"), how=ELSEWHERE[request.param])
    (folder / "docker").write_text(text)
    (folder / "docker").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.alone
def test_a_foreign_container_is_found_whatever_its_mounts_are_called(copy: Path, shim: dict[str, str]) -> None:
    (copy / "data/pg").mkdir()
    with foreign("--volume", f"{copy}/data/pg:/var/lib/postgresql/data") as name:
        said = fail(copy, 2, "up", env=shim, saying=(f"{copy}/data/pg", name, "Nothing was started"))
        fail(copy, 2, "reset-data", "--yes", env=shim, saying=(name, f"docker stop {name}"))
        shell(typed(said))
    with foreign("--volume", f"{copy}/seed:/x") as name:
        succeed(copy, "up", env=shim)  # what has another directory is no obstacle


@pytest.mark.alone
def test_another_name_brings_no_second_server_whatever_the_mounts_are_called(
    started: Path, shim: dict[str, str]
) -> None:
    sql(started, "CREATE TABLE kept ()")
    former = project(started)
    fail(started, 2, "init", "--isolated", env=shim, saying=(f"{former}-postgres", "`invoke down`"))
    configure(started, COMPOSE_PROJECT_NAME=unique())
    fail(started, 2, "up", env=shim, saying=(f"{former}-postgres",))
    assert len(docker("ps", "-q", "--filter", f"volume={started}/data/pg").split()) == 1


@pytest.mark.alone
def test_the_snapshots_that_go_are_named_whatever_the_mounts_are_called(started: Path, shim: dict[str, str]) -> None:
    succeed(started, "snapshot", "before-migration", env=shim)
    for state in ("running", "down"):
        fail(started, 2, "reset-data", env=shim, saying=(f"{started}/data/pg", "its snapshots before-migration"))
        if state == "running":
            succeed(started, "down", env=shim)
    succeed(started, "reset-data", "--yes", env=shim)
    assert not list((started / "data").glob("*pg*"))


@pytest.mark.alone
def test_a_running_checkout_that_was_moved_and_renamed_is_found_by_its_inode(make: Make, tmp_path: Path) -> None:
    copy = make("old", **ALONE)
    succeed(copy, "up")
    former = project(copy)
    moved = copy.rename(tmp_path / "new")
    try:
        before = (moved / ".env").read_text()
        configure(moved, COMPOSE_PROJECT_NAME=unique())
        said = fail(moved, 2, "up", saying=(f"{moved}/data/pg", f"{former}-postgres"))
        shell(typed(said))
        succeed(moved, "up")
        succeed(moved, "down")
        (moved / ".env").write_text(before)
    finally:
        moved.rename(copy)


@pytest.mark.alone
def test_a_named_volume_that_is_this_directory_is_found(copy: Path) -> None:
    (copy / "data/pg").mkdir()
    volume = unique()
    docker("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", f"device={copy}/data/pg", volume)
    try:
        with foreign("--volume", f"{volume}:/x") as name:
            fail(copy, 2, "up", saying=(f"{copy}/data/pg", name))
    finally:
        docker("volume", "rm", volume)


@pytest.mark.alone
def test_a_folder_with_a_comma_in_its_name_is_told_apart(make: Make) -> None:
    copy = make("a,b, c", **ALONE)
    (copy / "data/pg").mkdir()
    with foreign("--mount", f'type=bind,"source={copy}/data/pg",target=/x') as name:
        fail(copy, 2, "up", saying=(name,))


@pytest.mark.alone
def test_a_link_elsewhere_that_leads_here_is_followed(copy: Path, tmp_path: Path) -> None:
    (copy / "data/pg/base").mkdir(parents=True)
    (tmp_path / "link").symlink_to(copy / "data")
    with foreign("--volume", f"{tmp_path}/link/pg/base:/x") as name:
        fail(copy, 2, "up", saying=(name,))


# -- this project's own, beside the one that is started ----------------------------------------------------------


@pytest.mark.alone
def test_a_container_of_this_project_that_would_stay_beside_the_server_is_found(copy: Path) -> None:
    image = value(copy, "POSTGRES_IMAGE")
    (copy / "docker-compose.mine.yml").write_text(
        f"services: {{postgres: !reset null, db: {{image: '{image}', entrypoint: [sleep, '600'], init: true,"
        " volumes: ['./data/pg:/var/lib/postgresql/data']}}"
    )
    succeed(copy, "up", "--layers", "dev,alone,mine")
    said = fail(copy, 2, "up", saying=(f"{project(copy)}-db-1", "Nothing was started"))
    shell(typed(said))
    succeed(copy, "up")


@pytest.mark.alone
def test_a_one_off_server_on_the_data_is_found(copy: Path) -> None:
    files = [word for name in ("docker-compose.yml", "docker-compose.dev.yml") for word in ("-f", str(copy / name))]
    docker("compose", "--project-directory", str(copy), *files, "run", "--detach", "postgres")
    said = fail(copy, 2, "up", saying=(f"{project(copy)}-postgres-run-", "Nothing was started"))
    shell(typed(said))
    succeed(copy, "up")


@pytest.mark.alone
@pytest.mark.parametrize(
    "layer",
    [
        "{twin: {extends: {file: docker-compose.dev.yml, service: postgres}, container_name: !reset null,"
        " ports: !reset []}}",
        "{postgres: {container_name: !reset null, ports: !reset [], deploy: {replicas: 2}}}",
    ],
    ids=["a second service", "a second replica"],
)
def test_a_layer_that_gives_one_directory_to_two_servers_is_refused(copy: Path, layer: str) -> None:
    (copy / "docker-compose.twin.yml").write_text(f"services: {layer}")
    fail(copy, 2, "up", "--layers", "dev,alone,twin", saying=(f"{copy}/data/pg", "Nothing was started"))
    assert containers(copy) == {}
    succeed(copy, "up")


@pytest.mark.alone
def test_a_sidecar_that_a_layer_gives_the_data_is_no_obstacle(copy: Path) -> None:
    image = value(copy, "POSTGRES_IMAGE")
    (copy / "docker-compose.backup.yml").write_text(
        f"services: {{backup: {{image: '{image}', entrypoint: [sleep, '600'], init: true,"
        " volumes: ['./data/pg:/data:ro']}}"
    )
    configure(copy, STACK_LAYERS="dev,alone,backup")
    succeed(copy, "up")
    succeed(copy, "up")


# -- PostgreSQL's own word -------------------------------------------------------------------------------------


@as_root
@pytest.mark.alone
def test_a_server_in_another_docker_is_found_by_its_process(copy: Path, daemon: Daemon) -> None:  # noqa: F811
    there = {"env": daemon.env, "through": daemon.through}
    succeed(copy, "up", **there)
    try:
        said = fail(copy, 2, "up", saying=(f"{copy}/data/pg is in use by the process", "of a Docker that"))
        fail(copy, 2, "reset-data", "--yes", saying=("the process", "docker stop"))
        assert containers(copy) == {}
        shell(typed(said), **daemon.env)
        succeed(copy, "up")
    finally:
        daemon.docker("compose", "--project-directory", str(copy), "down", "--timeout", "1")


@as_root
@pytest.mark.alone
def test_a_server_that_was_started_by_hand_is_found_by_its_process(make: Make, template: Path, tmp_path: Path) -> None:
    copy = make(**ALONE)
    with copy_for("embedded", template, tmp_path / "hand") as other:
        succeed(other, "up")
        (copy / "data/pg").mkdir()
        try:
            with bound(other / "data/embedded", copy / "data/pg"):
                said = fail(copy, 2, "up", saying=(f"{copy}/data/pg is in use by the process", "kill -INT"))
                shell(typed(said))
                assert run(other, "status").returncode == 3
                assert run(copy, "up", "--no-wait").returncode != 2
                succeed(copy, "down")
        finally:
            run(other, "down")


@as_root
@pytest.mark.alone
def test_what_only_looks_at_the_data_is_no_server(copy: Path) -> None:
    succeed(copy, "up")
    docker("kill", f"{project(copy)}-postgres")  # leaves a postmaster.pid behind
    succeed(copy, "down")
    with subprocess.Popen(["sleep", "60"], cwd=copy / "data/pg") as looking:
        succeed(copy, "up")
        looking.kill()
