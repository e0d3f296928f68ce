"""The server, seen from inside: through its private socket."""

from __future__ import annotations

import contextlib

from stack.engines.embedded.home import Home
from stack.engines.embedded.postmaster import Postmaster
from stack.ground.run import Command
from stack.server import identity
from stack.server.address import LIBPQ, Endpoint, Running, client_options


class Inside:
    """The running server of one checkout."""

    def __init__(self, home: Home, postmaster: Postmaster) -> None:
        self.home = home
        self.postmaster = postmaster

    def running(self) -> Running:
        """Return the way through the private socket; raises StackError when the server does not run."""
        server, socket = str(self.postmaster.running().pid), str(self.home.socket_directory)
        local = Endpoint(socket, self.home.port, self.home.settings.user, "", self.home.settings.database)
        return Running(local, self.home.directory, server)

    def identifier(self, server: str = "", *, surely: bool = False) -> identity.Identity:
        """Return what tells the server from all others; raises StackError when its files cannot be read."""
        del server, surely
        return identity.seen(self.home.directory)

    def peer(self, user: str, database: str) -> Command:
        """Return the command line of a psql that reads its SQL from stdin and needs no password, as any user."""
        self.postmaster.running()
        local = Endpoint(str(self.home.socket_directory), self.home.port, user, "", database)
        options = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        return Command(
            [str(self.home.programs / "psql"), *client_options("psql", local.parameters()), *options],
            dict.fromkeys(LIBPQ, ""),
        )

    def titles(self) -> list[str]:
        """Return what the processes of the running server call themselves."""
        import psutil

        found = []
        for process in psutil.Process(self.postmaster.running().pid).children():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(process.cmdline()).strip("\0 "))
        return found
