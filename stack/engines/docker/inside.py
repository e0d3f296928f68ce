"""The server in its container, seen from inside: without its address and its password."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from stack.engines.docker.containers import Containers
from stack.engines.docker.plan import POSTGRES, STATE, Plan, address
from stack.ground.errors import StackError
from stack.ground.run import Command, look, look_raw
from stack.ground.volume import Volume
from stack.server import identity
from stack.server.address import Endpoint, Running

_IDENTITY = r"""pg_controldata && printf '\0' && cat "$PGDATA/postmaster.pid" """
_TAR_HEADER = 512
"""Bytes before the file in what `docker cp FILE -` prints."""


class Inside:
    """The running server of one checkout."""

    def __init__(self, plan: Plan, containers: Containers) -> None:
        self.plan = plan
        self.containers = containers

    def running(self) -> Running:
        """Return how the running server is reached, by what its container was started with: 30 ms, not Compose's 170.

        Raises StackError when it does not run.
        """
        form = "{{json .Config.Env}}\t{{json .Mounts}}\t{{json .NetworkSettings.Ports}}"
        server = self.containers.running(POSTGRES)
        told = self.containers.ask("inspect", "--format", form, server).split("\t")
        variables, mounts, published_ports = map(json.loads, told)
        environment: dict[str, str] = self.plan.refuse_if_changed(variables)
        bindings = [
            Volume(each["Name"]) if each["Type"] == "volume" else self._here(Path(each["Source"]))
            for each in mounts
            if each["Destination"] == STATE["pg"][1]
        ]
        bound = published_ports.get("5432/tcp") or []
        published = [{"host_ip": each["HostIp"], "published": each["HostPort"]} for each in bound]
        if not published or not bindings:
            raise StackError(
                "postgres has just stopped, or it has no port on this machine, or no directory there. Type"
                " `invoke status`, then `invoke up`."
            )
        user, password, database = (environment[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
        return Running(Endpoint(*address(published[0]), user, password, database), bindings[0], server)

    def _here(self, source: Path) -> Path:
        """Return a directory as this machine calls it: Docker Desktop tells another name, of its own machine's."""
        return source if source.exists() else Path(self.plan.directories().get("pg", source))

    def identifier(self, server: str = "", *, surely: bool = False) -> identity.Identity:
        """Return what tells the server in a container from all others; raises StackError when nobody can tell.

        Who may reads its files; to others Docker itself hands one out, in 10 ms. Where they are elsewhere, `surely`
        asks PostgreSQL's own program in the container, which takes 60.
        """
        server = server or self.containers.running(POSTGRES)
        if surely:
            told = look(["docker", "exec", "--env", "LC_ALL=C", server, "sh", "-c", _IDENTITY])
            control, _, lock = told.stdout.partition("\0")
            if found := re.search(r"system identifier: +(\d+)", control):
                return identity.told(lock, int(found[1]))
            raise StackError(
                f"The container of postgres does not tell which cluster it has: {told.stderr.strip()}",
                cure="Type `invoke doctor`.",
            )
        if place := self.plan.places().get("pg"):
            with contextlib.suppress(StackError):
                return identity.seen(place)
        packed = look_raw(["docker", "cp", f"{server}:{STATE['pg'][1]}/{identity.LOCK}", "-"])
        return identity.told(packed[_TAR_HEADER:].partition(b"\0")[0].decode(errors="replace"))

    def peer(self, user: str, database: str) -> Command:
        """Return the command line of a psql that reads its SQL from stdin and needs no password, as any user.

        Raises StackError when the server's container is not running.
        """
        psql = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", database, "-f", "-"]
        return Command(["docker", "exec", "-i", self.containers.running(POSTGRES), *psql], {})

    def titles(self) -> list[str]:
        """Return what the processes of the running server call themselves."""
        return look(["docker", "top", self.containers.running(POSTGRES)]).stdout.splitlines()
