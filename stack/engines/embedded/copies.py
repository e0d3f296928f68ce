"""The cluster in data/embedded, copied by PostgreSQL's own programs for another checkout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.engines.copies import COPY, LOOK, MEND, Copy, alone, backing_up, in_use, script, single
from stack.engines.embedded import rights, shutdown
from stack.engines.embedded.data import Data
from stack.engines.embedded.home import Home
from stack.engines.embedded.inside import Inside
from stack.ground.run import PIPE, start
from stack.server.address import LIBPQ
from stack.server.programs import MAJOR, release


class Copies:
    """The cluster of one checkout."""

    def __init__(self, home: Home, inside: Inside, data: Data) -> None:
        self.home = home
        self.inside = inside
        self.data = data

    @contextmanager
    def backup(self, target: Path) -> Iterator[Copy]:
        """Begin to make ready to copy the cluster, whose server runs and goes on, to a directory that is empty."""
        name, *options = backing_up(self.inside.running().endpoint, str(target))
        with self._begun([str(self.home.programs / name), *options], target, MEND) as copy:
            yield copy

    @contextmanager
    def copy(self, target: Path, kept: Path | None = None) -> Iterator[Copy]:
        """Do the same while no server is at work on it, or with what is `kept`. Raises Refused when one is."""
        if not kept:
            self._refuse_if_used()
        argv = ["sh", "-c", COPY, "sh", str(kept or self.home.directory), str(target)]
        with self._begun(argv, target, LOOK) as copy:
            yield copy
        if not kept:
            self._refuse_if_used()

    @contextmanager
    def _begun(self, argv: list[str], target: Path, cure: str) -> Iterator[Copy]:
        program = start(
            ["sh", *script(str(target), "", argv)], dict.fromkeys(LIBPQ, ""), stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        copy = Copy(program, self.home.directory, cure.format(self.home.root))
        try:
            yield copy
        finally:
            copy.rest()

    def _refuse_if_used(self) -> None:
        """Raise Refused when a server is at work on the files, or what is left of one."""
        directory, found = self.home.directory, self.data.holders(self.home.directory)
        if found or self.inside.postmaster.process() or shutdown.remains(directory):
            raise in_use(directory, found[0].who if found else "a server", self.home.root)

    def alone(self, cluster: Path, sql: str, database: str = "template1") -> list[str]:
        """Run SQL in a cluster that nobody serves, and return the first column. Raises StackError when it fails."""
        if self.home.account and cluster.stat().st_uid != self.home.account.uid:
            rights.give(cluster, self.home.account)
        way = self.home.way_to(cluster)
        name, *options = single(str(cluster), database, linux=sys.platform == "linux")
        argv = [*way.prefix, str(self.home.programs / name), *options]
        return alone(cluster, argv, sql, way.env, way.rights)

    def made_of(self) -> str:
        """Return what initdb is told, its version, and what it takes from the machine: the time zone."""
        its, zone = self.home.settings, Path("/etc/localtime").resolve()
        told = self.home.initdb(Path("its"), Path("password"))
        about = (its.password, its.database, its.bind_address, self.home.uid, os.environ.get("TZ"), str(zone))
        return repr((told, release(self.home.programs / "postgres"), about))

    def major(self) -> int:
        """Return the major version of the server that would be started."""
        return MAJOR
