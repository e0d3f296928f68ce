"""What deletes looks first: can it start again, is everything in its reach, does this machine see the files at all."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.checkout import (
    ALONE,
    configure,
    containers,
    docker,
    fail,
    run,
    sql,
    succeed,
    tables,
    unique,
    value,
)
from tests.integration.conftest import Make
from tests.integration.test_faults_docker import Daemon

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a second daemon")


# -- reset --------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_reset_deletes_nothing_when_an_image_is_not_to_be_had(started: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    before = value(started, "POSTGRES_IMAGE")
    configure(started, POSTGRES_IMAGE="localhost:1/no/such:image")
    fail(
        started, 1, "reset", "--yes", saying=("localhost:1/no/such:image", "could not be pulled", "Nothing was deleted")
    )
    assert tables(started) == ["kept"]  # it has not even been stopped
    configure(started, POSTGRES_IMAGE=before)
    succeed(started, "up")
    assert tables(started) == ["kept"]


@pytest.mark.alone
def test_reset_deletes_nothing_when_a_port_is_taken(started: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    before = value(started, "POSTGRES_PORT")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        configure(started, POSTGRES_PORT=str(port))
        fail(started, 1, "reset", "--yes", saying=(f"Port {port} is taken",))
    configure(started, POSTGRES_PORT=before)
    succeed(started, "up")
    assert tables(started) == ["kept"]


@pytest.mark.alone
def test_reset_deletes_nothing_for_an_image_that_does_not_run_here(started: Path, tmp_path: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    before, image = value(started, "POSTGRES_IMAGE"), f"it-{unique()}:18"
    (tmp_path / "Dockerfile").write_text(f"FROM {before}\nENV PG_MAJOR=18\n")
    docker("build", "--quiet", "--tag", image, str(tmp_path))
    try:
        configure(started, POSTGRES_IMAGE=image)
        fail(started, 1, "reset", "--yes", saying=("PostgreSQL 18", "POSTGRES_IMAGE"))
        configure(started, POSTGRES_IMAGE=before)
        succeed(started, "up")
        assert tables(started) == ["kept"]
    finally:
        docker("image", "rm", image)


def test_reset_of_the_embedded_engine_looks_first_too(either: Path) -> None:
    succeed(either, "up")
    sql(either, "CREATE TABLE kept ()")
    succeed(either, "down")
    with socket.create_server(("127.0.0.1", int(value(either, "POSTGRES_PORT")))):
        fail(either, 1, "reset", "--yes", saying=("is taken by",))
    succeed(either, "up")
    assert tables(either) == ["kept"]


def test_reset_of_data_of_another_major_version_is_the_way_out(either: Path) -> None:
    succeed(either, "up")
    succeed(either, "down")
    leaf = "pg" if value(either, "STACK_ENGINE") == "docker" else "embedded"
    (either / "data" / leaf / "PG_VERSION").write_text("16\n")
    succeed(either, "reset", "--yes")
    assert tables(either) == []


# -- volumes ------------------------------------------------------------------------------------------------

VOLUMES = {
    "named": ("volumes: !override ['store:/var/lib/postgresql/data']", "volumes: {store: {name: %s}}"),
    "anonymous": ("volumes: !override ['/var/lib/postgresql/data']", ""),
    "the image's own": ("volumes: !reset []", ""),
    "PGDATA": ("environment: {PGDATA: /v/pgdata}, volumes: ['store:/v']", "volumes: {store: {name: %s}}"),
}


@pytest.fixture(params=sorted(VOLUMES))
def volume(copy: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """A layer that puts the database into a volume of this name, or of none; and which ones are to be removed."""
    service, top = VOLUMES[request.param]
    name = unique() if top else ""
    (copy / "docker-compose.volume.yml").write_text(
        f"services: {{postgres: {{{service}}}}}\n{top % name if top else ''}\n"
    )
    configure(copy, STACK_LAYERS="dev,volume")
    used: list[str] = []  # one without a name is left behind by `down`
    yield name, used
    run(copy, "down")
    subprocess.run(["docker", "volume", "rm", *used], check=False, capture_output=True)


def test_data_in_a_volume_is_named_and_nothing_is_touched(copy: Path, volume: tuple[str, list[str]]) -> None:
    (copy / "seed/010.sql").write_text("CREATE TABLE seeded ()")
    succeed(copy, "up")
    name, used = volume
    mounts = '{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}'
    used += docker("inspect", "--format", mounts, containers(copy)["postgres"]).split()
    sql(copy, "CREATE TABLE kept ()")
    for command in (("reset",), ("reset-data",), ("reset-data", "--service", "pg")):
        saying = ("postgres keeps its data in", name or "a volume without a name", "Nothing was touched")
        said = fail(copy, 2, *command, "--yes", saying=saying)
    assert tables(copy) == ["kept"]
    assert (copy / "data/convex/credentials").is_dir()
    cure = re.search(r"`invoke (reset-data --service convex)`", said)
    assert cure
    succeed(copy, *cure[1].split(), "--yes")
    assert not (copy / "data/convex").exists()


# -- a machine that does not see the checkout -------------------------------------------------------------------


class Blind(Daemon):
    """A dockerd in whose file system the checkout's folder is another one, as in a virtual machine."""

    def __init__(self, home: Path, hidden: Path) -> None:
        super().__init__(home)
        self._hidden = hidden

    def start(self) -> None:
        outside = self.through
        script = 'mount -t tmpfs -o mode=0755 blind "$0" && exec "$@"'
        self.through = (*outside, "unshare", "--mount", "sh", "-c", script, str(self._hidden))
        try:
            super().start()
        finally:
            self.through = outside


