"""Docker: the containers of the Compose files, started, stopped and talked to."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stack.engines.base import NO_OTHER, Engine, Service
from stack.engines.docker.containers import Containers
from stack.engines.docker.convex import Convex
from stack.engines.docker.copies import Copies
from stack.engines.docker.data import Data
from stack.engines.docker.holders import Holders
from stack.engines.docker.images import Images
from stack.engines.docker.inside import Inside
from stack.engines.docker.plan import POSTGRES, Plan
from stack.engines.docker.preflight import Preflight
from stack.engines.docker.starting import Starting
from stack.engines.docker.volumes import Volumes
from stack.engines.docker.words import PODMAN, VERSIONS, explain
from stack.ground.errors import StackError
from stack.ground.run import Command, do, look
from stack.ground.settings import ROOT, Settings
from stack.ground.talk import say
from stack.server.address import Endpoint, conninfo

if TYPE_CHECKING:
    from stack.engines.checks import Check

FIRST_START = 20.0
"""Seconds that `down` gives a first start to end by itself; it takes two or three."""
NEXT_CHECK = 15.0
"""Seconds within which Docker checks a service anew that was paused: the interval in the Compose files is ten."""
_UP = ("up", "--detach", "--pull", "never")
# The client takes user and database from what its container was started with.
_AS_CONFIGURED = 'PGUSER="$POSTGRES_USER" PGDATABASE="$POSTGRES_DB" exec "$@"'
# On podman an exec fails, whatever its program's exit code, when that ended before it had read all of its stdin.
_FED = f"[ -e /run/.containerenv ] || {_AS_CONFIGURED}; ({_AS_CONFIGURED}); code=$?; cat >/dev/null; exit $code"


class Docker(Engine):
    """The Compose files of one checkout, with the chosen layers."""

    name = "docker"
    sees_files = False
    data: Data
    images: Images
    inside: Inside
    convex: Convex
    copies: Copies

    def __init__(self, settings: Settings, root: Path = ROOT) -> None:
        super().__init__(settings, root)
        self.plan = Plan(settings, root)
        self.containers = Containers(self.plan)
        self.images = Images(self.plan)
        self.inside = Inside(self.plan, self.containers)
        self.convex = Convex(self.containers)
        others = Holders(self.plan, self.containers)
        self.volumes = Volumes(self.plan, self.containers)
        self.data = Data(self.plan, self.containers, others, self.volumes)
        self.copies = Copies(self.containers, self.images, self.inside, self.data)
        self.preflight = Preflight(self.plan, self.containers, others, self.images, self.volumes)
        # A directory: only one room deletes files, and an empty one is taken away by rmdir.
        self._stopping = root / "data" / f".stopping-{settings.project}"

    @property
    def lacks(self) -> str:
        """Nothing: it has all."""
        return "Docker has all that there is."

    def services(self) -> list[Service]:
        """Return every service of the chosen layers as it is now."""
        return self.containers.services()

    def endpoint(self) -> Endpoint | None:
        """Return the database's address as Compose resolved it; None when no layer has a database."""
        return self.plan.endpoint()

    def addresses(self) -> list[str]:
        """Return the addresses on which the layers publish the database's port."""
        return self.plan.addresses()

    def page(self, service: str, port: int) -> str:
        """Return where a browser reaches a service's port; empty when it is not published."""
        return self.plan.page_of(service, port)

    def last_words(self, service: str, lines: int = 30) -> str:
        """Return the last log lines of a service: as many as show why the last try failed when the next has begun."""
        return self.containers.last_words(service, lines)

    def check_start(self, freed: int | None = None) -> None:
        """Raise StackError for what would fail a start and can be seen before it, in milliseconds."""
        self.preflight.check_start(freed)

    def check_seen(self, services: list[Service]) -> None:
        """Raise StackError when one of these runs and its files are not where this machine has its directory."""
        self.data.check_seen(services)

    def release(self) -> tuple[str, str]:
        """Return the version of PostgreSQL in the chosen image, and how to have a newer one."""
        return self.images.release(), "Set POSTGRES_IMAGE=postgres:17-trixie in `.env`, then type `invoke up --pull`."

    def checks(self) -> list[Check]:
        """Return what can go wrong with Docker alone."""
        from stack.engines.checks import checks_in
        from stack.engines.docker.checks import Health

        return checks_in(Health(self.plan, self.containers, self.images, self.preflight, self.data))

    def client(
        self, *argv: str, stdin: bool = False, terminal: bool = False, name: str = "",
        into: Mapping[str, str] = NO_OTHER,
    ) -> Command:  # fmt: skip
        """Return the command line that runs a PostgreSQL client program beside the server, under a name there.

        Raises StackError when the server's container is not running.
        """
        flags = ["-it"] if terminal else ["-i"] if stdin else []
        flags += ["--env", f"PGAPPNAME={name}"] if name else []
        server = self.containers.running(POSTGRES)
        self.plan.refuse_if_changed(
            json.loads(self.containers.ask("inspect", "--format", "{{json .Config.Env}}", server))
        )
        if into:
            argv = (argv[0], f"--dbname={conninfo(into)}", *argv[1:])
        elif argv[0] == "pg_restore" and "-f" not in argv:
            argv = (argv[0], "--dbname=", *argv[1:])  # that of PGDATABASE, which it does not take by itself
        script = _FED if flags[:1] == ["-i"] else _AS_CONFIGURED
        return Command(["docker", "exec", *flags, server, "sh", "-c", script, "sh", *argv], {})

    def logs(self, service: str = "", *, follow: bool = False, tail: str = "all") -> list[str]:
        """Return the command line that shows the logs."""
        if not self.containers.own():
            self.containers.tell_of_former()
        self.plan.known(service)
        return self.plan.compose("logs", "--tail", tail, *["--follow"] * follow, *[service] * bool(service))

    def why_not(self) -> str:
        """Return why Docker cannot be used here; empty when it answers."""
        try:
            self.containers.ask("version", "--format", "{{.Server.Version}}")
        except StackError as error:
            return str(error)
        return ""

    def start(self) -> Starting:
        """Begin to start everything; returns at once. Nothing is pulled: see `pull`."""
        self._finish_stop()
        self.resume(self.preflight.check())
        for path in self.plan.places().values():
            try:  # made here, it belongs to the user; made by Docker, to root
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StackError(
                    f"The directory {path} cannot be made: {error.strerror}. Nothing was started. Look at it, then type"
                    " `invoke up` again."
                ) from None
        if self.plan.guarded_volumes():
            self.volumes.make()
        argv = self.plan.compose(*_UP)
        starting = Starting(argv, self.images.explain, self._for_podman)
        _ = self.plan.config  # worked out beside it
        return starting

    def _for_podman(self, said: str) -> tuple[list[str], str] | None:
        """Return how to start on podman, for which Compose refuses a key of the health checks; None for another reason.

        It says so of every engine whose API is older than 1.44, and podman's is 1.41 (containers/podman#26505).
        """
        if "start_interval" not in said or not look(["docker", *VERSIONS["Engine"]]).stdout.startswith(PODMAN):
            return None
        return self.plan.compose("-f", "-", *_UP), self.plan.without_start_interval()

    def stop(self) -> None:
        """Stop and remove containers and network, those of other layers and of a former name too. Data stays."""
        rows = self.containers.rows()
        self.containers.own(rows)
        if not (self.root / "data").is_symlink():  # the mark would be another checkout's
            with contextlib.suppress(OSError):  # a disk without room; then nobody finishes what is interrupted
                self._stopping.mkdir()
        deadline = time.monotonic() + FIRST_START
        # The image's entrypoint does not hear the stop signal until the cluster is made; Docker would wait, then kill.
        seen = rows
        while self.containers.first_start(seen) and time.monotonic() < deadline:
            time.sleep(0.1)
            seen = self.containers.rows()
        self._stop_former(rows)
        code = do(self.plan.down())
        if code and self.containers.vanishing():
            code = do(self.plan.down())
        if code >= 0 and code != 130:  # it has ended by itself
            with contextlib.suppress(OSError):
                self._stopping.rmdir()
        if code:
            raise StackError("Compose could not stop everything; the reason stands above. Type `invoke status`.")

    def restart(self, service: str = "") -> None:
        """Restart one service, or all."""
        self.plan.known(service)
        self._finish_stop()
        rows = self.containers.rows()
        if not self.containers.own(rows):
            self.containers.refuse_if_former(rows)
            raise StackError("Nothing is running that could be restarted. Type `invoke up`.")
        if do(self.plan.compose("restart", *[service] * bool(service))):
            raise StackError("Compose could not restart; the reason stands above. Type `invoke logs` to see more.")

    def _stop_former(self, rows: list[dict[str, str]]) -> None:
        """Stop and remove this checkout's containers of other project names, and nobody else's."""
        for project, own in self.containers.former(rows).items():
            names = [row["name"] for row in own]
            say(f"Stopping {', '.join(names)} too: they are this checkout's, under the project name {project}.")
            everybodys = [row for row in rows if row["project"] == project]
            if len(everybodys) > len(own):  # another checkout has that name as well
                for verb in ("stop", "rm"):  # both print the names, on stdout
                    if (told := look(["docker", verb, *names], timeout=300)).returncode:
                        raise explain(told.stderr)
            elif do(self.plan.down("--project-name", project)):
                raise StackError(f"Docker could not stop {', '.join(names)}; the reason stands above.")

    def _finish_stop(self) -> None:
        """Run a `down` to its end that was interrupted: Docker may still have a stop to deliver."""
        if self._stopping.is_dir() and not (self.root / "data").is_symlink():
            say("Finishing the `down` that was interrupted.")
            self.stop()

    def resume(self, rows: list[dict[str, str]] | None = None) -> None:
        """Let services go on that somebody has paused, which Docker does not start; nothing when none is."""
        held = {row["id"]: row["service"] for row in self.containers.own(rows) if row["state"] == "paused"}
        if not held:
            return
        say(f"{' and '.join(sorted(held.values()))} {'was' if len(held) == 1 else 'were'} paused, and can go on now.")
        told = look(["docker", "unpause", *held])
        if told.returncode and any(row["state"] == "paused" for row in self.containers.own()):
            raise explain(told.stderr)
        # Until its next check Docker calls unhealthy what was paused (moby/moby#46203), and starts nothing beside it.
        deadline = time.monotonic() + NEXT_CHECK
        while any(each.health == "unhealthy" for each in self.services()) and time.monotonic() < deadline:
            time.sleep(0.2)
