"""No Docker: PostgreSQL 17 as a process of its own, with the same address, login and settings as the container."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from stack.engines.base import NO_OTHER, Engine, Service
from stack.engines.checks import Check, checks_in
from stack.engines.embedded import rights, shutdown
from stack.engines.embedded.checks import Health, other_major
from stack.engines.embedded.copies import Copies
from stack.engines.embedded.data import Data
from stack.engines.embedded.home import Home
from stack.engines.embedded.inside import Inside
from stack.engines.embedded.make import Maker
from stack.engines.embedded.postmaster import PATIENCE, Postmaster, Server
from stack.ground import disk, ports, regular
from stack.ground.errors import Refused, StackError
from stack.ground.layers import layer_files
from stack.ground.run import Command
from stack.ground.settings import ROOT, Settings
from stack.ground.talk import say
from stack.server import pgdata, processes
from stack.server.address import LIBPQ, Endpoint, client_options
from stack.server.programs import MAJOR, WHEEL, installed, release

POSTGRES = "postgres"
STOP_PATIENCE = 60.0
"""Seconds that a fast shutdown may take; the container's stop_grace_period."""


class Programs:
    """PostgreSQL's programs, which are installed when they are first needed."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def missing(self) -> list[str]:
        """Return nothing: the programs are installed when they are first needed."""
        return []

    def pull(self, *, missing: bool = False) -> None:
        """Install the programs, if they are not there."""
        del missing
        say(f"PostgreSQL's programs are in {self.home.programs}.")


class Embedded(Engine):
    """PostgreSQL 17 in data/embedded of one checkout. It has no Convex."""

    name = "embedded"
    data: Data
    images: Programs
    inside: Inside
    copies: Copies

    def __init__(self, settings: Settings, root: Path = ROOT, *, instead: str = "") -> None:
        super().__init__(settings, root)
        self.home = Home(settings, root)
        self.postmaster = Postmaster(self.home)
        self.data = Data(self.home, self.postmaster)
        self.inside = Inside(self.home, self.postmaster)
        self.images = Programs(self.home)
        self.copies = Copies(self.home, self.inside, self.data)
        self.maker = Maker(self.home, self.data)
        self._instead = instead

    @property
    def lacks(self) -> str:
        """There is no Convex."""
        return "There is no Convex without Docker: only PostgreSQL runs here. Install Docker for Convex."

    def client(
        self, *argv: str, stdin: bool = False, terminal: bool = False, name: str = "",
        into: Mapping[str, str] = NO_OTHER,
    ) -> Command:  # fmt: skip
        """Return the command line of a client program; it logs in through the private socket."""
        del stdin, terminal  # a program on this machine has the user's own
        connection = client_options(argv, {**self.inside.running().endpoint.parameters(), **into})
        return Command(
            [str(self.home.programs / argv[0]), *connection, *argv[1:]], {**dict.fromkeys(LIBPQ, ""), "PGAPPNAME": name}
        )

    def logs(self, service: str = "", *, follow: bool = False, tail: str = "all") -> list[str]:
        """Return the command line that shows the server's log."""
        _only_postgres(service)
        self._refuse_if_closed()
        if not os.path.lexists(self.home.log):
            raise StackError("There is no log: the server was never started here. Type `invoke up`.")
        try:
            regular.opened(self.home.directory, self.home.log.name).close()
        except OSError as error:
            raise self.home.no_log(f"cannot be read: {error.strerror}") from None
        return ["tail", "-n", "+1" if tail == "all" else tail, *["-F"] * follow, str(self.home.log)]

    def check_ports(self) -> None:
        """Raise StackError when the port is taken by anything but this server, naming the holder."""
        if self.postmaster.process():
            self._refuse_if_taken(ports.also_at_localhost(self.settings.bind_address, self.home.port))
            return
        deadline = time.monotonic() + 2
        # The last session of a server that was killed may hold its port a little longer.
        while (why := ports.why_not_free(self.settings.bind_address, self.home.port)) and time.monotonic() < deadline:
            if not (self.home.directory / "postmaster.pid").exists():
                break
            time.sleep(0.05)
        if why and (left := shutdown.remains(self.home.directory)):
            raise StackError(
                f"{why} {shutdown.what_remains(left, self.home.directory)}",
                cure="Type `invoke down`, which ends it, then `invoke up`.",
            )
        self._refuse_if_taken(why or ports.also_at_localhost(self.settings.bind_address, self.home.port))

    def _refuse_if_taken(self, why: str) -> None:
        if why:
            raise ports.taken(why, runs=bool(self.postmaster.process()))

    def endpoint(self) -> Endpoint:
        """Return the database's address."""
        host = ports.reached_at(self.settings.bind_address)
        return Endpoint(host, self.home.port, self.settings.user, self.settings.password, self.settings.database)

    def checks(self) -> list[Check]:
        """Return what can go wrong with a server of this machine alone."""
        return checks_in(Health(self.home, self.data, self.check_ports, self._instead))

    def addresses(self) -> list[str]:
        """Return the one address that the server listens on."""
        return [self.settings.bind_address]

    def services(self) -> list[Service]:
        """Return the one service there is."""
        state = self.postmaster.process()
        health = ("healthy" if state.status == "ready" else "starting") if state else ""
        return [
            Service(
                POSTGRES,
                state=("paused" if state.stopped else "running") if state else "not started",
                health=health,
                image=f"postgresql:{MAJOR}",
                url=self.endpoint().url(),
                data=self.home.directory,
            )
        ]

    def last_words(self, service: str, lines: int = 15) -> str:
        """Return the last lines of the server's log."""
        del service
        return "\n".join(shutdown.logged(self.home.log).splitlines()[-lines:])

    def release(self) -> tuple[str, str]:
        """Return the version of PostgreSQL's programs, if they are here, and how to have newer ones."""
        if not (place := installed(self.root, self.settings.bin_dir)):
            return "", ""
        how = f"Upgrade what is in {place}"
        if place == self.root / WHEEL:
            how = "Install the system's PostgreSQL 17, which is taken before the wheel"
        return release(place / "postgres"), f"{how}, then type `invoke restart`, or `invoke up` when it is down."

    def check_start(self, freed: int | None = None) -> None:
        """Raise StackError for what would fail a start and can be seen before it."""
        disk.refuse_if_linked(self.home.directory.parent, self.home.directory)
        self._refuse_if_closed()
        self._refuse_if_held()
        self.check_ports()
        disk.refuse_if_full(self.home.directory, freed or 0)
        self.home.way_to(self.home.directory if self.home.directory.is_dir() else self.home.directory.parent)

    def start(self) -> Server:
        """Make the cluster if there is none, and start the server; returns at once."""
        if any(self.home.root.glob("docker-compose*.yml")):
            layer_files(self.home.root, self.home.settings.layers)  # a mistake that is told with Docker too
        disk.refuse_if_linked(self.home.directory.parent, self.home.directory)
        self._refuse_if_closed()
        state = self.postmaster.process()
        if state and (state.port, state.address) != (self.home.port, self.settings.bind_address):
            if state.port != self.home.port and (why := ports.why_not_free(self.settings.bind_address, self.home.port)):
                raise ports.taken(why)  # and it goes on where it is
            say(f"The server listens on {state.address}:{state.port}; starting it again with the settings of today.")
            self.stop()
        elif state and state.uid == 0 and self.home.account:
            self.home.way_to(self.home.directory)  # if that is impossible, it goes on as it is
            say(
                f"The server has root's rights; starting it again as the account {self.home.account.name}, which has"
                " none."
            )
            self.stop()
        elif state:
            self.resume()
            if why := ports.also_at_localhost(self.settings.bind_address, self.home.port):
                say(str(ports.taken(why, runs=True)))
            self.maker.admit()
            return Server(self.postmaster)
        self._refuse_if_held()
        self.check_ports()
        disk.refuse_if_full(self.home.directory)
        self._refuse_if_blocked()
        if not (self.home.directory / "PG_VERSION").exists():
            self.maker.create()
        elif self.home.account and self.home.directory.stat().st_uid != self.home.account.uid:
            self.home.way_to(self.home.directory)
            rights.give(self.home.directory, self.home.account)
        made_by = pgdata.made_by({pgdata.VERSION: self.home.text(pgdata.VERSION)})
        if not made_by:
            raise self.maker.no_cluster()
        if made_by != str(MAJOR):
            why, cure = other_major(self.home, made_by)
            raise StackError(f"{self.home.directory} cannot be used: {why}. Nothing was changed.", cure=cure)
        self.maker.admit()
        return Server(self.postmaster)

    def stop(self) -> None:
        """Stop the server, fast: sessions end, nothing that was committed is lost.

        One that does not stop by itself is ended at once, from which the next start recovers as from a power cut.
        """
        self.resume()
        state = self.postmaster.process()
        if state:
            clean = shutdown.stop(state.pid, self.home.log, STOP_PATIENCE)
        elif left := shutdown.remains(self.home.directory):
            clean = shutdown.end_remains(left, self.home.directory, self.home.log, STOP_PATIENCE)
        elif child := self.postmaster.starting():  # it has no lock file yet
            clean = shutdown.stop(child.pid, self.home.log, STOP_PATIENCE)
        else:
            return
        if self.postmaster.child:
            self.postmaster.child.wait()
        if self.home.socket_directory != self.home.directory:
            with contextlib.suppress(OSError):  # what a server that did not stop cleanly has left in it stays
                self.home.socket_directory.rmdir()
        say("PostgreSQL has stopped." if clean else "PostgreSQL has ended.")

    def restart(self, service: str = "") -> None:
        """Stop the server and start it again."""
        _only_postgres(service or POSTGRES)
        self.resume()
        self.postmaster.running()
        self.stop()
        self.start().finish()

    def _refuse_if_closed(self) -> None:
        """Raise Refused when this user may not use the cluster's directory."""
        if not self.home.directory.is_dir() or os.access(self.home.directory, os.R_OK | os.W_OK | os.X_OK):
            return
        if self.home.directory.stat().st_uid != os.geteuid():
            why, cure = processes.closed(self.home.directory)
            raise Refused(f"{why} Nothing was done.", cure=cure)
        cure = f"Type `chmod 700 {shlex.quote(str(self.home.directory))}`, then the command again."
        raise Refused(f"{self.home.directory} is not open to you. Nothing was done.", cure=cure)

    def _refuse_if_held(self) -> None:
        """Raise Refused when a server that is not ours is at work on the cluster.

        What is left of our own after a crash is no more to be told from it in its last moments, so it is given time.
        """
        deadline = time.monotonic() + PATIENCE
        while (found := self.data.holders(self.home.directory)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for holder in found:
            raise Refused(
                f"{self.home.directory} is in use by {holder.who}, and a second server on the same data would destroy"
                " it. Nothing was started.",
                cure=f"Type `{holder.stop}`, then `invoke up`.",
            )

    def _refuse_if_blocked(self) -> None:
        """Raise StackError when a pipe, say, is in the place of a file: the server would wait for ever to read it."""
        for name in ("postmaster.pid", pgdata.VERSION, "global/pg_control", *self.data.texts):
            path = self.home.directory / name
            if path.exists() and not path.is_file():
                former = shlex.quote(f"{path}.former")
                raise StackError(
                    f"{path} is no file, and PostgreSQL expects one there. Nothing was started.",
                    cure=f"Look at it, and type `mv {shlex.quote(str(path))} {former}`; then `invoke up`.",
                )

    def resume(self) -> None:
        """Let a server go on that somebody has stopped with SIGSTOP, and its sessions."""
        import psutil

        state = self.postmaster.process()
        if state and state.stopped:
            say(f"{POSTGRES} was paused, and can go on now.")
            with contextlib.suppress(psutil.Error):
                server = psutil.Process(state.pid)
                for process in (*server.children(recursive=True), server):
                    process.resume()


def _only_postgres(service: str) -> None:
    if service.startswith("convex"):
        raise Refused(f"There is no {service} without Docker: only PostgreSQL runs here. Install Docker for Convex.")
    if service not in ("", POSTGRES):
        raise Refused(f"There is no service {service!r}. There is: {POSTGRES}.")
