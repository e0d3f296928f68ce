"""How a cluster is made beside its place, and that it lets its clients in."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import shlex
import tempfile
from pathlib import Path

from stack.engines.embedded import rights
from stack.engines.embedded.data import Data
from stack.engines.embedded.home import Home, append, hint
from stack.ground.errors import StackError
from stack.ground.run import look
from stack.ground.talk import say
from stack.server import pgdata


class Maker:
    """Makes the cluster of a home."""

    def __init__(self, home: Home, data: Data) -> None:
        self.home = home
        self.data = data

    def create(self) -> None:
        """Make the cluster and the database beside their place, and rename them into it: all or nothing."""
        if self.home.directory.exists() and not self.home.directory.is_dir():
            raise StackError(f"{self.home.directory} is not a directory. Look at it, remove it, then type `invoke up`.")
        if self.home.directory.exists() and any(self.home.directory.iterdir()):
            raise self.no_cluster()
        try:
            scratch = Path(tempfile.mkdtemp(prefix=f".new-embedded-{os.getpid()}-", dir=self.home.directory.parent))
        except OSError as error:
            raise StackError(
                f"{self.home.directory.parent} cannot be written: {error.strerror}. Nothing was changed.",
                cure="Type `invoke doctor`.",
            ) from None
        fresh = scratch / "embedded"
        try:
            way = self.home.way_to(scratch)
        except BaseException:
            scratch.rmdir()
            raise
        with tempfile.NamedTemporaryFile("w", dir=scratch, encoding="utf-8") as password_file:
            password_file.write(self.home.settings.password + "\n")
            password_file.flush()
            if self.home.account:
                rights.give(scratch, self.home.account)
            argv = [*way.prefix, *self.home.initdb(fresh, Path(password_file.name))]
            made = look(argv, way.env, timeout=300, rights=way.rights)
        if made.returncode:
            said = made.stderr.strip() or made.stdout.strip()
            raise StackError(f"The cluster was not made; nothing was changed. {hint(said)}initdb said:\n{said}")
        append(fresh / "pg_hba.conf", pgdata.ADMIT)
        if self.home.settings.database != "postgres":
            # A server without a port and a socket: nobody can come in before the database is there.
            single = [*way.prefix, str(self.home.programs / "postgres"), "--single", "-j", "-D", str(fresh), "postgres"]
            name = self.home.settings.database.replace('"', '""')
            with tempfile.TemporaryFile() as sql:
                sql.write(f'CREATE DATABASE "{name}";\n\n'.encode())
                sql.seek(0)
                result = look(single, way.env, stdin=sql, rights=way.rights)
            failed = re.search(r"^.*(FATAL|ERROR):.*$", result.stderr, re.MULTILINE)
            if failed:
                raise StackError(f"The database {self.home.settings.database!r} was not made: {failed[0].strip()}")
        try:
            if self.home.directory.exists():
                self.home.directory.rmdir()
            fresh.rename(self.home.directory)
        except OSError as error:
            raise self._not_replaceable(error) from None
        scratch.rmdir()

    def no_cluster(self) -> StackError:
        """Return what to say of a directory that is not empty, and no PG_VERSION in it tells which version made it."""
        held, there = self.home.contents(), self.home.read(pgdata.VERSION, *pgdata.VERSIONS)
        why = pgdata.lack(pgdata.VERSION, there)
        if held and (held.files or held.complete):
            what = f"{self.home.directory} holds {held}, but PostgreSQL does not start on it: {why}."
            if pgdata.made_by(there, *pgdata.VERSIONS):
                fix = "Type `invoke doctor --fix`, which writes it anew, then `invoke up`."
                return StackError(f"{what} Nothing was changed.", cure=fix)
            return StackError(
                f"{what} Nor do its databases tell which version made it. Nothing was changed.",
                cure=pgdata.start_over(self.home.directory, held),
            )
        return StackError(
            f"{self.home.directory} is not empty and holds no PostgreSQL cluster: {why}. Nothing was changed."
            " Look at it.",
            cure=pgdata.start_over(self.home.directory, held),
        )

    def admit(self) -> None:
        """Let in who comes to the address that the server listens on, unless pg_hba.conf says something of it."""
        rules = self.home.text("pg_hba.conf")  # the server says so itself when it is not there
        if rules and not _speaks_of(self.home.settings.bind_address, rules):
            self.data.append("pg_hba.conf", pgdata.ADMIT)
            say(f"pg_hba.conf had no line for {self.home.settings.bind_address}; it has `{pgdata.ADMIT}` now.")

    def _not_replaceable(self, error: OSError) -> StackError:
        """Return what to say when the new cluster cannot take the place of an empty directory."""
        place = shlex.quote(str(self.home.directory))
        if error.errno == errno.EBUSY:
            return StackError(
                f"{self.home.directory} is a mount point, which the new cluster cannot take the place of. Nothing is"
                " lost.",
                cure=f"Type `umount {place}`, and mount a larger disk at {self.home.directory.parent} itself; then"
                " `invoke up`.",
            )
        return StackError(
            f"{self.home.directory} cannot be replaced by the new cluster: {error.strerror}. Nothing is lost.",
            cure=f"Look at it; type `mv {place} {shlex.quote(f'{self.home.directory}.former')}`, then `invoke up`.",
        )


def _speaks_of(address: str, rules: str) -> bool:
    """Return whether a line of pg_hba.conf is about those who come to an address of this machine.

    initdb's own lines are about 127.0.0.1 and ::1 alone. 0.0.0.0 is every address: any line about others will do.
    """
    lines = [line.partition("#")[0].split() for line in rules.splitlines()]
    if any(words and words[0].startswith("include") for words in lines):
        return True  # nobody here knows what stands there
    asked = ipaddress.ip_address(address)
    for words in lines:
        if len(words) < 5 or not words[0].startswith("host") or words[1] == "replication":
            continue
        mask = f"/{words[4]}" if re.fullmatch(r"[\d.]+", words[4]) else ""
        try:
            network = ipaddress.ip_network(words[3] + mask, strict=False)
        except ValueError:
            return True  # all, samehost, samenet, or a name
        if not network.is_loopback if asked.is_unspecified else asked in network:
            return True
    return False
