"""What can go wrong with Docker alone, for `doctor`."""

from __future__ import annotations

from stack.engines.checks import Findings, check, failed, ok, skipped, warning
from stack.engines.docker.containers import Containers
from stack.engines.docker.data import Data
from stack.engines.docker.images import Images, too_new_image
from stack.engines.docker.plan import POSTGRES, Plan
from stack.engines.docker.preflight import Preflight
from stack.engines.docker.words import VERSIONS, too_old
from stack.ground.errors import Refused, StackError
from stack.ground.run import look
from stack.ground.talk import human
from stack.server import pgdata
from stack.server.programs import MAJOR

SHARED_MEMORY = 64 << 20
"""Bytes: Docker's default, which parallel queries outgrow (docker-library/postgres#416)."""


class Health:
    """The checks of one checkout's containers."""

    def __init__(self, plan: Plan, containers: Containers, images: Images, preflight: Preflight, data: Data) -> None:
        self._plan, self._containers = plan, containers
        self._images, self._preflight, self._data = images, preflight, data

    @check("env file")
    def machine(self) -> Findings:
        """Docker is asked on this machine, and not on another one, where its bind mounts and ports would be.

        `docker context use default`, or unset `DOCKER_HOST` and `DOCKER_CONTEXT`.
        """
        try:
            self._containers.check_machine()
        except Refused:
            raise
        except StackError:
            return  # there is no Docker; the next check says so
        yield ok("this one")

    @check("env file")
    def platform(self) -> Findings:
        """What runs the stack answers, lets you in and is new enough: Docker 25 or podman, Compose 2.24; PostgreSQL 17.

        The message names what is missing: the program, the daemon, your permission, or the version.
        """
        found = {name: self._containers.ask(*asking).strip() for name, asking in VERSIONS.items()}
        if problem := too_old(found):
            raise problem
        yield ok("docker engine: Docker " + ", ".join(f"{name} {version}" for name, version in found.items()))

    @check("address")
    def images(self) -> Findings:
        """Every image is here, or its registry gives it.

        `invoke up` pulls what is missing; else mend the network, or the image's name in `.env`.
        """
        missing = self._images.missing()
        for image in missing:
            if why := self._images.why_not(image):
                yield failed(
                    f"{image} is not here, and its registry does not give it: {why.rstrip('.')}.",
                    f"Mend the network, or the name{self._images.settings_of([image])}.",
                )
            else:
                yield warning(f"{image} is not here yet.", "`invoke up` pulls it.")
        if not missing:
            yield ok("everything that is started is here")

    @check("address")
    def project_name(self) -> Findings:
        """No other checkout uses this one's project name, and this one does not run under another name.

        `invoke init --isolated` in one of them; `invoke down` for a name that was changed.
        """
        rows = self._containers.rows()
        self._containers.own(rows)
        self._containers.refuse_if_former(rows)
        self._preflight.volumes.refuse_others()
        yield ok(f"{self._plan.settings.project} is this checkout's own")

    @check("address", "project name")
    def ports(self) -> Findings:
        """Every port is free or held by this stack, on ::1 (`localhost`) too; else the message names who holds it.

        Stop that, or `invoke init --isolated` for other ports.
        """
        self._preflight.check_ports()
        yield ok("each is free, or this stack's")

    @check("images", "project name", "directories")
    def data_version(self) -> Findings:
        """The data was made by the major version of PostgreSQL that is started.

        Dump with the old and load with the new; the message has the commands.
        """
        try:
            there = self._data.read(pgdata.VERSION)
        except StackError as error:
            yield skipped(error.what)
            return
        version, runs = pgdata.made_by(there), self._images.major()
        if runs > MAJOR:
            yield failed(*too_new_image(runs))
        elif version and runs and version != str(runs):
            why, cure = pgdata.other_major(version, str(runs))
            yield failed(f"{self._data.place()} cannot be used: {why}.", cure)
        elif there and not version:
            yield ok(f"{pgdata.lack(pgdata.VERSION, there)}, so nothing tells; see the next line")
        else:
            yield ok(f"made by PostgreSQL {version}" if version else "there is no data yet")

    @check("address", "project name")
    def shared_memory(self) -> Findings:
        """The server has more shared memory (`/dev/shm`) than Docker's 64 MB, which parallel queries outgrow.

        Give the service `postgres` an `shm_size: 256mb`.
        """
        size = self._shared_memory()
        if size is not None and size <= SHARED_MEMORY:
            message = f"The server has {human(size)} of shared memory for parallel queries."
            yield warning(message, "Give the service postgres `shm_size: 256mb`.")
        elif size:
            yield ok(human(size))

    def _shared_memory(self) -> int | None:
        """Return the bytes that are free in the server's /dev/shm; when it does not run, what it will have."""
        service = self._plan.config["services"].get(POSTGRES)
        if not service:
            return None
        for row in self._containers.own():
            if row["service"] == POSTGRES and row["state"] == "running":
                told = look(["docker", "exec", row["id"], "df", "-Pk", "/dev/shm"])  # noqa: S108 - it
                return int(told.stdout.split()[-3]) * 1024 if not told.returncode else None
        return int(service.get("shm_size", 64 << 20))
