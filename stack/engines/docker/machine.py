"""What Docker knows of other checkouts on this machine; nothing where there is no Docker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from stack.engines.docker.containers import LABEL, is_of
from stack.engines.docker.words import explain
from stack.ground.catalog import SERVICES, STATEFUL
from stack.ground.errors import StackError
from stack.ground.run import look

ENGINE = "docker"
"""What runs all of this, as STACK_ENGINE has it."""


def running_from(root: Path) -> list[str]:
    """Return the names of the containers that run from a checkout, under any project name; none without Docker."""
    keys = [".Names", f'.Label "{LABEL}.project.working_dir"', f'.Label "{LABEL}.project.config_files"']
    form = "\t".join(f"{{{{{key}}}}}" for key in keys)
    try:
        listed = look(["docker", "ps", "--filter", f"label={LABEL}.project", "--format", form]).stdout
    except StackError:
        return []
    rows = [dict(zip(("name", "directory", "files"), line.split("\t"), strict=True)) for line in listed.splitlines()]
    return [row["name"] for row in rows if is_of(row, root)]


def projects() -> dict[str, Path]:
    """Return the Compose projects that have containers, and the directory of each; empty without Docker."""
    keys = f'{{{{.Label "{LABEL}.project"}}}}\t{{{{.Label "{LABEL}.project.working_dir"}}}}'
    try:
        listed = look(["docker", "ps", "--all", "--filter", f"label={LABEL}.project", "--format", keys]).stdout
    except StackError:
        return {}
    return {name: Path(directory) for name, directory in (line.split("\t") for line in listed.splitlines())}


class Container(NamedTuple):
    """A container of some stack."""

    id: str
    name: str
    project: str
    folder: Path
    """The checkout that started it."""
    runs: bool
    ports: dict[str, int]
    """On this machine, by the setting that names it."""


def stacks() -> list[Container]:
    """Return the containers of every checkout of this repository; none without Docker.

    A group of containers is a stack when one of them has its checkout's data, in a directory or a volume of the
    project's: a name tells nothing.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in _all():
        labels = each["Config"].get("Labels") or {}
        key = labels.get(f"{LABEL}.project", ""), labels.get(f"{LABEL}.project.working_dir", "")
        if all(key) and labels.get(f"{LABEL}.service") in {entry.name for entry in SERVICES}:
            groups.setdefault(key, []).append(each)
    return [_container(each, *key) for key, group in groups.items() if _has_data(group, *key) for each in group]


def _all() -> list[dict[str, Any]]:
    try:
        ids = look(
            ["docker", "ps", "--all", "--quiet", "--filter", f"label={LABEL}.project.working_dir"]
        ).stdout.split()
        # One that is removed between the two calls makes `inspect` fail, yet it prints the others.
        return list(json.loads(look(["docker", "inspect", *ids]).stdout or "[]")) if ids else []
    except StackError:
        return []


def _has_data(group: list[dict[str, Any]], project: str, folder: str) -> bool:
    places = {(place, entry.home) for leaf, entry in STATEFUL.items()
              for place in (f"{folder}/data/{leaf}", f"{project}_{leaf}")}  # fmt: skip
    mounts = [
        (mount.get("Name") or mount.get("Source"), mount["Destination"]) for each in group for mount in each["Mounts"]
    ]
    return bool(places & {*mounts})


def _container(each: dict[str, Any], project: str, folder: str) -> Container:
    service = each["Config"]["Labels"][f"{LABEL}.service"]
    (entry,) = (entry for entry in SERVICES if entry.name == service)
    bound = (each["HostConfig"].get("PortBindings") or {}).get(f"{entry.port}/tcp") or []
    ports = {entry.published[0]: int(bound[0]["HostPort"])} if bound and bound[0]["HostPort"].isdigit() else {}
    runs = each["State"]["Status"] in ("running", "paused", "restarting")
    return Container(each["Id"], each["Name"].lstrip("/"), project, Path(folder), runs, ports)


def end(containers: list[Container]) -> None:
    """Stop and remove containers, and the networks of their projects that nobody uses. Raises StackError."""
    ids = [each.id for each in containers]
    for verb in (["stop"], ["rm", "--force"]) if ids else ():
        if (told := look(["docker", *verb, *ids], timeout=300)).returncode:
            raise explain(told.stderr)
    for project in {each.project for each in containers}:
        named = look(["docker", "network", "ls", "--quiet", "--filter", f"label={LABEL}.project={project}"])
        for network in named.stdout.split():
            look(["docker", "network", "rm", network])  # Docker refuses one that is in use
