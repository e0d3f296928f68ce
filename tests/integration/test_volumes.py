"""The layer `volumes`: every command on data in Docker's volumes, and nobody else's is touched."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.integration.checkout import (
    configure,
    containers,
    docker,
    fail,
    foreign,
    project,
    run,
    sql,
    succeed,
    tables,
    unique,
)
from tests.integration.conftest import Make

ALONE = "dev,volumes,alone"


def volumes(copy: Path) -> set[str]:
    """The leaves of the volumes that there are of a copy's project."""
    label = f"label=com.docker.compose.project={project(copy)}"
    names = docker("volume", "ls", "--filter", label, "--format", "{{.Name}}").split()
    return {name.removeprefix(f"{project(copy)}_") for name in names}


def leaves(copy: Path) -> set[str]:
    return {path.name for path in (copy / "data").iterdir()} - {".gitkeep", ".lock"}


@pytest.fixture
def alone(make: Make) -> Path:
    """A copy of PostgreSQL alone, with its data in a volume, and nothing started."""
    return make(STACK_LAYERS=ALONE)


def test_every_command_works_on_volumes(make: Make) -> None:
    copy = make(STACK_LAYERS="dev,volumes")
    (copy / "seed/010.sql").write_text("CREATE TABLE seeded ()")
    succeed(copy, "up")
    assert (volumes(copy), leaves(copy)) == ({"pg", "convex"}, set())
    told = run(copy, "status")
    assert told.returncode == 0
    assert f"Data: Docker's volume {project(copy)}_convex, Docker's volume {project(copy)}_pg." in told.stderr
    services = json.loads(succeed(copy, "status", "--json"))["services"]
    assert {each["data"] for each in services} == {
        None,
        *(f"Docker's volume {project(copy)}_{leaf}" for leaf in volumes(copy)),
    }
    assert all(each["data_bytes"] for each in services if each["data"])

    succeed(copy, "seed")
    succeed(copy, "snapshot", "s1")
    sql(copy, "CREATE TABLE later ()")
    dumped = copy / "my.dump"
    succeed(copy, "dump", str(dumped))
    succeed(copy, "restore")
    assert tables(copy) == ["seeded"]
    succeed(copy, "undo")
    assert tables(copy) == ["later", "seeded"]
    succeed(copy, "restore", "s1")
    succeed(copy, "load", "--clean", "--yes", str(dumped))
    assert tables(copy) == ["later", "seeded"]
    assert succeed(copy, "psql", "-c", "\\dt", "-c", "SELECT 1").count("later") == 1
    assert "s1" in succeed(copy, "snapshots")
    assert succeed(copy, "admin-key")
    succeed(copy, "restart")
    succeed(copy, "wait-healthy")
    looked = run(copy, "doctor", "--json")
    bad = [each for each in json.loads(looked.stdout)["findings"] if each["state"] != "ok"]
    assert not [each for each in bad if each["check"] not in ("env secrets",)], bad

    succeed(copy, "down")
    assert volumes(copy) == {"pg", "convex"}
    shown = run(copy, "reset-data", "--dry-run").stderr
    assert re.search(rf"volume {project(copy)}_pg  \(\d+ MB\): every database .* snapshots s1", shown)
    assert f"volume {project(copy)}_convex" in shown
    fail(copy, 2, "reset-data", stdin="y\n", saying=("--yes", "nothing was touched"))
    assert volumes(copy) == {"pg", "convex"}
    succeed(copy, "up")
    assert tables(copy) == ["later", "seeded"]

    succeed(copy, "reset-data", "--service", "convex", "--yes")
    assert volumes(copy) == {"pg"}
    succeed(copy, "reset", "--yes")
    assert tables(copy) == ["seeded"]
    succeed(copy, "reset-data", "--yes")
    assert (volumes(copy), containers(copy), leaves(copy)) == (set(), {}, set())
    assert "no data" in run(copy, "reset-data", "--yes").stderr


@pytest.mark.parametrize("ended", [False, True])
def test_a_volume_that_anothers_container_has_is_not_deleted(alone: Path, ended: bool) -> None:
    succeed(alone, "up")
    sql(alone, "CREATE TABLE kept ()")
    with foreign("--volume", f"{project(alone)}_pg:/x") as name:
        if ended:
            docker("kill", name)
        cure = f"docker {'rm' if ended else 'stop'} {name}"
        fail(alone, 2, "reset-data", "--yes", saying=(name, cure, "Nothing was deleted"))
        assert tables(alone) == ["kept"]  # it has not been stopped either
        succeed(alone, "down")
        fail(alone, 2, "reset-data", "--yes", saying=(name, cure))
        if not ended:
            fail(alone, 2, "up", saying=(name, "a second server on the same data", "Nothing was started"))
            docker(*cure.removeprefix("docker ").split())
    succeed(alone, "up")
    assert tables(alone) == ["kept"]
    succeed(alone, "reset-data", "--yes")
    assert volumes(alone) == set()


