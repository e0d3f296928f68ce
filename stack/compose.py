"""Docker: the only room that spells `docker` and `docker compose`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any
from urllib.parse import urlsplit

from stack import places, ports
from stack.process import Refused, StackError, do, look
from stack.programs import MAJOR
from stack.service import Command, Endpoint, Running, Service
from stack.settings import ROOT, Settings

POSTGRES, BACKEND, DASHBOARD = "postgres", "convex-backend", "convex-dashboard"
# Each directory of data/: which service keeps its state there, and where it sees it.
_STATE = {"convex": (BACKEND, "/convex/data"), "pg": (POSTGRES, "/var/lib/postgresql/data")}
NEEDED = {"Engine": (25, 0), "Compose": (2, 24)}
"""The oldest versions that serve: a health check's start_interval, and `!override` in a layer."""
_VERSIONS = {"Engine": ("version", "--format", "{{.Server.Version}}"), "Compose": ("compose", "version", "--short")}
FIRST_START = 20.0
"""Seconds that `down` gives a first start to end by itself; it takes two or three."""
_LABEL = "com.docker.compose"
# The client takes user and database from what its container was started with.
_AS_CONFIGURED = 'PGUSER="$POSTGRES_USER" PGDATABASE="$POSTGRES_DB" exec "$@"'
# A listing, then name and text of each file that is there, all between zero bytes.
_READ = r"""cd "$0" && ls -A && for f; do [ ! -f "$f" ] || { printf '\0%s\0' "$f"; tr -d '\0' <"$f"; }; done"""
_APPEND = r"""printf '%s\n' "$2" >>"$0/$1" """


