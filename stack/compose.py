"""Docker: the only room that spells `docker` and `docker compose`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any
from urllib.parse import urlsplit

from stack import guards, identity, places, ports, regular
from stack.process import Refused, StackError, do, look, look_raw
from stack.programs import MAJOR
from stack.service import Command, Endpoint, Running, Service, conninfo, paused
from stack.settings import ROOT, Settings, layer_files
from stack.talk import say

POSTGRES, BACKEND, DASHBOARD = "postgres", "convex-backend", "convex-dashboard"
# Each directory of data/: which service keeps its state there, and where it sees it.
_STATE = {"convex": (BACKEND, "/convex/data"), "pg": (POSTGRES, "/var/lib/postgresql/data")}
_SERVICES = [service for service, _ in _STATE.values()]
NEEDED = {"Engine": (25, 0), "Compose": (2, 24)}
"""The oldest versions that serve: a health check's start_interval, and `!override` in a layer."""
_VERSIONS = {"Engine": ("version", "--format", "{{.Server.Version}}"), "Compose": ("compose", "version", "--short")}
FIRST_START = 20.0
"""Seconds that `down` gives a first start to end by itself; it takes two or three."""
_LABEL = "com.docker.compose"
_RUNS, _ENDED = ("running", "paused", "restarting"), ("created", "exited", "dead")
_REMOVAL = 30.0
"""Seconds that a container which is being removed is waited for."""
# What Docker says of a container that somebody else is removing at this moment.
_VANISHING = re.compile(r"No such container|marked for removal|removal of container .* is already in progress|is dead")
_TAR_HEADER = 512
"""Bytes before the file in what `docker cp FILE -` prints."""
# The client takes user and database from what its container was started with.
_AS_CONFIGURED = 'PGUSER="$POSTGRES_USER" PGDATABASE="$POSTGRES_DB" exec "$@"'
# A listing, then name and text of each file that is there, all between zero bytes.
_READ = r"""cd "$0" && ls -A && for f; do [ ! -f "$f" ] || { printf '\0%s\0' "$f"; tr -d '\0' <"$f"; }; done"""
_IDENTITY = r"""pg_controldata && printf '\0' && cat "$PGDATA/postmaster.pid" """
_APPEND = r"""[ -z "$3" ] || [ ! -s "$0/$1" ] || mv "$0/$1" "$0/$1.damaged"; printf '%s\n' "$2" >>"$0/$1" """