def test_a_volume_of_another_checkout_of_the_same_name_is_left_alone(alone: Path, make: Make) -> None:
    other = make(STACK_LAYERS=ALONE)
    succeed(alone, "up")
    sql(alone, "CREATE TABLE kept ()")
    succeed(alone, "down")
    before = project(other)
    configure(other, COMPOSE_PROJECT_NAME=project(alone))
    saying = (f"the data of another checkout, {alone}", "`invoke init --isolated`")
    fail(other, 2, "up", saying=(*saying, "Nothing was started"))
    fail(other, 2, "reset-data", "--yes", saying=(*saying, "Nothing was deleted"))
    assert "another checkout" in run(other, "doctor").stdout
    succeed(other, "init", "--isolated")  # the cure
    succeed(other, "up")
    assert tables(other) == []
    succeed(other, "reset-data", "--yes")
    configure(other, COMPOSE_PROJECT_NAME=before)
    succeed(alone, "up")
    assert tables(alone) == ["kept"]


def test_a_volume_of_a_checkout_that_is_gone_is_not_deleted_unseen(alone: Path) -> None:
    name = f"{project(alone)}_pg"
    labels = {"com.docker.compose.project": project(alone), "com.docker.compose.volume": "pg",
              "com.docker.compose.project.working_dir": f"{alone}-gone"}  # fmt: skip
    docker("volume", "create", *(word for key, text in labels.items() for word in ("--label", f"{key}={text}")), name)
    succeed(alone, "up")
    said = fail(
        alone, 2, "reset-data", "--yes", saying=(f"{alone}-gone, which is not there now", "Nothing was deleted")
    )
    cure = re.search("`(docker volume rm .*?)`", said)
    assert cure
    succeed(alone, "down")
    docker(*cure[1].split()[1:])
    assert volumes(alone) == set()


def test_a_docker_that_does_not_answer_is_no_missing_volume(alone: Path) -> None:
    succeed(alone, "up")
    sql(alone, "CREATE TABLE kept ()")
    program = alone / "bin/docker"
    program.parent.mkdir()
    silent = '[ "$1 $2" != "volume inspect" ] || { echo "context deadline exceeded" >&2; exit 1; }'
    program.write_text(f'#!/bin/sh\n{silent}\nPATH=${{PATH#*:}} exec docker "$@"\n')
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    fail(alone, 1, "reset-data", "--yes", env=path, saying=("context deadline exceeded",))
    assert tables(alone) == ["kept"]


@pytest.mark.parametrize("labels", [(), ("--label", "com.docker.compose.project=somebodys")])
def test_a_volume_of_another_project_is_left_alone(alone: Path, labels: tuple[str, ...]) -> None:
    name = f"{project(alone)}_pg"
    docker("volume", "create", *labels, name)
    try:
        for command, what in (("up",), "started"), (("reset-data", "--yes"), "deleted"):
            fail(alone, 2, *command, saying=(name, "somebodys" if labels else "by hand", f"Nothing was {what}"))
        assert docker("volume", "ls", "--quiet", "--filter", f"name={name}") == name
    finally:
        docker("volume", "rm", name)


def test_a_volume_that_compose_itself_has_made_is_deleted_once_it_is_known_whose_it_is(alone: Path) -> None:
    files = [word for layer in ("", ".dev", ".volumes", ".alone") for word in ("-f", f"docker-compose{layer}.yml")]
    docker("compose", *files, "up", "--detach", cwd=alone)
    docker("compose", *files, "down", cwd=alone)
    fail(alone, 2, "reset-data", "--yes", saying=("made by Compose itself", "`invoke up`", "Nothing was deleted"))
    succeed(alone, "up")
    succeed(alone, "reset-data", "--yes")
    assert volumes(alone) == set()


def test_what_a_new_volume_does_not_hold_is_said(alone: Path) -> None:
    configure(alone, STACK_LAYERS="dev,alone")
    succeed(alone, "up")
    sql(alone, "CREATE TABLE kept ()")
    succeed(alone, "dump", "moving.dump")
    succeed(alone, "down")
    configure(alone, STACK_LAYERS=ALONE)
    said = run(alone, "up").stderr
    assert f"_pg is new and empty. {alone}/data/pg keeps what is in it" in said
    succeed(alone, "load", "moving.dump")  # as the README says
    assert tables(alone) == ["kept"]
    assert "new and empty" not in run(alone, "up").stderr
    succeed(alone, "down")
    former = project(alone)
    configure(alone, COMPOSE_PROJECT_NAME=unique())
    assert f"{alone}/data/pg and Docker's volume {former}_pg keeps" in run(alone, "up").stderr
    succeed(alone, "reset-data", "--yes")
    configure(alone, COMPOSE_PROJECT_NAME=former)
    succeed(alone, "up")
    assert tables(alone) == ["kept"]


def test_another_volume_in_a_layer_keeps_the_old_one(alone: Path) -> None:
    succeed(alone, "up")
    sql(alone, "CREATE TABLE kept ()")
    docker("exec", containers(alone)["postgres"], "rm", "/var/lib/postgresql/data/global/pg_control")
    docker("kill", containers(alone)["postgres"])
    said = fail(alone, 1, "up", saying=("do not delete it", "name another volume in a layer"))
    layer = re.search(r"\(`(volumes: .*?)`\)", said)
    assert layer
    (alone / "docker-compose.anew.yml").write_text(f"{layer[1]}\n")
    succeed(alone, "down")
    configure(alone, STACK_LAYERS=f"{ALONE},anew")
    succeed(alone, "up")
    assert tables(alone) == []
    assert volumes(alone) == {"pg", "pg-2"}
    succeed(alone, "reset-data", "--yes")
    assert volumes(alone) == {"pg"}
