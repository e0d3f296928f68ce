"""The containers of this machine, and which of them are this checkout's."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stack.engines.base import Service, paused
from stack.engines.docker.plan import POSTGRES, STATE, Plan, address, page
from stack.engines.docker.words import explain
from stack.ground import disk
from stack.ground.catalog import SERVICES
from stack.ground.errors import Refused, StackError
from stack.ground.run import look
from stack.ground.talk import say

LABEL = "com.docker.compose"
RUNS, ENDED = ("running", "paused", "restarting"), ("created", "exited", "dead")
REMOVAL = 30.0
"""Seconds that a container which is being removed is waited for."""
# A kill with another signal is no end: HUP and USR1 are used to talk to a program.
_ENDS = {str(number) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)}

_STAY = {entry.name for entry in SERVICES}
"""Services that do not end by themselves, whether or not Docker is to start them again."""


class Containers:
    """All containers of this machine, as one checkout sees them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._ids: list[str] = []
        self._told = self._told_layers = False

    def services(self) -> list[Service]:
        """Return every service of the chosen layers as it is now."""
        seen = {each["Config"]["Labels"][f"{LABEL}.service"]: each for each in self._inspect()}
        return [self._service(name, seen.get(name)) for name in self.plan.contained()]

    def running(self, service: str) -> str:
        """Return the id of a service's running container; raises StackError when it is not running."""
        rows = self.rows()
        for row in self.own(rows):
            if row["service"] == service and row["state"] == "paused":
                raise paused(service)
            if row["service"] == service and row["state"] == "running":
                return row["id"]
        self.refuse_if_former(rows)
        raise StackError(f"{service} is not running. Type `invoke up`, or `invoke status` to see what is.")

    def check_machine(self) -> None:
        """Raise Refused when Docker is asked on another machine, where its bind mounts and ports would be."""
        address = self.ask("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()
        parts = urlsplit(address)
        if parts.scheme in ("tcp", "ssh", "http", "https") and parts.hostname not in ("localhost", "127.0.0.1"):
            raise Refused(
                f"Docker is asked on {address}: it would keep data/ there and open its ports there, not on this"
                " machine. Nothing was done.",
                cure="Type `docker context use default`, and unset DOCKER_HOST and DOCKER_CONTEXT.",
            )

    def last_words(self, service: str, lines: int = 30) -> str:
        """Return the last log lines of a service: as many as show why the last try failed when the next has begun."""
        for row in self.own():
            if row["service"] == service:
                result = look(["docker", "logs", "--tail", str(lines), row["id"]])
                return (result.stdout + result.stderr).rstrip()
        return ""

    def ask(self, *args: str) -> str:
        """Return what `docker` says. Raises StackError, in words for people, when it refuses."""
        result = look(["docker", *args])
        if result.returncode:
            raise explain(result.stderr)
        return result.stdout

    def rows(self) -> list[dict[str, str]]:
        """Return every container of this machine, in one question that costs 10 ms."""
        keys = {
            "id": ".ID",
            "name": ".Names",
            "state": ".State",
            "status": ".Status",
            "mounts": ".Mounts",
            "ports": ".Ports",
            "project": f'.Label "{LABEL}.project"',
            "service": f'.Label "{LABEL}.service"',
            "directory": f'.Label "{LABEL}.project.working_dir"',
            "files": f'.Label "{LABEL}.project.config_files"',
            "oneoff": f'.Label "{LABEL}.oneoff"',
            "hook": f'.Label "{LABEL}.hook"',
        }
        form = "\t".join(f"{{{{{key}}}}}" for key in keys.values())
        listed = self.ask("ps", "--all", "--no-trunc", "--format", form)
        rows = [dict(zip(keys, line.split("\t"), strict=True)) for line in listed.splitlines()]
        for row in rows:
            if row["hook"]:  # of Compose 5.3's, which bears the name of its service and is none
                row["oneoff"] = "True"
        return rows

    def own(self, rows: list[dict[str, str]] | None = None) -> list[dict[str, str]]:
        """Return this project's containers. Raises Refused when they belong to another checkout."""
        rows = [row for row in (self.rows() if rows is None else rows) if row["project"] == self.plan.settings.project]
        for row in rows:
            # A directory that is gone is this checkout under its former name.
            other = Path(row["directory"])
            if row["directory"] and other.is_dir() and not other.samefile(self.plan.root):
                raise Refused(
                    f"The project name {self.plan.settings.project} is in use by another checkout, {other}. Starting or"
                    " stopping here would take over its containers.",
                    cure="Type `invoke init --isolated` to give this checkout a name and ports of its own.",
                )
        return [row for row in rows if row["oneoff"] != "True"]

    def former(self, rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
        """Return this checkout's containers that have another project's name, by that name."""
        found: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            if row["project"] not in ("", self.plan.settings.project) and is_of(row, self.plan.root):
                found.setdefault(row["project"], []).append(row)
        return found

    def tell_of_former(self, rows: list[dict[str, str]] | None = None) -> None:
        """Say, once, which containers of this checkout run under another name."""
        if not self._told and (words := self._former_words(self.rows() if rows is None else rows)):
            say(f"{words} `invoke down` stops them too.")
        self._told = True

    def _former_words(self, rows: list[dict[str, str]]) -> str:
        running = [row for each in self.former(rows).values() for row in each if row["state"] in RUNS]
        if not running:
            return ""
        names, projects = (sorted({row[key] for row in running}) for key in ("name", "project"))
        return (
            f"Containers of this checkout run under another project name than {self.plan.settings.project}, which it"
            f" has now: {', '.join(names)} (of {', '.join(projects)})."
        )

    def refuse_if_former(self, rows: list[dict[str, str]]) -> None:
        """Raise Refused when this checkout's containers run under another name."""
        if words := self._former_words(rows):
            raise Refused(
                f"{words} Nothing was done.",
                cure="Type `invoke down`, which stops them too, then `invoke up`; or put the former"
                " COMPOSE_PROJECT_NAME back.",
            )

    def is_own(self, row: dict[str, str]) -> bool:
        """Return whether a container is this checkout's, under whatever name."""
        return row["project"] == self.plan.settings.project or is_of(row, self.plan.root)

    def settled(self) -> list[dict[str, str]]:
        """Return every container, once none of this project is being stopped or removed, or after half a minute."""
        deadline = time.monotonic() + REMOVAL
        while True:
            rows = self.rows()
            leaving = [
                row for row in rows if row["project"] == self.plan.settings.project and row["state"] == "removing"
            ]
            if not leaving or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        ours = [row for row in rows if row["project"] == self.plan.settings.project and row["state"] in RUNS]
        told = _ending() if ours else set()
        ending = [row["name"] for row in ours if row["id"] in told]
        if not ending:
            return rows
        say(f"Docker is still stopping {', '.join(ending)}; waiting until that has ended.")
        look(["docker", "stop", *ending], timeout=600)
        return self.rows()

    def vanishing(self) -> bool:
        """Wait for what is being removed; return whether there was anything."""
        before = self.rows()
        return before != self.settled() or any(row["state"] == "removing" for row in before)

    def first_start(self, rows: list[dict[str, str]]) -> bool:
        """Return whether the image's entrypoint is still making the cluster, before the server takes its place."""
        return any(
            "/docker-entrypoint.sh" in look(["docker", "top", row["id"]]).stdout  # by its path: not init's argument
            for row in rows
            if self.is_own(row) and row["service"] == POSTGRES and row["status"].endswith("(health: starting)")
        )

    def _inspect(self) -> list[dict[str, Any]]:
        # Once there is a container for each service, one question is enough, until one of them is gone.
        if len(self._ids) == len(self.plan.contained()):
            result = look(["docker", "inspect", *self._ids])
            if not result.returncode:
                return list(json.loads(result.stdout))
        rows = self.rows()
        own = self.own(rows)
        self._ids = [row["id"] for row in own]
        self._tell_of_other_layers(own)
        if not self._ids:
            self.tell_of_former(rows)
        # One that is removed between the two calls makes `inspect` fail, yet it prints the others.
        return list(json.loads(look(["docker", "inspect", *self._ids]).stdout or "[]")) if self._ids else []

    def _tell_of_other_layers(self, own: list[dict[str, str]]) -> None:
        """Say, once, what still runs of layers that were switched off: Compose leaves it as it is."""
        services = self.plan.config["services"]
        left = sorted(row["name"] for row in own if row["state"] in RUNS and row["service"] not in services)
        if left and not self._told_layers:
            say(
                f"Still running, though no layer of now has it: {', '.join(left)}. `docker stop {' '.join(left)}` ends"
                " that, and `invoke down` everything."
            )
        self._told_layers = True

    def _service(self, name: str, container: dict[str, Any] | None) -> Service:
        spec = self.plan.config["services"][name]
        facts: dict[str, Any] = {
            "image": spec.get("image", ""),
            "data": next((place for leaf, place in self.plan.stores().items() if STATE[leaf][0] == name), None),
            "url": next((page(*address(port)) for port in spec.get("ports", [])), ""),
            "one_shot": spec.get("restart", "no") == "no" and name not in _STAY,
        }
        if name == POSTGRES and (endpoint := self.plan.endpoint()):
            facts["url"] = endpoint.url()
        if not container:
            return Service(name, **facts)
        state = container["State"]
        health = state.get("Health") or {}
        return Service(
            name,
            state=state["Status"],
            # A service may have lost or gained its check in a file that was edited since.
            health=health.get("Status", "").replace("none", ""),
            exit_code=state["ExitCode"],
            restarts=container["RestartCount"],
            output=next(
                (
                    probe["Output"].strip()
                    for probe in reversed(health.get("Log") or [])
                    if _moment(probe["Start"]) >= _moment(state["StartedAt"])  # Docker keeps those of former runs
                ),
                "",
            ),
            **facts,
        )


def _moment(stamp: str) -> float:
    """Return Docker's time stamp in seconds; it has nanoseconds, which Python 3.10 does not read."""
    whole, fraction, zone = re.fullmatch(r"([^.]+?)(\.\d+)?(Z|[+-]\d\d:\d\d)", stamp).groups()  # type: ignore[union-attr]
    return datetime.fromisoformat(whole + zone.replace("Z", "+00:00")).timestamp() + float(fraction or 0)


def _ending() -> set[str]:
    """Return the ids of the containers that were told to end and have not: Docker delivers a stop without its client.

    Its list does not tell, its events do. A clock of its own that is behind would make it wait for ours.
    """
    form = "{{.Actor.ID}}\t{{.Action}}\t{{.Actor.Attributes.signal}}"
    events = [word for event in ("kill", "start", "die") for word in ("--filter", f"event={event}")]
    last: dict[str, bool] = {}
    with contextlib.suppress(StackError):
        told = look(["docker", "events", "--since", "10m", "--until", "0s", *events, "--format", form], timeout=3)
        for container, what, number in (line.split("\t") for line in told.stdout.splitlines()):
            if what != "kill" or number in _ENDS:
                last[container] = what == "kill"
    return {container for container, killed in last.items() if killed}


def is_of(row: dict[str, str], root: Path) -> bool:
    """Return whether a container was started from a checkout's own Compose files, whatever its project's name."""
    files = {Path(file).name for file in row["files"].split(",")} - {""}
    ours = not files or files & {"docker-compose.yml", "docker-compose.dev.yml"}  # and not an application's beside them
    return bool(row["directory"] and ours) and disk.same(row["directory"], root)
