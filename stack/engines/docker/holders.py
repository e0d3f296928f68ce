"""Who else has this checkout's data: containers of any project, and servers without one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from stack.engines.docker.containers import ENDED, RUNS, Containers
from stack.engines.docker.plan import POSTGRES, STATE, STATEFUL, Plan
from stack.ground import disk
from stack.ground.disk import within
from stack.ground.run import look
from stack.ground.volume import Place, Volume
from stack.server import processes

# What podman's shim prints may exist here as well, where PostgreSQL is installed.
_INSIDE = re.compile(r"/var/lib/postgresql(/|$)|/convex/data(/|$)")


class Holders:
    """Who else is at work on a directory."""

    def __init__(self, plan: Plan, containers: Containers) -> None:
        self.plan = plan
        self.containers = containers

    def on(
        self, paths: Sequence[Place], rows: list[dict[str, str]], *, starting: bool = False
    ) -> dict[Place, list[processes.Holder]]:
        """Return for each place who else is at work on it: containers, and PostgreSQL processes without one.

        A container of this project counts when it stays beside the one that is about to be started.
        """
        found: dict[Place, list[processes.Holder]] = {path: [] for path in paths}
        directories = [path for path in paths if isinstance(path, Path)]
        unknown = []
        for row in rows:
            if row["state"] not in RUNS or (self.containers.is_own(row) and not starting):
                continue  # `down` stops what is this checkout's
            if row["project"] == self.plan.settings.project and row["oneoff"] != "True" and row["service"] in STATEFUL:
                continue
            if None in [self._judge(row, path, found) for path in paths]:
                unknown.append(row)
        for row, path in self._look_closer(unknown, directories):
            self._add(row, path, found)
        if not any(
            self.containers.is_own(row) and row["service"] == POSTGRES and row["state"] not in ENDED for row in rows
        ):
            for path in directories:
                if not found[path] and path.name != "convex" and (process := processes.at_work_on(path)):
                    found[path].append(process)
        return found

    def _judge(self, row: dict[str, str], path: Place, found: dict[Place, list[processes.Holder]]) -> bool | None:
        """Return whether a container has a directory, by its line in `docker ps`; None when that does not tell."""
        if isinstance(path, Volume):
            if has := has_volume(row, path):
                self._add(row, path, found)
            return has
        labelled = any(
            row["service"] == service and row["directory"] and disk.same(Path(row["directory"], "data", name), path)
            for name, (service, _) in STATE.items()
        )
        said = [True] if labelled else [holds(source, path) for source in mounts(row["mounts"])]
        if True in said:
            self._add(row, path, found)
        return None if None in said and True not in said else True in said

    def _add(self, row: dict[str, str], path: Place, found: dict[Place, list[processes.Holder]]) -> None:
        own = row["project"] == self.plan.settings.project
        if own and row["oneoff"] != "True" and row["service"] in self.plan.config["services"]:
            return  # a layer gives it the directory on purpose
        found[path].append(processes.Holder(f"the running container {row['name']}", f"docker stop {row['name']}"))

    def _look_closer(self, rows: list[dict[str, str]], paths: list[Path]) -> Iterator[tuple[dict[str, str], Path]]:
        """Yield the containers that have a directory, of those whose line in `docker ps` does not tell."""
        if not rows:
            return
        # One that ends meanwhile makes `inspect` fail, yet it prints the others.
        seen = json.loads(look(["docker", "inspect", *(row["id"] for row in rows)]).stdout or "[]")
        names = {mount["Name"] for each in seen for mount in each["Mounts"] if mount["Type"] == "volume"}
        volumes = json.loads(look(["docker", "volume", "inspect", *sorted(names)]).stdout or "[]") if names else []
        devices = {each["Name"]: (each.get("Options") or {}).get("device", "") for each in volumes}
        by_id = {row["id"]: row for row in rows}
        for each in seen:
            words = [bind.split(":")[0] for bind in each["HostConfig"].get("Binds") or []]  # the client's own
            words += [mount.get("Source", "") for mount in each["HostConfig"].get("Mounts") or []]
            words += [mount["Source"] for mount in each["Mounts"] if mount["Type"] == "bind"]
            words += [devices.get(mount.get("Name", ""), "") for mount in each["Mounts"]]
            words = [word for word in words if word.startswith("/")]
            inner = [mount["Destination"] for mount in each["Mounts"] if mount["Type"] == "bind"]
            for path in paths:
                if any(holds(word, path) for word in words) or (
                    not any(map(os.path.lexists, words)) and self._is_inside(each["Id"], inner, path)
                ):
                    yield by_id[each["Id"]], path

    def _is_inside(self, container: str, places: list[str], path: Path) -> bool:
        """Return whether a container sees a directory at one of its places: a folder that was moved keeps its inode."""
        try:
            mine = path.stat()
        except OSError:
            return False
        asked = look(["docker", "exec", container, "stat", "-c", "%d:%i", *places]) if places else None
        return bool(asked) and f"{mine.st_dev}:{mine.st_ino}" in asked.stdout.split()  # type: ignore[union-attr]


def has_volume(row: dict[str, str], volume: Volume) -> bool:
    """Return whether a container has a volume, by its line in `docker ps`."""
    return volume.name in row["mounts"].split(",")


def mounts(listed: str) -> Iterator[str]:
    """Yield what `docker ps` prints under Mounts, which has commas between them and in them."""
    words = listed.split(",")
    while words and words[0]:
        # The longest name that exists here; one that does not exist is taken to have no comma.
        ends = (end for end in range(len(words), 0, -1) if words[0].startswith("/"))
        end = next((end for end in ends if os.path.lexists(",".join(words[:end]))), 1)
        yield ",".join(words[:end])
        words = words[end:]


def holds(source: str, path: Path) -> bool | None:
    """Return whether what is mounted is `path` or lies in it; None when its name says nothing on this machine.

    Docker Desktop prints `/host_mnt` and the path, or a hash (WSL2); podman's shim the path inside.
    """
    if not source.startswith("/"):
        return False if re.fullmatch(r"[0-9a-f]{64}", source) else None  # a volume; a named one may be any directory
    if within(source, path):
        return True
    if not os.path.lexists(source):
        return True if f"{source}/".find(f"{path}/") > 0 else None
    return None if _INSIDE.match(source) else False
