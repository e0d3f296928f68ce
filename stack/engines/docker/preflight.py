"""What would fail a start and can be seen before it."""

from __future__ import annotations

import contextlib
import json
import time

from stack.engines.docker import mountable
from stack.engines.docker.containers import Containers
from stack.engines.docker.holders import Holders
from stack.engines.docker.images import Images, too_new_image
from stack.engines.docker.plan import Plan
from stack.engines.docker.published import publishes
from stack.engines.docker.volumes import Volumes
from stack.ground import disk, ports, regular
from stack.ground.errors import Refused, StackError
from stack.ground.run import look
from stack.ground.talk import say
from stack.server import pgdata
from stack.server.programs import MAJOR

LEFT = (
    "data/convex/db.sqlite3 has the tables of Convex from before they came to PostgreSQL, and nothing uses it now. To"
    " carry them over, type `npx convex export --path old.zip` with the former STACK_LAYERS, and with these `npx convex"
    " import --replace-all old.zip`; then delete that file."
)
PROXY_SETTLES = 15.0
"""Seconds that the program by which Docker forwards a port is given: it begins before its container and ends after."""


class Preflight:
    """The look before a start."""

    def __init__(self, plan: Plan, containers: Containers, others: Holders, images: Images, volumes: Volumes) -> None:
        self.plan = plan
        self.containers = containers
        self.others = others
        self.images = images
        self.volumes = volumes
        self._patient_until = 0.0  # for one start; every look after that is as it is

    def check_start(self, freed: int | None = None) -> None:
        """Raise StackError for what would fail a start and can be seen before it, in milliseconds.

        `freed` is how many bytes are deleted before that start; None when nothing is.
        """
        self.check(freed)

    def check_ports(self, rows: list[dict[str, str]] | None = None) -> None:
        """Raise StackError when a port is taken by anything but this stack, naming the holder."""
        rows = self.containers.rows() if rows is None else rows
        wanted = self.plan.wanted()
        self._refuse_twice(wanted)
        if found := [why for port in wanted if (why := self._taken(*port, rows))]:
            raise ports.taken(" ".join(found))
        if found := [why for port in wanted if (why := self._taken_beside(*port, rows))]:
            raise ports.taken(" ".join(found), runs=any(self._publishes(*port, rows) for port in wanted))

    def _look_at_convex(self) -> None:
        """Say what Convex does not use when its tables are in PostgreSQL. Raises Refused when the user's are there."""
        database = self.plan.convex_database()
        if database and database == self.plan.settings.database:
            raise Refused(
                f"Convex would keep its tables in the database {database}, named after its instance, which is your own."
                " Nothing was started.",
                cure="Set another CONVEX_INSTANCE_NAME, or another POSTGRES_DB, then type `invoke up`.",
            )
        if database and disk.is_seen(self.plan.root / "data" / "convex" / "db.sqlite3"):
            say(LEFT)

    def _foresee(self, rows: list[dict[str, str]], freed: int | None) -> None:
        """Raise StackError for what would fail the start and can be seen before it, in a millisecond.

        What the settings say decides whether Compose is asked what its files come to, which takes 0.17 s.
        """
        data = self.plan.places().get("pg")
        disk.refuse_if_full(data or self.plan.root / "data", freed or 0)
        address, numbers = self.plan.settings.bind_address, self.plan.settings.ports.values()
        if len(set(numbers)) < len(numbers) or any(
            self._taken(address, port, rows) or self._taken_beside(address, port, rows) for port in numbers
        ):
            self._refuse_taken_ports(rows)
        if freed is not None:  # the data goes; what the image makes of an empty directory is the question
            if (runs := self.images.major()) > MAJOR:
                why, cure = too_new_image(runs)
                raise StackError(why, cure=cure)
            return
        if not data:
            return
        with contextlib.suppress(OSError):  # on Linux it is the container's user's; its log tells the same
            made_by = pgdata.made_by({pgdata.VERSION: regular.text(data, pgdata.VERSION)})
            if made_by and made_by != str(MAJOR) and (runs := self.images.major()) and made_by != str(runs):
                why, cure = pgdata.other_major(made_by, str(runs))
                raise StackError(f"{data} cannot be used: {why}. Nothing was started.", cure=cure)

    def _refuse_taken_ports(self, rows: list[dict[str, str]]) -> None:
        """Raise StackError when a port is taken; of a stack that has its ports, say who else answers to localhost."""
        try:
            self.check_ports(rows)
        except Refused:
            raise
        except StackError as error:
            wanted = self.plan.wanted()
            if any(self._taken(*port, rows) or not self._publishes(*port, rows) for port in wanted):
                raise
            say(str(error))

    def _refuse_twice(self, wanted: list[tuple[str, int]]) -> None:
        """Raise Refused when two services want one port; that of a layer that is off is nobody's."""
        numbers = [number for _, number in wanted]
        for number in numbers:
            names = [name for name, port in self.plan.settings.ports.items() if port == number]
            if numbers.count(number) > 1 and len(names) > 1:
                raise Refused(
                    f"{' and '.join(names)} are the same port, {number}. Nothing was started.",
                    cure=f"Give each its own in {self.plan.root / '.env'}, then type `invoke up`.",
                )

    def _publishes(self, address: str, port: int, rows: list[dict[str, str]]) -> bool:
        """Return whether this stack has a port already."""
        return any(
            row["project"] == self.plan.settings.project and publishes(row["ports"], address, port) for row in rows
        )

    def _taken_beside(self, address: str, port: int, rows: list[dict[str, str]]) -> str:
        """Return who answers on ::1, and so to the name localhost, in the place of this stack; empty when nobody."""
        if ports.reached_at(address) != "127.0.0.1":
            return ""
        holders = [row for row in rows if publishes(row["ports"], ports.LOCALHOST_TOO, port)]
        if any(row["project"] == self.plan.settings.project for row in holders):
            return ""
        if holders:
            return ports.taken_beside(port, f"the container {holders[0]['name']}")
        ours_everywhere = address in ports.EVERYWHERE and self._publishes(address, port, rows)
        if ours_everywhere and ports.is_one_server(port, unseen=True):
            return ""  # the program that forwards to our container, where that is not told by `docker ps`
        return ports.also_at_localhost(address, port)

    def _taken(self, address: str, port: int, rows: list[dict[str, str]]) -> str:
        """Return who holds a port, unless it is this stack or nobody.

        While a container has just ended, or one of ours comes up as its command was killed and Compose goes on, the
        program that forwards the port holds it for a moment.
        """
        while why := self._held(address, port, rows):
            self._patient_until = self._patient_until or time.monotonic() + PROXY_SETTLES
            own = [row["state"] for row in rows if row["project"] == self.plan.settings.project]
            passes = "docker-proxy" in why or "created" in own
            if not passes or time.monotonic() > self._patient_until:
                break
            time.sleep(0.1)
            rows = self.containers.rows()
        return why

    def _held(self, address: str, port: int, rows: list[dict[str, str]]) -> str:
        """Return who holds a port at this moment, unless it is this stack or nobody."""
        holders = [row for row in rows if publishes(row["ports"], address, port)]
        if any(row["project"] == self.plan.settings.project for row in holders):
            return ""
        if holders:
            return f"Port {port} is taken by the container {holders[0]['name']}."
        # One that keeps ending has its port one moment and not the next.
        if any(row["project"] == self.plan.settings.project and row["state"] == "restarting" for row in rows):
            return ""
        why = ports.why_not_free(address, port)
        return "" if why and self._has(address, port, rows) else why

    def _has(self, address: str, port: int, rows: list[dict[str, str]]) -> bool:
        """Return whether this stack has a port that `docker ps` left out: podman's lists one of two adjacent ones."""
        own = [row["id"] for row in rows if row["project"] == self.plan.settings.project and row["state"] == "running"]
        told = look(["docker", "inspect", "--format", "{{json .HostConfig.PortBindings}}", *own]).stdout if own else ""
        bindings = [
            each
            for line in filter(str.strip, told.splitlines())
            for few in (json.loads(line) or {}).values()
            for each in few
        ]
        return any(
            each["HostPort"] == str(port) and publishes(f"{each['HostIp']}:{port}->1/tcp", address, port)
            for each in bindings
        )

    def check(self, freed: int | None = None) -> list[dict[str, str]]:
        """Do that, and return every container of this machine."""
        mountable.refuse_unbindable(self.plan.root)
        self.containers.check_machine()
        rows = self.containers.settled()
        self.containers.own(rows)
        self.containers.refuse_if_former(rows)
        disk.refuse_if_linked(self.plan.root / "data", *self.plan.guarded())
        self.volumes.refuse_others()
        found = self.others.on([*self.plan.guarded(), *self.plan.guarded_volumes()], rows, starting=True)
        for path in (path for path, holders in found.items() if holders):
            stops = dict.fromkeys(holder.stop for holders in found.values() for holder in holders)
            raise Refused(
                f"{path} is in use by {found[path][0].who}, and a second server on the same data would destroy it."
                " Nothing was started.",
                cure=f"Type `{' && '.join(stops)}`, then `invoke up`.",
            )
        self._look_at_convex()
        self._foresee(rows, freed)
        return rows