@pytest.fixture
def blind(images: dict[str, str], copy: Path) -> Iterator[Blind]:
    made = Blind(Path(tempfile.mkdtemp(prefix="it-")), copy)
    try:
        made.start()
        with subprocess.Popen(["docker", "save", images["POSTGRES_IMAGE"]], stdout=subprocess.PIPE) as saved:
            argv = [*made.through, "docker", "--host", made.env["DOCKER_HOST"], "load"]
            subprocess.run(argv, check=True, stdin=saved.stdout, capture_output=True)
        yield made
    finally:
        made.docker("rm", "--force", *made_containers(made))
        made.remove()


def made_containers(daemon: Daemon) -> list[str]:
    argv = [*daemon.through, "docker", "--host", daemon.env["DOCKER_HOST"], "ps", "-aq"]
    return subprocess.run(argv, check=False, capture_output=True, text=True).stdout.split() or ["none"]


@as_root
@pytest.mark.alone
def test_a_docker_that_does_not_see_this_folder(copy: Path, blind: Blind) -> None:
    there = {"env": blind.env, "through": blind.through}
    said = fail(copy, 1, "up", saying=("postgres runs", f"not in {copy}/data/pg", "`invoke down`"), **there)  # type: ignore[arg-type]
    assert "Docker runs on" in said
    fail(copy, 1, "wait-healthy", saying=("not in",), **there)  # type: ignore[arg-type]
    for command in ("reset-data", "reset"):
        fail(copy, 2, command, "--yes", saying=("Nothing was touched",), **there)  # type: ignore[arg-type]
    succeed(copy, "down", **there)  # the cure that it names, to its end
    for command in ("reset-data", "reset"):
        result = run(copy, command, "--yes", **there)  # type: ignore[arg-type]
        assert result.returncode == 2, result.stderr
        assert "Deleted." not in result.stderr
        assert "cannot be deleted from here" in result.stderr
    # Files of another day in the folder of this side do not make it the server's.
    (copy / "data/pg/old").touch()
    fail(copy, 1, "up", saying=("not in",), **there)  # type: ignore[arg-type]
    succeed(copy, "down", **there)
    shutil.rmtree(copy / "data/pg")
    succeed(copy, "up")


@pytest.mark.alone
def test_a_data_directory_with_pgdata_below_is_seen(make: Make) -> None:
    copy = make(**ALONE)
    (copy / "docker-compose.below.yml").write_text(
        "services: {postgres: {environment: {PGDATA: /var/lib/postgresql/data/pgdata}}}"
    )
    configure(copy, STACK_LAYERS="dev,alone,below")
    succeed(copy, "up")
    sql(copy, "SELECT 1")
    succeed(copy, "reset-data", "--yes")
