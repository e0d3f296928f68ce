"""Every stack of the machine, and the end of those whose checkout is gone."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.integration.checkout import (
    ALONE,
    containers,
    docker,
    fail,
    images,
    project,
    remove,
    run,
    succeed,
    unique,
    value,
)
from tests.integration.conftest import Make, copy_for


@pytest.fixture
def pruning() -> Iterator[None]:
    """Let one at a time prune: it ends what is left of the checkouts of the whole machine."""
    with FileLock(Path(tempfile.gettempdir(), f"stack-pruning-{os.getuid()}.lock")):
        yield


def stacks(copy: Path) -> dict[str, dict[str, Any]]:
    return {each["folder"]: each for each in json.loads(succeed(copy, "stacks", "--json"))}


def delete(folder: Path) -> None:
    """Delete a checkout under its running stack, as `rm -rf` does."""
    if value(folder, "STACK_ENGINE") == "docker":  # the files of a container's user
        docker("run", "--rm", "--network", "none", "--user", "0", "--volume", f"{folder / 'data'}:/copy",
               "--entrypoint", "find", images()["POSTGRES_IMAGE"], "/copy", "-mindepth", "1", "-delete")  # fmt: skip
    shutil.rmtree(folder)


@pytest.mark.parametrize("engine", ["docker", "embedded"])
@pytest.mark.usefixtures("pruning")
def test_one_whose_folder_is_gone_is_ended_and_no_other(engine: str, template: Path, tmp_path: Path) -> None:
    with copy_for(engine, template, tmp_path / "gone") as gone, copy_for(engine, template, tmp_path / "stays") as stays:
        for each in (gone, stays):
            succeed(each, "up")
        shown = stacks(stays)
        for each in (gone, stays):
            told = shown[str(each)]
            assert (told["state"], told["orphan"], told["engine"]) == ("up", False, engine)
            assert told["project"] == project(each)
            assert told["ports"]["POSTGRES_PORT"] == int(value(each, "POSTGRES_PORT"))
            assert told["used"]
            assert told["bytes"] > 1_000_000
        table = succeed(stays, "stacks")
        assert "FOLDER" in table.splitlines()[0]
        name = project(gone)

        succeed(gone, "restart")  # PostgreSQL looks once a minute whether its files are there, and ends when not
        delete(gone)
        assert stacks(stays)[str(gone)]["orphan"]
        for command in ("up", "doctor"):
            said = run(stays, command)
            assert said.returncode == 0
            assert re.search(
                f"no checkout any more: .*{gone}.* `invoke stacks --prune` ends", said.stdout + said.stderr
            )
        asked = run(stays, "stacks", "--prune")
        assert asked.returncode == 2
        assert f"{gone} is gone" in asked.stderr
        assert stacks(stays)[str(gone)]["orphan"]
        assert f"Ended what was left of {gone}." in run(stays, "stacks", "--prune", "--yes").stderr
        assert str(gone) not in stacks(stays)
        assert str(gone) not in run(stays, "up").stderr
        assert stacks(stays)[str(stays)]["state"] == "up"
        succeed(stays, "wait-healthy")
        succeed(stays, "down")
        assert stacks(stays)[str(stays)]["state"] == "down"
        if engine == "docker":
            assert docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={name}") == ""
            assert docker("network", "ls", "-q", "--filter", f"label=com.docker.compose.project={name}") == ""
            assert containers(stays) == {}


@pytest.mark.usefixtures("pruning")
def test_a_folder_that_docker_has_made_again_is_no_checkout(make: Make) -> None:
    gone, stays = make(**ALONE), make(**ALONE)
    succeed(gone, "up")
    name = f"{project(gone)}-postgres"
    delete(gone)
    docker("restart", name)  # as when PostgreSQL misses its files
    assert (gone / "data" / "pg").is_dir()
    assert f"no checkout any more: {gone}" in run(stays, "stacks").stderr
    asked = run(stays, "stacks", "--prune")
    assert asked.returncode == 2
    assert f"{gone} has nothing but data/" in asked.stderr
    (gone / "mine").touch()
    assert not stacks(stays)[str(gone)]["orphan"]
    (gone / "mine").unlink()
    assert f"{gone / 'data'} is kept" in run(stays, "stacks", "--prune", "--yes").stderr
    assert (gone / "data" / "pg").is_dir()
    assert str(gone) not in stacks(stays)


@pytest.mark.usefixtures("pruning")
def test_an_applications_own_containers_are_none_of_its_business(copy: Path, tmp_path: Path) -> None:
    """A name, and a folder that is gone, are not enough."""
    folder = tmp_path / "app"
    folder.mkdir()
    image, name = images()["POSTGRES_IMAGE"], f"{project(copy)}-app"
    compose = f"services: {{postgres: {{image: '{image}', entrypoint: [sleep, '600'], init: true}}}}"
    (folder / "docker-compose.yml").write_text(compose)
    docker("compose", "-p", name, "-f", str(folder / "docker-compose.yml"), "up", "--detach")
    try:
        shutil.rmtree(folder)
        run(copy, "stacks", "--prune", "--yes")
        assert docker("ps", "-q", "--filter", f"label=com.docker.compose.project={name}")
    finally:
        docker("compose", "-p", name, "down", "--timeout", "1")


@pytest.mark.parametrize("engine", ["docker", "embedded"])
def test_a_worktree_is_born_and_dies_clean(engine: str, template: Path, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *words], check=True, cwd=tmp_path / "main")

    shutil.copytree(template, tmp_path / "main")
    git("init", "-q", "-b", "main")
    git("add", "--all")
    git("commit", "-qm", "x")
    git("worktree", "add", "-q", "-b", "fix", "../fix")
    with copy_for(engine, template, tmp_path / unique()) as settings:
        lines = (settings / ".env").read_text()
    fix = tmp_path / "fix"
    (fix / ".env").write_text(lines)
    try:
        succeed(fix, "init", "--isolated")
        succeed(fix, "up")
        assert stacks(fix)[str(fix)]["branch"] == "fix"
        fail(fix, 2, "retire", saying=("nothing was touched",))
        assert stacks(fix)[str(fix)]["state"] == "up"
        (cure,) = re.findall("`(git worktree remove .*)` may follow", run(fix, "retire", "--yes").stderr)
        assert str(fix) not in json.loads(Path(os.environ["XDG_STATE_HOME"], "convex-poc/checkouts.json").read_text())
        git(*shlex.split(cure)[1:])
        assert not fix.exists()
    finally:
        if fix.exists():
            remove(fix)