class Docker:
    """The Compose files of one checkout, with the chosen layers."""

    name = "docker"
    texts: Mapping[str, str] = MappingProxyType(
        {
            "postgresql.conf": "listen_addresses = '*'",
            "pg_hba.conf": "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\n"
            "host all all all scram-sha-256",
        }
    )

    def __init__(self, settings: Settings, root: Path = ROOT) -> None:
        self.settings = settings
        self.root = root
        self._ids: list[str] = []

    # -- command lines ------------------------------------------------------------------------------------

    def compose(self, *args: str) -> list[str]:
        """Return the command line of Compose: project directory, `.env` and files are never left to chance.

        Raises Refused when the file of a layer does not exist.
        """
        layers = [f"docker-compose.{layer}.yml" for layer in self.settings.layers]
        files = [self.root / name for name in ("docker-compose.yml", *layers)]
        for file in files:
            if not file.is_file():
                there = sorted(path.name.split(".")[1] for path in self.root.glob("docker-compose.*.yml"))
                raise Refused(
                    f"{file.name} does not exist, so there is no such layer. Layers here: {', '.join(there) or 'none'}."
                    " Change --layers or STACK_LAYERS."
                )
        command = ["docker", "compose", "--project-directory", str(self.root)]
        command += ["--env-file", str(self.settings.env_file)]
        return [*command, *(word for file in files for word in ("-f", str(file))), *args]

    def client(self, *argv: str, stdin: bool = False, terminal: bool = False, name: str = "") -> Command:
        """Return the command line that runs a PostgreSQL client program beside the server, under a name there.

        Raises StackError when the server's container is not running.
        """
        flags = ["-it"] if terminal else ["-i"] if stdin else []
        flags += ["--env", f"PGAPPNAME={name}"] if name else []
        server = self.running(POSTGRES)
        self._refuse_if_changed(json.loads(self._ask("inspect", "--format", "{{json .Config.Env}}", server)))
        if argv[0] == "pg_restore" and "-f" not in argv:
            argv = (argv[0], "--dbname=", *argv[1:])  # that of PGDATABASE, which it does not take by itself
        return Command(["docker", "exec", *flags, server, "sh", "-c", _AS_CONFIGURED, "sh", *argv], {})

    def logs(self, service: str = "", *, follow: bool = False, tail: str = "all") -> list[str]:
        """Return the command line that shows the logs."""
        self._containers()
        self._known(service)
        return self.compose("logs", "--tail", tail, *["--follow"] * follow, *[service] * bool(service))

    def trusted(self, user: str, database: str) -> Command:
        """Return the command line of a psql that reads its SQL from stdin and needs no password, as any user.

        Raises StackError when the server's container is not running.
        """
        psql = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", database, "-f", "-"]
        return Command(["docker", "exec", "-i", self.running(POSTGRES), *psql], {})

    # -- what is there ------------------------------------------------------------------------------------

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the Compose files mean once `.env`, environment and layers are resolved."""
        result = look(self.compose("config", "--format", "json"))
        if result.returncode:
            raise explain(result.stderr)
        # `config` doubles every $ so that its output can be read as a Compose file again.
        config: dict[str, Any] = json.loads(result.stdout.replace("$$", "$"))
        return config

    def endpoint(self) -> Endpoint | None:
        """Return the database's address as Compose resolved it; None when no layer has a database."""
        service = self.config["services"].get(POSTGRES)
        if not service:
            return None
        port = _published(service, 5432)
        if not port:
            raise StackError(
                "The service postgres publishes no port for 5432, so nothing on this machine can reach the database."
                f' Give it one, such as "127.0.0.1:5433:5432", in {" or ".join(self.compose()[7::2])}.'
            )
        environment = service["environment"]
        return Endpoint(*port, *(environment[name] for name in ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB")))

    def database(self) -> Running:
        """Return how the running server is reached, by what its container was started with: 30 ms, not Compose's 170.

        Raises StackError when it does not run.
        """
        form = "{{json .Config.Env}}\t{{json .Mounts}}\t{{json .NetworkSettings.Ports}}"
        told = self._ask("inspect", "--format", form, self.running(POSTGRES)).split("\t")
        variables, mounts, ports = map(json.loads, told)
        environment: dict[str, str] = self._refuse_if_changed(variables)
        bindings = [Path(each["Source"]) for each in mounts if each["Destination"] == _STATE["pg"][1]]
        published = [{"host_ip": each["HostIp"], "published": each["HostPort"]} for each in ports.get("5432/tcp") or []]
        if not published or not bindings:
            raise StackError(
                "postgres has just stopped, or it has no port on this machine, or no directory there. Type"
                " `invoke status`, then `invoke up`."
            )
        user, password, database = (environment[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
        return Running(Endpoint(*_address(published[0]), user, password, database), bindings[0])

    def _refuse_if_changed(self, variables: list[str]) -> dict[str, str]:
        """Return a container's environment. Raises Refused when the settings name another database than it does."""
        environment = dict(variable.split("=", 1) for variable in variables)
        runs = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
        if runs != (self.settings.user, self.settings.database):  # a layer may say otherwise, which takes longer to ask
            now = self.endpoint()
            if now and runs != (now.user, now.database):
                raise Refused(
                    f"The settings have changed since the stack was started: it runs with the database {runs[1]!r} of"
                    f" the user {runs[0]!r}, and they name {now.database!r} of {now.user!r}. Nothing was done.",
                    cure="Type `invoke up` to start with the settings of now, or put the former ones back.",
                )
        return environment

    def url(self, service: str, target: int) -> str:
        """Return where a browser reaches port `target` of a service; empty when it is not published."""
        host, port = _published(self.config["services"].get(service, {}), target) or ("", 0)
        return f"http://{host}:{port}" if port else ""

    def services(self) -> list[Service]:
        """Return every service of the chosen layers as it is now."""
        seen = {each["Config"]["Labels"][f"{_LABEL}.service"]: each for each in self._inspect()}
        return [self._service(name, seen.get(name)) for name in self.config["services"]]

    def running(self, service: str) -> str:
        """Return the id of a service's running container; raises StackError when it is not running."""
        for row in self._containers():
            if row["service"] == service and row["state"] in ("running", "paused"):
                return row["id"]
        raise StackError(f"{service} is not running. Type `invoke up`, or `invoke status` to see what is.")

    def directories(self) -> dict[str, Path]:
        """Return where the services keep their state, as Compose resolved it, by name: pg, convex."""
        services = self.config["services"]
        return {
            name: Path(volume["source"])
            for name, (service, target) in _STATE.items()
            for volume in services.get(service, {}).get("volumes", [])
            if volume["type"] == "bind" and volume["target"] == target
        }

    def holders(self, path: Path) -> list[str]:
        """Return the running containers that mount `path` or something in it, those of this stack left out.

        Raises Refused when Docker is asked on another machine, and so cannot know who uses what is here.
        """
        self.check_machine()
        return [row["name"] for row in self._strangers(path, self._rows())]

    def disk_usage(self, path: Path) -> int | None:
        """Return the bytes below a directory that the user may not read; None when no image is here to ask."""
        return _kilobytes(self._inside(path, "du", "-sk", "{}"))

    def why_not(self) -> str:
        """Return why Docker cannot be used here; empty when it answers."""
        try:
            self._ask("version", "--format", "{{.Server.Version}}")
        except StackError as error:
            return str(error)
        return ""

    def platform(self) -> str:
        """Return the versions of Engine and Compose; raises StackError when one does not answer or is too old."""
        found = {name: self._ask(*asking).strip() for name, asking in _VERSIONS.items()}
        if problem := _too_old(found):
            raise problem
        return "Docker " + ", ".join(f"{name} {version}" for name, version in found.items())

    def check_machine(self) -> None:
        """Raise Refused when Docker is asked on another machine, where its bind mounts and ports would be."""
        address = self._ask("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()
        parts = urlsplit(address)
        if parts.scheme in ("tcp", "ssh", "http", "https") and parts.hostname not in ("localhost", "127.0.0.1"):
            raise Refused(
                f"Docker is asked on {address}: it would keep data/ there and open its ports there, not on this"
                " machine. Nothing was done.",
                cure="Type `docker context use default`, and unset DOCKER_HOST and DOCKER_CONTEXT.",
            )

    def unobtainable(self, image: str) -> str:
        """Return why an image's registry does not give it; empty when it does, which takes seconds."""
        exact = re.sub(r":[^:/@]+@", "@", image)  # the digest says it all
        asked = look(["docker", "manifest", "inspect", exact], timeout=20)
        return asked.stderr.strip() if asked.returncode else ""

    def check_name(self) -> None:
        """Raise Refused when the project's name belongs to another checkout."""
        self._containers()

    def check_ports(self, rows: list[dict[str, str]] | None = None) -> None:
        """Raise StackError when a port is taken by anything but this stack, naming the holder."""
        rows = self._rows() if rows is None else rows
        found = []
        for service in self.config["services"].values():
            for port in service.get("ports", []):
                if str(port.get("published", "")).isdigit() and port.get("protocol", "tcp") == "tcp":
                    address, number = port.get("host_ip") or "0.0.0.0", int(port["published"])  # noqa: S104
                    found.append(self._taken(address, number, rows))
        if any(found):
            raise _port_taken(" ".join(filter(None, found)))

    def read(self, *names: str) -> dict[str, str]:
        """Return files of the cluster as `places.read` does, with a container's eyes where the user may not look.

        Raises StackError when nobody here may.
        """
        path = self.directories().get("pg", self.root / "data" / "pg")
        try:
            return places.read(path, *names)
        except PermissionError:
            result = self._inside(path, "sh", "-c", _READ, "{}", *names)
        if not result or result.returncode:
            raise StackError(f"Nobody here can look into {path}.", cure="Type `invoke up --pull` for an image to look.")
        listing, *parts = result.stdout.split("\0")
        return {"": listing, **dict(zip(parts[::2], parts[1::2], strict=True))} if listing else {}

    def contents(self) -> places.Contents | None:
        """Return what is in the cluster's directory, with a container's eyes where the user may not look.

        None when nobody here may, or the data is not in a directory of this machine.
        """
        if not (path := self.directories().get("pg")):
            return None
        try:
            return places.contents(path)
        except PermissionError:
            listed = self._in_throwaway(path, "du", "-ak", "/data", mode="ro")
        if not listed or not listed.stdout:
            return None
        rows = [line.split("\t", 1) for line in listed.stdout.splitlines() if "\t/data/" in line]
        # It adds up what is in a directory; each file is to be counted once.
        above = {name.rpartition("/")[0] for _, name in rows}
        return places.counted(
            (name.removeprefix("/data/"), 0 if name in above else int(kilobytes) * 1024) for kilobytes, name in rows
        )

    def append(self, name: str, text: str) -> None:
        """Add lines to a text file of the cluster as root of a throw-away container, and let the server read it."""
        path = self.directories().get("pg", self.root / "data" / "pg")
        done = self._in_throwaway(path, "sh", "-c", _APPEND, "/data", name, text)
        if not done or done.returncode:
            why = done.stderr.strip() if done else "none of this stack's images is on this machine"
            raise StackError(
                f"{path / name} could not be written: {why}.", cure="Type `invoke up --pull` for an image."
            )
        # One that keeps ending would wait longer and longer before it sees that.
        anew = {"running": ("kill", "--signal", "HUP"), "restarting": ("restart",)}
        for row in self._containers():
            if row["service"] == POSTGRES and row["state"] in anew:
                look(["docker", *anew[row["state"]], row["id"]])

    def titles(self) -> list[str]:
        """Return what the processes of the running server call themselves."""
        return look(["docker", "top", self.running(POSTGRES)]).stdout.splitlines()

    def major(self) -> int:
        """Return the major version of PostgreSQL in the chosen image; 0 when nobody can tell."""
        image = self.config["services"].get(POSTGRES, {}).get("image", "")
        variables = look(["docker", "image", "inspect", "--format", "{{json .Config.Env}}", image]).stdout
        told = re.search(r'"PG_MAJOR=(\d+)', variables)
        return int(told[1]) if told else 0

    def other_major(self, made_by: str) -> tuple[str, str]:
        """Return why the image does not run on data of another major version, and the way from old to new."""
        return places.other_major(made_by, str(self.major()))

    def shared_memory(self) -> int | None:
        """Return the bytes that are free in the server's /dev/shm; when it does not run, what it will have."""
        service = self.config["services"].get(POSTGRES)
        if not service:
            return None
        for row in self._containers():
            if row["service"] == POSTGRES and row["state"] == "running":
                told = look(["docker", "exec", row["id"], "df", "-Pk", "/dev/shm"])  # noqa: S108 - it
                return int(told.stdout.split()[-3]) * 1024 if not told.returncode else None
        return int(service.get("shm_size", 64 << 20))

    # -- what changes something ---------------------------------------------------------------------------

    def start(self) -> Starting:
        """Begin to start everything; returns at once. Nothing is pulled: see `pull`."""
        self.check_machine()
        rows = self._rows()
        self._containers(rows)
        paths = [self.root / "data" / name for name in _STATE]
        for path in paths:
            for row in self._strangers(path, rows):
                cure = f"docker compose -p {row['project']} down" if row["project"] else f"docker stop {row['name']}"
                raise Refused(
                    f"{path} is in use by the running container {row['name']}, and a second server on the same data"
                    f" would destroy it. Nothing was started. Type `{cure}`, then `invoke up`."
                )
        self._foresee(rows)
        for path in paths:
            try:  # made here, it belongs to the user; made by Docker, to root
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StackError(
                    f"The directory {path} cannot be made: {error.strerror}. Nothing was started. Look at it, then type"
                    " `invoke up` again."
                ) from None
        starting = Starting(self.compose("up", "--detach", "--pull", "never"))
        _ = self.config  # worked out beside it
        return starting

    def missing_images(self) -> list[str]:
        """Return the images that this stack needs and this machine does not have."""
        images = {service["image"] for service in self.config["services"].values() if "image" in service}
        return sorted(
            image for image in images if "No such image" in look(["docker", "image", "inspect", image]).stderr
        )

    def pull(self, *, missing: bool = False) -> None:
        """Fetch the images, or the missing ones, with Compose's own progress. Raises StackError when that fails."""
        # By name: `--policy missing` would still ask a registry for whatever is tagged latest.
        wanted = self.missing_images() if missing else []
        names = [name for name, spec in self.config["services"].items() if spec.get("image") in wanted]
        if do(self.compose("pull", *names)):
            absent = ", ".join(self.missing_images()) or "some"
            raise StackError(
                f"Images could not be pulled ({absent} missing); the reason stands above, so the stack is not"
                " complete. Mend the network or the image's name (POSTGRES_IMAGE, CONVEX_BACKEND_IMAGE,"
                " CONVEX_DASHBOARD_IMAGE), then type `invoke up` again."
            )

    def stop(self) -> None:
        """Stop and remove containers and network, those of other layers too. Data stays."""
        deadline = time.monotonic() + FIRST_START
        # The image's entrypoint does not hear the stop signal until the cluster is made; Docker would wait, then kill.
        while self._first_start() and time.monotonic() < deadline:
            time.sleep(0.1)
        if do(self.compose("down", "--remove-orphans")):
            raise StackError("Compose could not stop everything; the reason stands above. Type `invoke status`.")

    def restart(self, service: str = "") -> None:
        """Restart one service, or all."""
        self._known(service)
        if not self._containers():
            raise StackError("Nothing is running that could be restarted. Type `invoke up`.")
        if do(self.compose("restart", *[service] * bool(service))):
            raise StackError("Compose could not restart; the reason stands above. Type `invoke logs` to see more.")

    def last_words(self, service: str, lines: int = 30) -> str:
        """Return the last log lines of a service: as many as show why the last try failed when the next has begun."""
        for row in self._containers():
            if row["service"] == service:
                result = look(["docker", "logs", "--tail", str(lines), row["id"]])
                return (result.stdout + result.stderr).rstrip()
        return ""

    def admin_key(self) -> str:
        """Return a new admin key of the Convex backend."""
        result = look(["docker", "exec", self.running(BACKEND), "./generate_admin_key.sh"])
        if result.returncode:
            raise StackError(f"The Convex backend made no admin key: {result.stderr.strip()}")
        return result.stdout.strip()

    def delete(self, path: Path) -> None:
        """Delete what is in a directory as root of a throw-away container; raises StackError when it cannot."""
        result = self._in_throwaway(path, "find", "/data", "-mindepth", "1", "-delete")
        if not result or result.returncode:
            why = result.stderr.strip() if result else "none of this stack's images is on this machine"
            raise StackError(
                f"{path} holds files that another user owns, and no container could delete them: {why}."
                f" The stack no longer uses that directory. Delete it with `sudo rm -rf '{path}'`."
            )

    # -- within -------------------------------------------------------------------------------------------

    def _foresee(self, rows: list[dict[str, str]]) -> None:
        """Raise StackError for what would fail the start and can be seen before it, in a millisecond.

        What the settings say decides whether Compose is asked what its files come to, which takes 0.17 s.
        """
        data = self.root / "data" / "pg"
        places.refuse_if_full(data)
        if any(self._taken(self.settings.bind_address, port, rows) for port in self.settings.ports.values()):
            self.check_ports(rows)
        with contextlib.suppress(OSError):  # on Linux it is the container's user's; its log tells the same
            made_by = (data / "PG_VERSION").read_text().strip()
            if made_by and made_by != str(MAJOR) and (runs := self.major()) and made_by != str(runs):
                why, cure = places.other_major(made_by, str(runs))
                raise StackError(f"{data} cannot be used: {why}. Nothing was started.", cure=cure)

    def _taken(self, address: str, port: int, rows: list[dict[str, str]]) -> str:
        """Return who holds a port, unless it is this stack or nobody."""
        holders = [row for row in rows if _publishes(row["ports"], address, port)]
        if any(row["project"] == self.settings.project for row in holders):
            return ""
        if holders:
            return f"Port {port} is taken by the container {holders[0]['name']}."
        # One that keeps ending has its port one moment and not the next.
        if any(row["project"] == self.settings.project and row["state"] == "restarting" for row in rows):
            return ""
        return ports.why_not_free(address, port)

    def _ask(self, *args: str) -> str:
        result = look(["docker", *args])
        if result.returncode:
            raise explain(result.stderr)
        return result.stdout

    def _rows(self) -> list[dict[str, str]]:
        """Return every container of this machine, in one question that costs 10 ms."""
        keys = {
            "id": ".ID",
            "name": ".Names",
            "state": ".State",
            "status": ".Status",
            "mounts": ".Mounts",
            "ports": ".Ports",
            "project": f'.Label "{_LABEL}.project"',
            "service": f'.Label "{_LABEL}.service"',
            "directory": f'.Label "{_LABEL}.project.working_dir"',
            "oneoff": f'.Label "{_LABEL}.oneoff"',
        }
        form = "\t".join(f"{{{{{key}}}}}" for key in keys.values())
        listed = self._ask("ps", "--all", "--no-trunc", "--format", form)
        return [dict(zip(keys, line.split("\t"), strict=True)) for line in listed.splitlines()]

    def _containers(self, rows: list[dict[str, str]] | None = None) -> list[dict[str, str]]:
        """Return this project's containers. Raises Refused when they belong to another checkout."""
        rows = [row for row in (self._rows() if rows is None else rows) if row["project"] == self.settings.project]
        for row in rows:
            # A directory that is gone is this checkout under its former name.
            other = Path(row["directory"])
            if other.is_dir() and not other.samefile(self.root):
                raise Refused(
                    f"The project name {self.settings.project} is in use by another checkout, {other}. Starting or"
                    " stopping here would take over its containers.",
                    cure="Type `invoke init --isolated` to give this checkout a name and ports of its own.",
                )
        return [row for row in rows if row["oneoff"] != "True"]

    def _strangers(self, path: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
        """Return the running containers that mount `path` or something in it and are not this project's."""
        return [
            row
            for row in rows
            if row["project"] != self.settings.project and row["state"] in ("running", "paused", "restarting")
            if any(f",{path}{end}" in f",{row['mounts']}," for end in (",", "/"))
        ]

    def _first_start(self) -> bool:
        """Return whether the image's entrypoint is still making the cluster, before the server takes its place."""
        return any(
            "/docker-entrypoint.sh" in look(["docker", "top", row["id"]]).stdout  # by its path: not init's argument
            for row in self._containers()
            if row["service"] == POSTGRES and row["status"].endswith("(health: starting)")
        )

    def _inspect(self) -> list[dict[str, Any]]:
        # Once there is a container for each service, one question is enough, until one of them is gone.
        if len(self._ids) == len(self.config["services"]):
            result = look(["docker", "inspect", *self._ids])
            if not result.returncode:
                return list(json.loads(result.stdout))
        self._ids = [row["id"] for row in self._containers()]
        # One that is removed between the two calls makes `inspect` fail, yet it prints the others.
        return list(json.loads(look(["docker", "inspect", *self._ids]).stdout or "[]")) if self._ids else []

    def _service(self, name: str, container: dict[str, Any] | None) -> Service:
        spec = self.config["services"][name]
        facts: dict[str, Any] = {
            "image": spec.get("image", ""),
            "data": next((path for leaf, path in self.directories().items() if _STATE[leaf][0] == name), None),
            "url": next((f"http://{host}:{port}" for host, port in map(_address, spec.get("ports", []))), ""),
            "one_shot": spec.get("restart", "no") == "no",
        }
        if name == POSTGRES and (endpoint := self.endpoint()):
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

    def _known(self, service: str) -> None:
        if service and service not in self.config["services"]:
            raise Refused(f"There is no service {service!r}. There are: {', '.join(self.config['services'])}.")

    def _inside(self, path: Path, *argv: str) -> subprocess.CompletedProcess[str] | None:
        """Look at a directory, {} in `argv`, from its running container or a throw-away one; None without an image."""
        running = {row["service"]: row["id"] for row in self._containers() if row["state"] == "running"}
        for name, (service, target) in _STATE.items():
            if service in running and self.directories().get(name) == path:
                asked = look(["docker", "exec", running[service], *(target if word == "{}" else word for word in argv)])
                if not asked.returncode:  # else it has just ended, as one does that keeps ending
                    return asked
        return self._in_throwaway(path, *("/data" if word == "{}" else word for word in argv), mode="ro")

    def _in_throwaway(self, path: Path, *argv: str, mode: str = "rw") -> subprocess.CompletedProcess[str] | None:
        for spec in self.config["services"].values():
            if look(["docker", "image", "inspect", spec.get("image", "")]).returncode == 0:
                source = str(path).replace('"', '""')  # --mount is read as one line of CSV
                mount = f'type=bind,"source={source}",target=/data' + (",readonly" if mode == "ro" else "")
                return look(
                    ["docker", "run", "--rm", "--pull", "never", "--network", "none", "--user", "0", "--mount", mount,
                     "--entrypoint", argv[0], spec["image"], *argv[1:]],
                    timeout=3600,
                )  # fmt: skip
        return None


class Starting:
    """`docker compose up` at work in the background, so that health can be watched meanwhile."""

    def __init__(self, argv: list[str]) -> None:
        self._said: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the child
        self._child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said)

    def done(self) -> bool:
        """Return whether everything was started. Raises StackError when Compose failed."""
        code = self._child.poll()
        if code:
            self._said.seek(0)
            raise explain(self._said.read())
        return code == 0

    def finish(self) -> None:
        """Wait for Compose to end."""
        self._child.wait()

    def abandon(self) -> None:
        """End Compose itself; what it has started keeps running."""
        if self._child.poll() is None:
            self._child.terminate()
            self._child.wait()


def explain(stderr: str) -> StackError:
    """Turn what Docker said into what happened, why, and what to type."""
    said = "\n".join(
        line for line in stderr.strip().splitlines() if not re.match(r"\s*(Container|Network|Image) ", line)
    )
    said = said or "Docker gave no reason"
    if "permission denied" in said and "sock" in said:
        return StackError(
            f"Docker's socket is there, but you may not talk to it. It said:\n{said}\n",
            cure="Type `sudo usermod -aG docker $USER`, log in again, and repeat the command.",
        )
    if re.search(_NO_ANSWER, said, re.IGNORECASE):
        names = [name for name in ("DOCKER_HOST", "DOCKER_CONTEXT") if os.environ.get(name)]
        led = f" or, since that is where it was asked, unset {' and '.join(names)}" if names else ""
        return StackError(
            f"Docker does not answer. It said:\n{said}\n",
            cure=f"Start it (Docker Desktop, or `sudo systemctl start docker`){led}, then repeat the command.",
        )
    if re.search(r"is not a docker command|unknown shorthand flag|unknown flag: --(?:project-directory|short)", said):
        return StackError(
            "This Docker has no Compose plugin, and the stack needs Compose 2.24 or newer.",
            cure="Install it (https://docs.docker.com/compose/install/), then repeat the command.",
        )
    if port := _IN_USE.search(said):
        names = look(["docker", "ps", "--filter", f"publish={port[1]}", "--format", "{{.Names}}"]).stdout.split()
        holder = f"the container {names[0]}" if names else ports.holder(int(port[1]))
        return _port_taken(f"Port {port[1]} is taken by {holder}.")
    found = {}
    with contextlib.suppress(StackError):
        found = {name: look(["docker", *asking]).stdout.strip() for name, asking in _VERSIONS.items()}
    return _too_old(found) or StackError(f"Docker refused:\n{said}\n", cure="Mend that, then repeat the command.")


def _too_old(found: dict[str, str]) -> StackError | None:
    for name, wanted in NEEDED.items():
        if _version(found.get(name, "")) < wanted:
            return StackError(
                f"Docker {name} {found[name]} is too old: the stack needs {wanted[0]}.{wanted[1]} or newer.",
                cure="Update it (https://docs.docker.com/engine/install/), then type the command again.",
            )
    return None


# The last is the client's since Engine 29.
_NO_ANSWER = (
    "Cannot connect to the Docker daemon|error during connect|docker daemon is not running"
    "|failed to connect to the docker API"
)
# "Bind for A:P failed: port is already allocated" (a container has it), "listen tcp4 A:P: bind: address already in
# use" (a process), and since Engine 28 "failed to bind host port A:P/tcp: address already in use".
_IN_USE = re.compile(r"(?:Bind for|listen tcp4?|host port(?: for)?) [\d.]+:(\d+)[^\n]*already (?:allocated|in use)")


def _port_taken(why: str) -> StackError:
    cure = "Stop that, or type `invoke init --isolated` to give this checkout free ports, then `invoke up`."
    return StackError(why, cure=cure)


def _publishes(ports: str, address: str, number: int) -> bool:
    """Return whether a container with these ports, as `docker ps` writes them, holds a port on an address."""
    everywhere = ("0.0.0.0", "::", "[::]", "")  # noqa: S104 - compared, not bound
    return any(
        int(first) <= number <= int(last or first) and (host == address or {host, address} & set(everywhere))
        for host, first, last in re.findall(r"(?:^|, )([^, ]*):(\d+)(?:-(\d+))?->[^,]*/tcp", ports)
    )


def _version(told: str) -> tuple[int, ...]:
    """Return major and minor as integers (`v2.26.1-4`, `5.0`); what cannot be read counts as new."""
    return tuple(int(number) for number in re.findall(r"\d+", told)[:2]) or (sys.maxsize,)


def _kilobytes(du: subprocess.CompletedProcess[str] | None) -> int | None:
    return int(du.stdout.split()[0]) * 1024 if du and du.stdout else None


def _published(service: dict[str, Any], target: int) -> tuple[str, int] | None:
    return next(
        (_address(port) for port in service.get("ports", []) if port["target"] == target and port.get("published")),
        None,
    )


def _address(port: dict[str, Any]) -> tuple[str, int]:
    host = port.get("host_ip", "")
    return "localhost" if host in ("", "0.0.0.0", "127.0.0.1") else host, int(port.get("published") or 0)  # noqa: S104


def _moment(stamp: str) -> float:
    """Return Docker's time stamp in seconds; it has nanoseconds, which Python 3.10 does not read."""
    whole, fraction, zone = re.fullmatch(r"([^.]+?)(\.\d+)?(Z|[+-]\d\d:\d\d)", stamp).groups()  # type: ignore[union-attr]
    return datetime.fromisoformat(whole + zone.replace("Z", "+00:00")).timestamp() + float(fraction or 0)


def projects() -> dict[str, Path]:
    """Return the Compose projects that have containers, and the directory of each; empty without Docker."""
    keys = f'{{{{.Label "{_LABEL}.project"}}}}\t{{{{.Label "{_LABEL}.project.working_dir"}}}}'
    try:
        listed = look(["docker", "ps", "--all", "--filter", f"label={_LABEL}.project", "--format", keys]).stdout
    except StackError:
        return {}
    return {name: Path(directory) for name, directory in (line.split("\t") for line in listed.splitlines())}