class Docker:
    """The Compose files of one checkout, with the chosen layers."""

    name = "docker"
    sees_files = False
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
        # A directory: only one room deletes files, and an empty one is taken away by rmdir.
        self._stopping = root / "data" / f".stopping-{settings.project}"
        self._told = False

    # -- command lines ------------------------------------------------------------------------------------

    def compose(self, *args: str) -> list[str]:
        """Return the command line of Compose: project directory, `.env` and files are never left to chance.

        Raises Refused when the file of a layer does not exist.
        """
        files = layer_files(self.root, self.settings.layers)
        command = ["docker", "compose", "--project-directory", str(self.root)]
        command += ["--env-file", str(self.settings.env_file)]
        return [*command, *(word for file in files for word in ("-f", str(file))), *args]

    def client(
        self, *argv: str, stdin: bool = False, terminal: bool = False, name: str = "",
        into: Mapping[str, str] = MappingProxyType({}),
    ) -> Command:  # fmt: skip
        """Return the command line that runs a PostgreSQL client program beside the server, under a name there.

        Raises StackError when the server's container is not running.
        """
        flags = ["-it"] if terminal else ["-i"] if stdin else []
        flags += ["--env", f"PGAPPNAME={name}"] if name else []
        server = self.running(POSTGRES)
        self._refuse_if_changed(json.loads(self._ask("inspect", "--format", "{{json .Config.Env}}", server)))
        if into:
            argv = (argv[0], f"--dbname={conninfo(into)}", *argv[1:])
        elif argv[0] == "pg_restore" and "-f" not in argv:
            argv = (argv[0], "--dbname=", *argv[1:])  # that of PGDATABASE, which it does not take by itself
        return Command(["docker", "exec", *flags, server, "sh", "-c", _AS_CONFIGURED, "sh", *argv], {})

    def logs(self, service: str = "", *, follow: bool = False, tail: str = "all") -> list[str]:
        """Return the command line that shows the logs."""
        if not self._containers():
            self._tell_of_former()
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

    def addresses(self) -> list[str]:
        """Return the addresses on which the layers publish the database's port."""
        published = self.config["services"].get(POSTGRES, {}).get("ports", [])
        return [port.get("host_ip") or "0.0.0.0" for port in published if port["target"] == 5432]  # noqa: S104

    def database(self) -> Running:
        """Return how the running server is reached, by what its container was started with: 30 ms, not Compose's 170.

        Raises StackError when it does not run.
        """
        form = "{{json .Config.Env}}\t{{json .Mounts}}\t{{json .NetworkSettings.Ports}}"
        server = self.running(POSTGRES)
        told = self._ask("inspect", "--format", form, server).split("\t")
        variables, mounts, published_ports = map(json.loads, told)
        environment: dict[str, str] = self._refuse_if_changed(variables)
        bindings = [Path(each["Source"]) for each in mounts if each["Destination"] == _STATE["pg"][1]]
        bound = published_ports.get("5432/tcp") or []
        published = [{"host_ip": each["HostIp"], "published": each["HostPort"]} for each in bound]
        if not published or not bindings:
            raise StackError(
                "postgres has just stopped, or it has no port on this machine, or no directory there. Type"
                " `invoke status`, then `invoke up`."
            )
        user, password, database = (environment[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
        return Running(Endpoint(*_address(published[0]), user, password, database), bindings[0], server)

    def identifier(self, server: str, *, surely: bool = False) -> identity.Identity:
        """Return what tells the server in a container from all others; raises StackError when nobody can tell.

        Who may reads its files; to others Docker itself hands one out, in 10 ms. Where they are elsewhere, `surely`
        asks PostgreSQL's own program in the container, which takes 60.
        """
        if surely:
            told = look(["docker", "exec", "--env", "LC_ALL=C", server, "sh", "-c", _IDENTITY])
            control, _, lock = told.stdout.partition("\0")
            if found := re.search(r"system identifier: +(\d+)", control):
                return identity.told(lock, int(found[1]))
            raise StackError(
                f"The container of postgres does not tell which cluster it has: {told.stderr.strip()}",
                cure="Type `invoke doctor`.",
            )
        with contextlib.suppress(StackError):
            return identity.seen(self.root / "data" / "pg")
        packed = look_raw(["docker", "cp", f"{server}:{_STATE['pg'][1]}/{identity.LOCK}", "-"])
        return identity.told(packed[_TAR_HEADER:].partition(b"\0")[0].decode(errors="replace"))

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
        found = _published(self.config["services"].get(service, {}), target)
        return _page(*found) if found else ""

    def services(self) -> list[Service]:
        """Return every service of the chosen layers as it is now."""
        seen = {each["Config"]["Labels"][f"{_LABEL}.service"]: each for each in self._inspect()}
        return [self._service(name, seen.get(name)) for name in self.config["services"]]

    def running(self, service: str) -> str:
        """Return the id of a service's running container; raises StackError when it is not running."""
        rows = self._rows()
        for row in self._containers(rows):
            if row["service"] == service and row["state"] == "paused":
                raise paused(service)
            if row["service"] == service and row["state"] == "running":
                return row["id"]
        self._refuse_if_former(rows)
        raise StackError(f"{service} is not running. Type `invoke up`, or `invoke status` to see what is.")

    def directories(self) -> dict[str, Path]:
        """Return where the services keep their state, as Compose resolved it, by name: pg, convex."""
        found = {name: self._keeps(name) for name in _STATE}
        return {name: Path(mount["source"]) for name, mount in found.items() if mount and mount["type"] == "bind"}

    def volumes(self) -> dict[str, str]:
        """Return the services that keep their state in a volume of Docker's, as words, by the directory's name."""
        words = {}
        for name, (service, _) in _STATE.items():
            mount = self._keeps(name)
            if service in self.config["services"] and (not mount or mount["type"] == "volume"):
                known = self.config.get("volumes") or {}
                source = (mount or {}).get("source", "")
                volume = known.get(source, {}).get("name", source)
                words[name] = (
                    f"{service} keeps its data in {f'the volume {volume}' if volume else 'a volume without a name'}"
                )
        return words

    def holders(self, path: Path) -> list[guards.Holder]:
        """Return who is at work on `path` or something in it, this stack left out.

        Raises Refused when Docker is asked on another machine, and so cannot know who uses what is here.
        """
        self.check_machine()
        return self._holders([path], self._rows())[path]

    def check_seen(self, services: list[Service]) -> None:
        """Raise StackError when one of these runs and its files are not where this machine has its directory."""
        running = [each.name for each in services if each.state == "running"]
        for name, path in self.directories().items():
            service = _STATE[name][0]
            if service in running and not self._seen(name, path) and self._sees(name):
                raise StackError(
                    f"{service} runs, and its files are not in {path} on this machine. Docker runs on"
                    f" {self._machine()} and keeps them in a folder of that name there, where nothing here can back"
                    " them up or delete them.",
                    cure="Type `invoke down`. Then move this checkout into a folder that Docker shares with its machine"
                    " (Colima and Lima: your home; Docker Desktop: Settings, Resources, File sharing), or start it on"
                    " the machine where Docker runs; then `invoke up`.",
                )

    def check_deletable(self, path: Path) -> None:
        """Raise Refused when a directory is empty here and Docker's machine has something under its name."""
        try:
            if any(path.iterdir()):
                return
        except OSError:
            return
        self._refuse_if_unseen()
        there = self._in_throwaway(path, "ls", "-A", "/data", mode="ro")
        if there and there.stdout.strip():
            raise Refused(
                f"{path} is empty on this machine, and Docker, which runs on {self._machine()}, has files under that"
                " name: they cannot be deleted from here. Nothing was touched.",
                cure="Move this checkout into a folder that Docker shares with its machine, or type the command there.",
            )

    def _refuse_if_unseen(self) -> None:
        try:
            self.check_seen(self.services())
        except StackError as error:
            raise Refused(f"{error.what} Nothing was touched.", cure=error.cure) from None

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
        """Raise Refused when the project's name belongs to another checkout, or this one runs under another name."""
        rows = self._rows()
        self._containers(rows)
        self._refuse_if_former(rows)

    def check_ports(self, rows: list[dict[str, str]] | None = None) -> None:
        """Raise StackError when a port is taken by anything but this stack, naming the holder."""
        rows = self._rows() if rows is None else rows
        wanted = self._wanted()
        if found := [why for port in wanted if (why := self._taken(*port, rows))]:
            raise ports.taken(" ".join(found))
        if found := [why for port in wanted if (why := self._taken_beside(*port, rows))]:
            raise ports.taken(" ".join(found), runs=any(self._publishes(*port, rows) for port in wanted))

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

    def append(self, name: str, text: str, *, instead: bool = False) -> None:
        """Add lines to a text file of the cluster as root of a throw-away container, and let the server read it."""
        path = self.directories().get("pg", self.root / "data" / "pg")
        done = self._in_throwaway(path, "sh", "-c", _APPEND, "/data", name, text, "instead" * instead)
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

    def check_start(self, freed: int | None = None) -> None:
        """Raise StackError for what would fail a start and can be seen before it, in milliseconds.

        `freed` is how many bytes are deleted before that start; None when nothing is.
        """
        self._checked(freed)

    def _checked(self, freed: int | None = None) -> list[dict[str, str]]:
        """Do that, and return every container of this machine."""
        guards.refuse_unbindable(self.root)
        self.check_machine()
        rows = self._settled()
        self._containers(rows)
        self._refuse_if_former(rows)
        guards.refuse_if_linked(self.root / "data", *self._places())
        found = self._holders(self._guarded(), rows, starting=True)
        for path in (path for path, holders in found.items() if holders):
            stops = dict.fromkeys(holder.stop for holders in found.values() for holder in holders)
            raise Refused(
                f"{path} is in use by {found[path][0].who}, and a second server on the same data would destroy it."
                " Nothing was started.",
                cure=f"Type `{' && '.join(stops)}`, then `invoke up`.",
            )
        self._foresee(rows, freed)
        return rows

    def resume(self, rows: list[dict[str, str]] | None = None) -> None:
        """Let services go on that somebody has paused, which Docker does not start; nothing when none is."""
        held = {row["id"]: row["service"] for row in self._containers(rows) if row["state"] == "paused"}
        if not held:
            return
        say(f"{' and '.join(sorted(held.values()))} {'was' if len(held) == 1 else 'were'} paused, and can go on now.")
        told = look(["docker", "unpause", *held])
        if told.returncode and any(row["state"] == "paused" for row in self._containers()):
            raise explain(told.stderr)

    def start(self) -> Starting:
        """Begin to start everything; returns at once. Nothing is pulled: see `pull`."""
        self._finish_stop()
        self.resume(self._checked())
        for path in self._places():
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
                f"Images could not be pulled ({absent} missing); the reason stands above. Mend the network"
                " or the image's name (POSTGRES_IMAGE, CONVEX_BACKEND_IMAGE, CONVEX_DASHBOARD_IMAGE), then type the"
                " command again."
            )

    def stop(self) -> None:
        """Stop and remove containers and network, those of other layers and of a former name too. Data stays."""
        rows = self._rows()
        self._containers(rows)
        if not (self.root / "data").is_symlink():  # the mark would be another checkout's
            with contextlib.suppress(OSError):  # a disk without room; then nobody finishes what is interrupted
                self._stopping.mkdir()
        deadline = time.monotonic() + FIRST_START
        # The image's entrypoint does not hear the stop signal until the cluster is made; Docker would wait, then kill.
        seen = rows
        while self._first_start(seen) and time.monotonic() < deadline:
            time.sleep(0.1)
            seen = self._rows()
        self._stop_former(rows)
        code = do(self.compose("down", "--remove-orphans"))
        if code and self._vanishing():
            code = do(self.compose("down", "--remove-orphans"))
        if code >= 0 and code != 130:  # it has ended by itself
            with contextlib.suppress(OSError):
                self._stopping.rmdir()
        if code:
            raise StackError("Compose could not stop everything; the reason stands above. Type `invoke status`.")

    def restart(self, service: str = "") -> None:
        """Restart one service, or all."""
        self._known(service)
        self._finish_stop()
        rows = self._rows()
        if not self._containers(rows):
            self._refuse_if_former(rows)
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

    def _foresee(self, rows: list[dict[str, str]], freed: int | None) -> None:
        """Raise StackError for what would fail the start and can be seen before it, in a millisecond.

        What the settings say decides whether Compose is asked what its files come to, which takes 0.17 s.
        """
        data = self.root / "data" / "pg"
        places.refuse_if_full(data, freed or 0)
        address, numbers = self.settings.bind_address, self.settings.ports.values()
        if any(self._taken(address, port, rows) or self._taken_beside(address, port, rows) for port in numbers):
            self._refuse_taken_ports(rows)
        if freed is not None:  # the data goes; what the image makes of an empty directory is the question
            if (runs := self.major()) > MAJOR:
                raise StackError(
                    f"The image is PostgreSQL {runs}, which keeps its data elsewhere than this stack's {MAJOR}.",
                    cure=f"Set POSTGRES_IMAGE back to PostgreSQL {MAJOR}.",
                )
            return
        with contextlib.suppress(OSError):  # on Linux it is the container's user's; its log tells the same
            made_by = places.made_by({places.VERSION: regular.text(data, places.VERSION)})
            if made_by and made_by != str(MAJOR) and (runs := self.major()) and made_by != str(runs):
                why, cure = places.other_major(made_by, str(runs))
                raise StackError(f"{data} cannot be used: {why}. Nothing was started.", cure=cure)

    def _refuse_taken_ports(self, rows: list[dict[str, str]]) -> None:
        """Raise StackError when a port is taken; of a stack that has its ports, say who else answers to localhost."""
        try:
            self.check_ports(rows)
        except StackError as error:
            wanted = self._wanted()
            if any(self._taken(*port, rows) or not self._publishes(*port, rows) for port in wanted):
                raise
            say(str(error))

    def _wanted(self) -> list[tuple[str, int]]:
        """Return the addresses and TCP ports that the chosen layers publish."""
        return [
            (port.get("host_ip") or "0.0.0.0", int(port["published"]))  # noqa: S104
            for service in self.config["services"].values()
            for port in service.get("ports", [])
            if str(port.get("published", "")).isdigit() and port.get("protocol", "tcp") == "tcp"
        ]

    def _publishes(self, address: str, port: int, rows: list[dict[str, str]]) -> bool:
        """Return whether this stack has a port already."""
        return any(row["project"] == self.settings.project and _publishes(row["ports"], address, port) for row in rows)

    def _taken_beside(self, address: str, port: int, rows: list[dict[str, str]]) -> str:
        """Return who answers on ::1, and so to the name localhost, in the place of this stack; empty when nobody."""
        if ports.reached_at(address) != "127.0.0.1":
            return ""
        holders = [row for row in rows if _publishes(row["ports"], ports.LOCALHOST_TOO, port)]
        if any(row["project"] == self.settings.project for row in holders):
            return ""
        if holders:
            return ports.taken_beside(port, f"the container {holders[0]['name']}")
        ours_everywhere = address in ports.EVERYWHERE and self._publishes(address, port, rows)
        if ours_everywhere and ports.is_one_server(port, unseen=True):
            return ""  # the program that forwards to our container, where that is not told by `docker ps`
        return ports.also_at_localhost(address, port)

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
            "files": f'.Label "{_LABEL}.project.config_files"',
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
            if row["directory"] and other.is_dir() and not other.samefile(self.root):
                raise Refused(
                    f"The project name {self.settings.project} is in use by another checkout, {other}. Starting or"
                    " stopping here would take over its containers.",
                    cure="Type `invoke init --isolated` to give this checkout a name and ports of its own.",
                )
        return [row for row in rows if row["oneoff"] != "True"]

    # -- who else has the data ----------------------------------------------------------------------------

    def _places(self) -> list[Path]:
        return [self.root / "data" / name for name in _STATE]

    def _guarded(self) -> list[Path]:
        """Return the directories that a start would use: where they always are, and where Compose puts them.

        Compose, which takes 0.17 s, is asked only when its files may put them elsewhere.
        """
        texts = [Path(file).read_text(errors="replace") for file in self.compose()[7::2]]
        usual = "".join(texts)
        for name, (_, target) in _STATE.items():
            usual = usual.replace(f"    volumes:\n      - ./data/{name}:{target}\n", "")
        if any(word in usual for word in ("volumes", "extends", "include", "replicas", "scale")):
            self._refuse_twins()
            return list(dict.fromkeys([*self._places(), *self.directories().values()]))
        return self._places()

    def _refuse_twins(self) -> None:
        """Raise Refused when the layers give one directory to two servers."""
        owners: dict[str, str] = {}
        for name, spec in self.config["services"].items():
            copies = int(spec.get("scale") or (spec.get("deploy") or {}).get("replicas") or 1)
            for volume in spec.get("volumes", []):
                at_home = volume["target"] in (target for _, target in _STATE.values())
                if volume["type"] != "bind" or volume.get("read_only") or not at_home:
                    continue
                place = os.path.realpath(volume["source"])
                if place in owners or copies > 1:
                    raise Refused(
                        f"The layers give {volume['source']} to two servers, {owners.get(place, name)} and {name}, and"
                        " the second would destroy the data of the first. Nothing was started.",
                        cure="Give one of them a directory of its own in its layer, then type `invoke up`.",
                    )
                owners[place] = name

    def _holders(
        self, paths: list[Path], rows: list[dict[str, str]], *, starting: bool = False
    ) -> dict[Path, list[guards.Holder]]:
        """Return for each directory who else is at work on it: containers, and PostgreSQL processes without one.

        A container of this project counts when it stays beside the one that is about to be started.
        """
        found: dict[Path, list[guards.Holder]] = {path: [] for path in paths}
        unknown = []
        for row in rows:
            if row["state"] not in _RUNS or (self._is_own(row) and not starting):
                continue  # `down` stops what is this checkout's
            if row["project"] == self.settings.project and row["oneoff"] != "True" and row["service"] in _SERVICES:
                continue
            if None in [self._judge(row, path, found) for path in paths]:
                unknown.append(row)
        for row, path in self._look_closer(unknown, paths):
            self._add(row, path, found)
        if not any(self._is_own(row) and row["service"] == POSTGRES and row["state"] not in _ENDED for row in rows):
            for path in paths:
                if not found[path] and path.name != "convex" and (process := guards.server(path)):
                    found[path].append(process)
        return found

    def _is_own(self, row: dict[str, str]) -> bool:
        return row["project"] == self.settings.project or _is_of(row, self.root)

    def _judge(self, row: dict[str, str], path: Path, found: dict[Path, list[guards.Holder]]) -> bool | None:
        """Return whether a container has a directory, by its line in `docker ps`; None when that does not tell."""
        labelled = any(
            row["service"] == service and row["directory"] and guards.same(Path(row["directory"], "data", name), path)
            for name, (service, _) in _STATE.items()
        )
        said = [True] if labelled else [guards.holds(source, path) for source in guards.mounts(row["mounts"])]
        if True in said:
            self._add(row, path, found)
        return None if None in said and True not in said else True in said

    def _add(self, row: dict[str, str], path: Path, found: dict[Path, list[guards.Holder]]) -> None:
        own = row["project"] == self.settings.project
        if own and row["oneoff"] != "True" and row["service"] in self.config["services"]:
            return  # a layer gives it the directory on purpose
        found[path].append(guards.Holder(f"the running container {row['name']}", f"docker stop {row['name']}"))

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
                if any(guards.holds(word, path) for word in words) or (
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

    def _former(self, rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
        """Return this checkout's containers that have another project's name, by that name."""
        found: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            if row["project"] not in ("", self.settings.project) and _is_of(row, self.root):
                found.setdefault(row["project"], []).append(row)
        return found

    def _tell_of_former(self, rows: list[dict[str, str]] | None = None) -> None:
        if not self._told and (words := self._former_words(self._rows() if rows is None else rows)):
            say(f"{words} `invoke down` stops them too.")
        self._told = True

    def _former_words(self, rows: list[dict[str, str]]) -> str:
        running = [row for each in self._former(rows).values() for row in each if row["state"] in _RUNS]
        if not running:
            return ""
        names, projects = (sorted({row[key] for row in running}) for key in ("name", "project"))
        return (
            f"Containers of this checkout run under another project name than {self.settings.project}, which it has"
            f" now: {', '.join(names)} (of {', '.join(projects)})."
        )

    def _refuse_if_former(self, rows: list[dict[str, str]]) -> None:
        """Raise Refused when this checkout's containers run under another name."""
        if words := self._former_words(rows):
            raise Refused(
                f"{words} Nothing was done.",
                cure="Type `invoke down`, which stops them too, then `invoke up`; or put the former"
                " COMPOSE_PROJECT_NAME back.",
            )

    def _stop_former(self, rows: list[dict[str, str]]) -> None:
        """Stop and remove this checkout's containers of other project names, and nobody else's."""
        for project, own in self._former(rows).items():
            names = [row["name"] for row in own]
            say(f"Stopping {', '.join(names)} too: they are this checkout's, under the project name {project}.")
            everybodys = [row for row in rows if row["project"] == project]
            if len(everybodys) > len(own):  # another checkout has that name as well
                failed = do(["docker", "stop", *names]) or do(["docker", "rm", *names])
            else:
                failed = do(self.compose("--project-name", project, "down", "--remove-orphans"))
            if failed:
                raise StackError(f"Docker could not stop {', '.join(names)}; the reason stands above.")

    # -- what is on its way out -----------------------------------------------------------------------------

    def _finish_stop(self) -> None:
        """Run a `down` to its end that was interrupted: Docker may still have a stop to deliver."""
        if self._stopping.is_dir() and not (self.root / "data").is_symlink():
            say("Finishing the `down` that was interrupted.")
            self.stop()

    def _settled(self) -> list[dict[str, str]]:
        """Return every container, once none of this project is being stopped or removed, or after half a minute."""
        deadline = time.monotonic() + _REMOVAL
        while True:
            rows = self._rows()
            leaving = [row for row in rows if row["project"] == self.settings.project and row["state"] == "removing"]
            if not leaving or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        ours = [row for row in rows if row["project"] == self.settings.project and row["state"] in _RUNS]
        told = _ending() if ours else set()
        ending = [row["name"] for row in ours if row["id"] in told]
        if not ending:
            return rows
        say(f"Docker is still stopping {', '.join(ending)}; waiting until that has ended.")
        look(["docker", "stop", *ending], timeout=600)
        return self._rows()

    def _vanishing(self) -> bool:
        """Wait for what is being removed; return whether there was anything."""
        before = self._rows()
        return before != self._settled() or any(row["state"] == "removing" for row in before)

    # -- where the state is -----------------------------------------------------------------------------------

    def _home(self, name: str) -> str:
        """Return the directory that a service keeps its state in, as the container sees it."""
        service, target = _STATE[name]
        environment = self.config["services"].get(service, {}).get("environment") or {}
        return (environment.get("PGDATA") or target) if name == "pg" else target

    def _keeps(self, name: str) -> dict[str, Any] | None:
        """Return the mount that a service's state is in, as Compose resolved it; None without one."""
        home = self._home(name)
        spec = self.config["services"].get(_STATE[name][0], {})
        temporary = [{"type": "tmpfs", "target": each.split(":")[0]} for each in spec.get("tmpfs") or []]
        around = [
            mount
            for mount in [*spec.get("volumes", []), *temporary]
            if home == mount["target"] or home.startswith(mount["target"].rstrip("/") + "/")
        ]
        return max(around, key=lambda mount: len(mount["target"]), default=None)

    def _seen(self, name: str, path: Path) -> bool:
        """Return whether a running service's files are in its directory on this side, where this user may look."""
        mount = self._keeps(name)
        within = self._home(name).removeprefix(mount["target"] if mount else "").strip("/")
        try:
            if name == "pg":
                (path / within / "postmaster.pid").stat()
            return any(path.iterdir())
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _sees(self, name: str) -> bool:
        """Return whether a running service sees files in its directory."""
        asked = look(["docker", "exec", self.running(_STATE[name][0]), "ls", "-A", self._home(name)])
        return bool(asked.stdout.strip())

    def _machine(self) -> str:
        told = look(["docker", "info", "--format", "{{.Name}} ({{.OperatingSystem}})"])
        return f"{told.stdout.strip() or 'a machine of its own'}"

    def _first_start(self, rows: list[dict[str, str]]) -> bool:
        """Return whether the image's entrypoint is still making the cluster, before the server takes its place."""
        return any(
            "/docker-entrypoint.sh" in look(["docker", "top", row["id"]]).stdout  # by its path: not init's argument
            for row in rows
            if self._is_own(row) and row["service"] == POSTGRES and row["status"].endswith("(health: starting)")
        )

    def _inspect(self) -> list[dict[str, Any]]:
        # Once there is a container for each service, one question is enough, until one of them is gone.
        if len(self._ids) == len(self.config["services"]):
            result = look(["docker", "inspect", *self._ids])
            if not result.returncode:
                return list(json.loads(result.stdout))
        rows = self._rows()
        self._ids = [row["id"] for row in self._containers(rows)]
        if not self._ids:
            self._tell_of_former(rows)
        # One that is removed between the two calls makes `inspect` fail, yet it prints the others.
        return list(json.loads(look(["docker", "inspect", *self._ids]).stdout or "[]")) if self._ids else []

    def _service(self, name: str, container: dict[str, Any] | None) -> Service:
        spec = self.config["services"][name]
        facts: dict[str, Any] = {
            "image": spec.get("image", ""),
            "data": next((path for leaf, path in self.directories().items() if _STATE[leaf][0] == name), None),
            "url": next((_page(*_address(port)) for port in spec.get("ports", [])), ""),
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
        self._argv = argv
        self._deadline = time.monotonic() + _REMOVAL
        self._begin()

    def _begin(self) -> None:
        self._said: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the child
        self._child = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said)

    def done(self) -> bool:
        """Return whether everything was started. Raises StackError when Compose failed."""
        code = self._child.poll()
        if code:
            self._said.seek(0)
            said = self._said.read()
            if _VANISHING.search(said) and time.monotonic() < self._deadline:
                time.sleep(0.3)  # a former container is just being removed by somebody else
                self._begin()
                return False
            raise explain(said)
        return code == 0

    def finish(self) -> None:
        """Wait for Compose to end."""
        while not self.done():
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
    if found := _IN_USE.search(said):
        address, port = found[1].strip("[]"), int(found[2])
        listed = look(["docker", "ps", "--filter", f"publish={port}", "--format", "{{.Names}}\t{{.Ports}}"]).stdout
        rows = [line.split("\t") for line in listed.splitlines()]
        names = [name for name, published in rows if _publishes(published, address, port)]
        holder = f"the container {names[0]}" if names else ports.holder(port, address)
        return ports.taken(f"Port {port} is taken by {holder}.")
    versions = {}
    with contextlib.suppress(StackError):
        versions = {name: look(["docker", *asking]).stdout.strip() for name, asking in _VERSIONS.items()}
    return _too_old(versions) or StackError(f"Docker refused:\n{said}\n", cure="Mend that, then repeat the command.")


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
_IN_USE = re.compile(
    r"(?:Bind for|listen tcp[46]?|host port(?: for)?) "
    r"([\d.]+|\[[\da-f:]*\]|[\da-f:]*):(\d+)[^\n]*already (?:allocated|in use)"
)


def _publishes(ports: str, address: str, number: int) -> bool:
    """Return whether a container with these ports, as `docker ps` writes them, holds a port on an address.

    IPv6 is written `:::5433` and `::1:5433` by older clients, `[::]:5433` and `[::1]:5433` by newer ones; podman leaves
    the address out where it is all of them.
    """
    return any(
        int(first) <= number <= int(last or first) and _overlap(host.strip("[]"), address)
        for host, first, last in re.findall(r"(?:^|, )([^, ]*?):(\d+)(?:-(\d+))?->[^,]*/tcp", ports)
    )


def _overlap(one: str, other: str) -> bool:
    """Return whether two addresses have one in common, on which no two servers can listen."""
    if (":" in one) != (":" in other) and one and other:
        return False
    return one == other or not {one, other}.isdisjoint(ports.EVERYWHERE)


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
    return ports.reached_at(port.get("host_ip", "")), int(port.get("published") or 0)


def _page(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


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


# A kill with another signal is no end: HUP and USR1 are used to talk to a program.
_ENDS = {str(number) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)}


def _is_of(row: dict[str, str], root: Path) -> bool:
    """Return whether a container was started from a checkout's own Compose files, whatever its project's name."""
    files = {Path(file).name for file in row["files"].split(",")} - {""}
    ours = not files or files & {"docker-compose.yml", "docker-compose.dev.yml"}  # and not an application's beside them
    return bool(row["directory"] and ours) and guards.same(row["directory"], root)


def running_from(root: Path) -> list[str]:
    """Return the names of the containers that run from a checkout, under any project name; none without Docker."""
    keys = [".Names", f'.Label "{_LABEL}.project.working_dir"', f'.Label "{_LABEL}.project.config_files"']
    form = "\t".join(f"{{{{{key}}}}}" for key in keys)
    try:
        listed = look(["docker", "ps", "--filter", f"label={_LABEL}.project", "--format", form]).stdout
    except StackError:
        return []
    rows = [dict(zip(("name", "directory", "files"), line.split("\t"), strict=True)) for line in listed.splitlines()]
    return [row["name"] for row in rows if _is_of(row, root)]


def projects() -> dict[str, Path]:
    """Return the Compose projects that have containers, and the directory of each; empty without Docker."""
    keys = f'{{{{.Label "{_LABEL}.project"}}}}\t{{{{.Label "{_LABEL}.project.working_dir"}}}}'
    try:
        listed = look(["docker", "ps", "--all", "--filter", f"label={_LABEL}.project", "--format", keys]).stdout
    except StackError:
        return {}
    return {name: Path(directory) for name, directory in (line.split("\t") for line in listed.splitlines())}
