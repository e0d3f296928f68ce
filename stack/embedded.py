"""No Docker: PostgreSQL 17 as a process of its own, with the same address, login and settings as the container."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import shlex
import signal
import stat
import subprocess
import tempfile
import time
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from stack import guards, identity, places, ports, regular, rights, shutdown
from stack.process import Refused, StackError, environment, look
from stack.programs import MAJOR, installed, server_programs
from stack.service import LIBPQ, Command, Endpoint, Running, Service, log_in, paused
from stack.settings import ROOT, Settings, layer_files
from stack.talk import say

POSTGRES = "postgres"
SOCKET_PATH_LIMIT = 103
"""Bytes that fit the path of a Unix socket everywhere: sun_path has 104 on macOS, 108 on Linux."""
STOP_PATIENCE = 60.0
"""Seconds that a fast shutdown may take; the container's stop_grace_period."""
PATIENCE = 5.0
"""Seconds in which the sessions of a server that was killed have noticed it."""


class Embedded:
    """PostgreSQL 17 in data/embedded of one checkout. It has no Convex."""

    name = "embedded"
    sees_files = True
    texts: Mapping[str, str] = MappingProxyType(  # all that the first needs to say stands on the command line
        {"postgresql.conf": "", "pg_hba.conf": f"local all all trust\n{places.ADMIT}"}
    )

    def __init__(self, settings: Settings, root: Path = ROOT) -> None:
        self.settings = settings
        self.root = root
        self.directory = root / "data" / "embedded"
        self.log = self.directory / "server.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._began = 0

    @cached_property
    def programs(self) -> Path:
        """Where initdb, postgres and psql are; installs them when they are nowhere."""
        return server_programs(self.root, self.settings.bin_dir)

    @cached_property
    def account(self) -> rights.Account | None:
        """Whom root runs the server as; None when it is this user."""
        return rights.account(self.directory, self.root)

    @property
    def _uid(self) -> int:
        return self.account.uid if self.account else os.geteuid()

    @cached_property
    def socket_directory(self) -> Path:
        """A directory that only the server's user may enter, short enough for a socket in it."""
        if len(os.fsencode(self.directory / f".s.PGSQL.{self._port}")) <= SOCKET_PATH_LIMIT:
            return self.directory
        mark = zlib.crc32(os.fsencode(self.root))
        return Path(tempfile.gettempdir(), f"stack-{self._uid}-{mark:08x}")

    # -- command lines ------------------------------------------------------------------------------------

    def client(
        self, *argv: str, stdin: bool = False, terminal: bool = False, name: str = "",
        into: Mapping[str, str] = MappingProxyType({}),
    ) -> Command:  # fmt: skip
        """Return the command line of a client program; it logs in through the private socket."""
        del stdin, terminal  # a program on this machine has the user's own
        connection = log_in(argv, {**self.database().endpoint.parameters(), **into})
        return Command(
            [str(self.programs / argv[0]), *connection, *argv[1:]], {**dict.fromkeys(LIBPQ, ""), "PGAPPNAME": name}
        )

    def logs(self, service: str = "", *, follow: bool = False, tail: str = "all") -> list[str]:
        """Return the command line that shows the server's log."""
        _only_postgres(service)
        self._refuse_if_closed()
        if not os.path.lexists(self.log):
            raise StackError("There is no log: the server was never started here. Type `invoke up`.")
        try:
            regular.opened(self.directory, self.log.name).close()
        except OSError as error:
            raise self._no_log(f"cannot be read: {error.strerror}") from None
        return ["tail", "-n", "+1" if tail == "all" else tail, *["-F"] * follow, str(self.log)]

    def initdb(self, directory: Path, password_file: Path) -> list[str]:
        """Return the command line that makes a cluster like the container's."""
        return [
            str(self.programs / "initdb"), "--pgdata", str(directory), "--username", self.settings.user,
            "--pwfile", str(password_file), "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8",
            "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums",
        ]  # fmt: skip

    def server(self) -> list[str]:
        """Return the command line of the server."""
        options = {
            "listen_addresses": self.settings.bind_address,
            "port": str(self._port),
            "unix_socket_directories": '"' + str(self.socket_directory).replace('"', '""') + '"',
            "unix_socket_permissions": "0700",
            "cluster_name": self.settings.project,
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.directory), *settings]

    def trusted(self, user: str, database: str) -> Command:
        """Return the command line of a psql that reads its SQL from stdin and needs no password, as any user."""
        self.running(POSTGRES)
        local = Endpoint(str(self.socket_directory), self._port, user, "", database)
        options = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        return Command(
            [str(self.programs / "psql"), *log_in("psql", local.parameters()), *options], dict.fromkeys(LIBPQ, "")
        )

    # -- what is there ------------------------------------------------------------------------------------

    def platform(self) -> str:
        """Return where the programs are; raises StackError when they cannot be run as this user."""
        place = installed(self.root, self.settings.bin_dir)
        if not place:
            return f"PostgreSQL {MAJOR}, to be fetched by `invoke up`"
        data = self.directory if self.directory.is_dir() else self.root
        rights.way(self.account, data, place.resolve())
        return f"PostgreSQL {MAJOR} in {place}{f', as the account {self.account.name}' if self.account else ''}"

    def check_machine(self) -> None:
        """Do nothing: the server runs here."""

    def unobtainable(self, image: str) -> str:
        """Return nothing: there are no images."""
        del image
        return ""

    def check_name(self) -> None:
        """Do nothing: a process has no name that another checkout could take."""

    def check_ports(self) -> None:
        """Raise StackError when the port is taken by anything but this server, naming the holder."""
        if self._process():
            self._refuse_if_taken(ports.also_at_localhost(self.settings.bind_address, self._port))
            return
        deadline = time.monotonic() + 2
        # The last session of a server that was killed may hold its port a little longer.
        while (why := ports.why_not_free(self.settings.bind_address, self._port)) and time.monotonic() < deadline:
            if not (self.directory / "postmaster.pid").exists():
                break
            time.sleep(0.05)
        if why and (left := shutdown.remains(self.directory)):
            raise StackError(
                f"{why} {shutdown.what_remains(left, self.directory)}",
                cure="Type `invoke down`, which ends it, then `invoke up`.",
            )
        self._refuse_if_taken(why or ports.also_at_localhost(self.settings.bind_address, self._port))

    def _refuse_if_taken(self, why: str) -> None:
        if why:
            raise ports.taken(why, runs=bool(self._process()))

    def read(self, *names: str) -> dict[str, str]:
        """Return files of the cluster as `places.read` does; raises PermissionError when it is another user's."""
        return places.read(self.directory, *names)

    def contents(self) -> places.Contents | None:
        """Return what is in the cluster's directory; None when it is another user's."""
        try:
            return places.contents(self.directory)
        except PermissionError:
            return None

    def append(self, name: str, text: str, *, instead: bool = False) -> None:
        """Add lines to a text file of the cluster, or make it of them; a server that runs reads it anew."""
        if instead:
            with contextlib.suppress(FileNotFoundError):
                (self.directory / name).replace(self.directory / f"{name}.damaged")
        _append(self.directory / name, text)
        if state := self._process():
            os.kill(state.pid, signal.SIGHUP)

    def titles(self) -> list[str]:
        """Return what the processes of the running server call themselves."""
        import psutil

        found = []
        for process in psutil.Process(int(self.running(POSTGRES))).children():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(process.cmdline()).strip("\0 "))
        return found

    def major(self) -> int:
        """Return the major version of the programs."""
        return MAJOR

    def other_major(self, made_by: str) -> tuple[str, str]:
        """Return why the programs do not run on data of another major version, and the way from old to new."""
        old = shlex.join(["-D", str(self.directory)])
        return (
            f"the data was made by PostgreSQL {made_by}, and the stack runs {MAJOR}",
            f"Nothing is lost. Dump with the old and load with the new: with the programs of {made_by}"
            f" `pg_ctl {old} -o '-p 54321 -k /tmp' -w start`,"
            f" `pg_dump -Fc -h /tmp -p 54321 -U {shlex.quote(self.settings.user)} -f old.dump"
            f" {shlex.quote(self.settings.database)}`, `pg_ctl {old} stop`; then `invoke reset-data`, `invoke up`,"
            f" `invoke load old.dump`. {places.ONE_DATABASE}",
        )

    def shared_memory(self) -> int | None:
        """Return the bytes that are free in /dev/shm; None where there is none."""
        shared = Path("/dev/shm")  # noqa: S108 - PostgreSQL's choice
        return places.free(shared) if shared.is_dir() else None

    def endpoint(self) -> Endpoint:
        """Return the database's address."""
        host = ports.reached_at(self.settings.bind_address)
        return Endpoint(host, self._port, self.settings.user, self.settings.password, self.settings.database)

    def addresses(self) -> list[str]:
        """Return the one address that the server listens on."""
        return [self.settings.bind_address]

    def database(self) -> Running:
        """Return the way through the private socket; raises StackError when the server does not run."""
        server, socket = self.running(POSTGRES), str(self.socket_directory)
        local = Endpoint(socket, self._port, self.settings.user, "", self.settings.database)
        return Running(local, self.directory, server)

    def identifier(self, server: str, *, surely: bool = False) -> identity.Identity:
        """Return what tells the server from all others; raises StackError when its files cannot be read."""
        del server, surely
        return identity.seen(self.directory)

    def url(self, service: str, target: int) -> str:
        """Return nothing: there are no pages."""
        del service, target
        return ""

    def services(self) -> list[Service]:
        """Return the one service there is."""
        state = self._process()
        health = ("healthy" if state.status == "ready" else "starting") if state else ""
        return [
            Service(
                POSTGRES,
                state=("paused" if state.stopped else "running") if state else "not started",
                health=health,
                image=f"postgresql:{MAJOR}",
                url=self.endpoint().url(),
                data=self.directory,
            )
        ]

    def running(self, service: str) -> str:
        """Return the server's process id; raises StackError when it does not run."""
        _only_postgres(service)
        state = self._process()
        if not state:
            raise StackError("postgres is not running. Type `invoke up`.")
        if state.stopped:
            raise paused(POSTGRES)
        return str(state.pid)

    def directories(self) -> dict[str, Path]:
        """Return where the cluster is."""
        return {"embedded": self.directory}

    def volumes(self) -> dict[str, str]:
        """Return nothing: everything is in data/."""
        return {}

    def holders(self, path: Path) -> list[guards.Holder]:
        """Return the server of a container, or of somebody else, that is at work on a directory.

        The own one, and what is left of it, is not told: it is stopped before a wipe, and waited for before a start.
        """
        found = None if self._process() else guards.server(path)
        return [found] if found and not shutdown.remains(path) else []

    def check_seen(self, services: list[Service]) -> None:
        """Do nothing: the server runs here."""
        del services

    def check_deletable(self, path: Path) -> None:
        """Do nothing: the files are here."""

    def disk_usage(self, path: Path) -> int | None:
        """Return None: what this user may not read, this engine may not either."""
        del path
        return None

    def last_words(self, service: str, lines: int = 15) -> str:
        """Return the last lines of the server's log."""
        del service
        return "\n".join(shutdown.logged(self.log).splitlines()[-lines:])

    def first_words(self) -> str:
        """Return what the server that this process has started has said."""
        return shutdown.logged(self.log, self._began).strip()

    # -- what changes something ---------------------------------------------------------------------------

    def missing_images(self) -> list[str]:
        """Return nothing: the programs are installed when they are first needed."""
        return []

    def pull(self, *, missing: bool = False) -> None:
        """Install the programs, if they are not there."""
        del missing
        say(f"PostgreSQL's programs are in {self.programs}.")

    def check_start(self, freed: int | None = None) -> None:
        """Raise StackError for what would fail a start and can be seen before it."""
        guards.refuse_if_linked(self.directory.parent, self.directory)
        self._refuse_if_closed()
        self._refuse_if_held()
        self.check_ports()
        places.refuse_if_full(self.directory, freed or 0)
        self._way(self.directory if self.directory.is_dir() else self.directory.parent)

    def start(self) -> Server:
        """Make the cluster if there is none, and start the server; returns at once."""
        if any(self.root.glob("docker-compose*.yml")):
            layer_files(self.root, self.settings.layers)  # a mistake that is told with Docker too
        guards.refuse_if_linked(self.directory.parent, self.directory)
        self._refuse_if_closed()
        state = self._process()
        if state and (state.port, state.address) != (self._port, self.settings.bind_address):
            if state.port != self._port and (why := ports.why_not_free(self.settings.bind_address, self._port)):
                raise ports.taken(why)  # and it goes on where it is
            say(f"The server listens on {state.address}:{state.port}; starting it again with the settings of today.")
            self.stop()
        elif state and state.uid == 0 and self.account:
            self._way(self.directory)  # if that is impossible, it goes on as it is
            say(f"The server has root's rights; starting it again as the account {self.account.name}, which has none.")
            self.stop()
        elif state:
            self.resume()
            if why := ports.also_at_localhost(self.settings.bind_address, self._port):
                say(str(ports.taken(why, runs=True)))
            self._admit()
            return Server(self)
        self._refuse_if_held()
        self.check_ports()
        places.refuse_if_full(self.directory)
        self._refuse_if_blocked()
        if not (self.directory / "PG_VERSION").exists():
            self._create()
        elif self.account and self.directory.stat().st_uid != self.account.uid:
            self._way(self.directory)
            rights.give(self.directory, self.account)
        made_by = places.made_by({places.VERSION: self._text(places.VERSION)})
        if not made_by:
            raise self._no_cluster()
        if made_by != str(MAJOR):
            why, cure = self.other_major(made_by)
            raise StackError(f"{self.directory} cannot be used: {why}. Nothing was changed.", cure=cure)
        self._admit()
        return Server(self)

    def resume(self) -> None:
        """Let a server go on that somebody has stopped with SIGSTOP, and its sessions."""
        import psutil

        state = self._process()
        if state and state.stopped:
            say(f"{POSTGRES} was paused, and can go on now.")
            with contextlib.suppress(psutil.Error):
                server = psutil.Process(state.pid)
                for process in (*server.children(recursive=True), server):
                    process.resume()

    def stop(self) -> None:
        """Stop the server, fast: sessions end, nothing that was committed is lost.

        One that does not stop by itself is ended at once, from which the next start recovers as from a power cut.
        """
        self.resume()
        state = self._process()
        if state:
            clean = shutdown.stop(state.pid, self.log, STOP_PATIENCE)
        elif left := shutdown.remains(self.directory):
            clean = shutdown.end_remains(left, self.directory, self.log, STOP_PATIENCE)
        elif self._child and self._child.poll() is None:  # it has no lock file yet
            clean = shutdown.stop(self._child.pid, self.log, STOP_PATIENCE)
        else:
            return
        if self._child:
            self._child.wait()
        if self.socket_directory != self.directory:
            with contextlib.suppress(OSError):  # what a server that did not stop cleanly has left in it stays
                self.socket_directory.rmdir()
        say("PostgreSQL has stopped." if clean else "PostgreSQL has ended.")

    def restart(self, service: str = "") -> None:
        """Stop the server and start it again."""
        _only_postgres(service or POSTGRES)
        self.resume()
        self.running(POSTGRES)
        self.stop()
        self.start().finish()

    def admin_key(self) -> str:
        """Refuse: there is no Convex."""
        raise no_convex("convex-backend")

    def delete(self, path: Path) -> None:
        """Refuse: this engine has no more rights than the user."""
        raise StackError(
            f"{path} holds files that another user owns. The stack no longer uses that directory. Delete it with"
            f" `sudo rm -rf '{path}'`."
        )

    # -- within -------------------------------------------------------------------------------------------

    @property
    def _port(self) -> int:
        return self.settings.ports["POSTGRES_PORT"]

    def _create(self) -> None:
        """Make the cluster and the database beside their place, and rename them into it: all or nothing."""
        if self.directory.exists() and not self.directory.is_dir():
            raise StackError(f"{self.directory} is not a directory. Look at it, remove it, then type `invoke up`.")
        if self.directory.exists() and any(self.directory.iterdir()):
            raise self._no_cluster()
        try:
            scratch = Path(tempfile.mkdtemp(prefix=f".new-embedded-{os.getpid()}-", dir=self.directory.parent))
        except OSError as error:
            raise StackError(
                f"{self.directory.parent} cannot be written: {error.strerror}. Nothing was changed.",
                cure="Type `invoke doctor`.",
            ) from None
        fresh = scratch / "embedded"
        try:
            way = self._way(scratch)
        except StackError:
            scratch.rmdir()
            raise
        with tempfile.NamedTemporaryFile("w", dir=scratch, encoding="utf-8") as password_file:
            password_file.write(self.settings.password + "\n")
            password_file.flush()
            if self.account:
                rights.give(scratch, self.account)
            argv = [*way.prefix, *self.initdb(fresh, Path(password_file.name))]
            made = look(argv, way.env, timeout=300, rights=way.rights)
        if made.returncode:
            said = made.stderr.strip() or made.stdout.strip()
            raise StackError(f"The cluster was not made; nothing was changed. {_hint(said)}initdb said:\n{said}")
        _append(fresh / "pg_hba.conf", places.ADMIT)
        if self.settings.database != "postgres":
            # A server without a port and a socket: nobody can come in before the database is there.
            single = [*way.prefix, str(self.programs / "postgres"), "--single", "-j", "-D", str(fresh), "postgres"]
            name = self.settings.database.replace('"', '""')
            with tempfile.TemporaryFile() as sql:
                sql.write(f'CREATE DATABASE "{name}";\n\n'.encode())
                sql.seek(0)
                result = look(single, way.env, stdin=sql, rights=way.rights)
            failed = re.search(r"^.*(FATAL|ERROR):.*$", result.stderr, re.MULTILINE)
            if failed:
                raise StackError(f"The database {self.settings.database!r} was not made: {failed[0].strip()}")
        try:
            if self.directory.exists():
                self.directory.rmdir()
            fresh.rename(self.directory)
        except OSError as error:
            raise self._not_replaceable(error) from None
        scratch.rmdir()

    def _not_replaceable(self, error: OSError) -> StackError:
        """Return what to say when the new cluster cannot take the place of an empty directory."""
        place = shlex.quote(str(self.directory))
        if error.errno == errno.EBUSY:
            return StackError(
                f"{self.directory} is a mount point, which the new cluster cannot take the place of. Nothing is lost.",
                cure=f"Type `umount {place}`, and mount a larger disk at {self.directory.parent} itself; then"
                " `invoke up`.",
            )
        return StackError(
            f"{self.directory} cannot be replaced by the new cluster: {error.strerror}. Nothing is lost.",
            cure=f"Look at it; type `mv {place} {shlex.quote(f'{self.directory}.former')}`, then `invoke up`.",
        )

    def _refuse_if_closed(self) -> None:
        """Raise Refused when this user may not use the cluster's directory."""
        if not self.directory.is_dir() or os.access(self.directory, os.R_OK | os.W_OK | os.X_OK):
            return
        if self.directory.stat().st_uid != os.geteuid():
            why, cure = guards.closed(self.directory)
            raise Refused(f"{why} Nothing was done.", cure=cure)
        cure = f"Type `chmod 700 {shlex.quote(str(self.directory))}`, then the command again."
        raise Refused(f"{self.directory} is not open to you. Nothing was done.", cure=cure)

    def _refuse_if_held(self) -> None:
        """Raise Refused when a server that is not ours is at work on the cluster.

        What is left of our own after a crash is no more to be told from it in its last moments, so it is given time.
        """
        deadline = time.monotonic() + PATIENCE
        while (found := self.holders(self.directory)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for holder in found:
            raise Refused(
                f"{self.directory} is in use by {holder.who}, and a second server on the same data would destroy it."
                " Nothing was started.",
                cure=f"Type `{holder.stop}`, then `invoke up`.",
            )

    def _refuse_if_blocked(self) -> None:
        """Raise StackError when a pipe, say, is in the place of a file: the server would wait for ever to read it."""
        for name in ("postmaster.pid", places.VERSION, "global/pg_control", *self.texts):
            path = self.directory / name
            if path.exists() and not path.is_file():
                former = shlex.quote(f"{path}.former")
                raise StackError(
                    f"{path} is no file, and PostgreSQL expects one there. Nothing was started.",
                    cure=f"Look at it, and type `mv {shlex.quote(str(path))} {former}`; then `invoke up`.",
                )

    def _text(self, name: str) -> str:
        """Return a text file of the cluster, empty when there is none. Raises StackError when it cannot be read."""
        try:
            return self.read(name).get(name, "")
        except OSError as error:
            raise StackError(
                f"{error.filename} cannot be read: {error.strerror}. Nothing was started.",
                cure=f"Type `chmod u+rw {shlex.quote(str(error.filename))}` if it is yours, then `invoke up`.",
            ) from None

    def _way(self, data: Path) -> rights.Way:
        return rights.way(self.account, data, self.programs.resolve())

    def way(self, *, ask: bool = True) -> rights.Way:
        """Return how the server is started, as whom; raises StackError when it cannot be, which it may have to ask."""
        programs = self.programs.resolve()
        return rights.way(self.account, self.directory, programs, self.socket_directory, log=self.log, ask=ask)

    def _no_cluster(self) -> StackError:
        """Return what to say of a directory that is not empty, and no PG_VERSION in it tells which version made it."""
        held, there = self.contents(), self.read(places.VERSION, *places.VERSIONS)
        why = places.lack(places.VERSION, there)
        if held and (held.files or held.complete):
            what = f"{self.directory} holds {held}, but PostgreSQL does not start on it: {why}."
            if places.made_by(there, *places.VERSIONS):
                fix = "Type `invoke doctor --fix`, which writes it anew, then `invoke up`."
                return StackError(f"{what} Nothing was changed.", cure=fix)
            return StackError(
                f"{what} Nor do its databases tell which version made it. Nothing was changed.",
                cure=places.start_over(self.directory, held),
            )
        return StackError(
            f"{self.directory} is not empty and holds no PostgreSQL cluster: {why}. Nothing was changed. Look at it.",
            cure=places.start_over(self.directory, held),
        )

    def _admit(self) -> None:
        """Let in who comes to the address that the server listens on, unless pg_hba.conf says something of it."""
        rules = self._text("pg_hba.conf")  # the server says so itself when it is not there
        if rules and not _speaks_of(self.settings.bind_address, rules):
            self.append("pg_hba.conf", places.ADMIT)
            say(f"pg_hba.conf had no line for {self.settings.bind_address}; it has `{places.ADMIT}` now.")

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the server's process."""
        if self._child:
            self._child.wait()  # one that was killed is buried
        self._make_socket_directory()
        self._clear_stale_lock()
        if self.log.exists() and self.log.stat().st_size > 10_000_000:
            with contextlib.suppress(OSError):  # then it goes on growing
                self.log.replace(self.log.with_suffix(".log.1"))
        self._began = self.log.stat().st_size if self.log.exists() else 0
        way = self.way(ask=False)
        if not self.account:
            try:
                if self.log.exists() and not self.log.is_file():
                    raise self._no_log("is no file")
                self.log.open("ab").close()
            except OSError as error:
                raise self._no_log(f"cannot be written: {error.strerror}") from None
        # The log is opened with the server's rights: in its directory it may have put a link in the log's place.
        logged = [*way.prefix, "sh", "-c", 'log=$1; shift; exec "$@" >>"$log" 2>&1', "sh", str(self.log)]
        # A session of its own: neither Ctrl-C nor the end of the terminal reaches it.
        nowhere = subprocess.DEVNULL
        try:
            self._child = subprocess.Popen(
                [*logged, *self.server()], stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True,
                cwd="/", env=environment(way.env), **way.rights,
            )  # fmt: skip
        except OSError as error:
            if self.account:
                raise rights.not_allowed(self.account, error) from None
            raise
        return self._child

    def _no_log(self, why: str) -> StackError:
        place = shlex.quote(str(self.log))
        return StackError(
            f"The server's log {self.log} {why}.",
            cure=f"Type `mv {place} {shlex.quote(f'{self.log}.former')}`, then `invoke up`.",
        )

    def _make_socket_directory(self) -> None:
        place = self.socket_directory
        if place == self.directory:
            return
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700)
        facts = place.lstat()
        if self.account and facts.st_uid == 0 and stat.S_ISDIR(facts.st_mode):
            os.chown(place, self.account.uid, self.account.gid, follow_symlinks=False)
            facts = place.lstat()
        if facts.st_uid != self._uid or facts.st_mode & 0o077 or not stat.S_ISDIR(facts.st_mode):
            raise StackError(f"{place} belongs to somebody else. Remove it, then type `invoke up`.")

    def _clear_stale_lock(self) -> None:
        """Remove lock files whose process id belongs to another program, as happens after a reboot, or is none.

        PostgreSQL itself only asks whether any process has that id, and would refuse to start.
        """
        if self._process() or shutdown.remains(self.directory):
            return
        for lock in (self.directory / "postmaster.pid", self.socket_directory / f".s.PGSQL.{self._port}.lock"):
            with contextlib.suppress(OSError):
                if _is_stale(regular.text(lock.parent, lock.name)):
                    lock.unlink()

    def _process(self) -> Process | None:
        """Return the server of this directory, if it lives."""
        import psutil

        try:
            lines = regular.text(self.directory, "postmaster.pid").splitlines()
            process = psutil.Process(int(lines[0]))
            if process.status() == psutil.STATUS_ZOMBIE or not shutdown.is_servers(process, self.directory):
                return None
            self._refuse_anothers(process.pid, process.cmdline())
            return Process(process.uids().real, process.status() == psutil.STATUS_STOPPED, *lines)
        except (OSError, ValueError, IndexError, OverflowError, psutil.Error):
            return None

    def _refuse_anothers(self, pid: int, argv: list[str]) -> None:
        """Raise Refused when the server was started by another checkout, whose data a link or a mount brought here."""
        directory = Path(argv[argv.index("-D") + 1]) if "-D" in argv[:-1] else self.directory
        owner = directory.parent.parent
        if directory.is_absolute() and owner.is_dir() and not owner.samefile(self.root):
            raise Refused(
                f"The PostgreSQL that is at work on {self.directory} (process {pid}) is that of another checkout,"
                f" {owner}: a link or a mount brings its data here. Nothing was done.",
                cure=f"Remove that link or mount from {self.directory.parent}, then type the command again; or work in"
                f" {owner}.",
            )


class Process:
    """What postmaster.pid tells; it grows while the server starts."""

    def __init__(self, uid: int, stopped: bool, *lines: str) -> None:
        _, port, address, status = (lines[index].strip() if index < len(lines) else "" for index in (1, 3, 5, 7))
        self.pid = int(lines[0])
        self.uid = uid
        self.stopped = stopped
        """Whether somebody has paused it, with SIGSTOP."""
        self.port = int(port or 0)
        self.address = address
        self.status = status


class Server:
    """A server that starts."""

    def __init__(self, engine: Embedded) -> None:
        self._engine = engine
        self._child: subprocess.Popen[bytes] | None = None
        self._began = time.monotonic()

    def done(self) -> bool:
        """Return True once it runs. Raises StackError with its last words when it has ended."""
        if self._engine.services()[0].state in ("running", "paused"):
            return True
        if not self._child:
            self._child = self._engine.spawn()
        if self._child.poll() is None:
            return False
        said = "\n".join(self._engine.first_words().splitlines()[-15:])
        if re.search("pre-existing shared memory block|lock file .* already exists", said.rpartition("FATAL")[2]):
            # A killed server that is not buried yet, or sessions of it that have not noticed; seconds, at most.
            if time.monotonic() > self._began + PATIENCE and (left := shutdown.remains(self._engine.directory)):
                raise StackError(
                    shutdown.what_remains(left, self._engine.directory),
                    cure="Type `invoke down`, which ends it, then `invoke up`.",
                )
            self._child = None
            return False
        self._engine.way()  # which says so when it did not even get as far as PostgreSQL
        raise StackError(
            f"The server ended with exit code {self._child.returncode}. {_hint(said)}Its last log lines:\n{said}\n",
            cure="Mend that, then type `invoke up`.",
        )

    def finish(self) -> None:
        """Wait until the process is there; it goes on by itself."""
        while not self.done():
            time.sleep(0.02)

    def abandon(self) -> None:
        """Leave it alone: it keeps starting, or running."""


def _append(path: Path, text: str) -> None:
    """Add lines to a file in a server's directory, or make it of them, for the directory's owner. Raises StackError.

    The server may have put a link or a pipe in its place: root would write to where that leads, or wait for ever.
    """
    why = "it is no file of its own"
    try:
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        with open(number, "a", encoding="utf-8") as file:  # noqa: PTH123 - as it was opened
            facts, owner = os.fstat(number), path.parent.stat()
            anothers = facts.st_uid != owner.st_uid
            if stat.S_ISREG(facts.st_mode) and not (anothers and facts.st_nlink > 1):
                if anothers:
                    os.fchown(number, owner.st_uid, owner.st_gid)
                file.write(f"{text}\n")
                return
    except OSError as error:
        why = f"{error.strerror}"
    raise StackError(f"{path} could not be written: {why}.", cure="Look at what is there.")


def _is_stale(lock: str) -> bool:
    """Return whether a lock file would keep a server from starting though none runs; one of a dead process does not."""
    try:
        os.kill(abs(int(lock.splitlines()[0])), 0)  # negative for a single-user server
    except ProcessLookupError:
        return False
    except (OSError, ValueError, IndexError, OverflowError):
        return True
    return True


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


def _hint(said: str) -> str:
    if "could not look up effective user ID" in said:
        return "PostgreSQL does not run for a user id that has no account: no line in /etc/passwd. "
    return ""


def no_convex(service: str) -> Refused:
    """Return what to say to who asks for a service that only Docker can run."""
    return Refused(f"There is no {service} without Docker: only PostgreSQL runs here. Install Docker for Convex.")


def _only_postgres(service: str) -> None:
    if service.startswith("convex"):
        raise no_convex(service)
    if service not in ("", POSTGRES):
        raise Refused(f"There is no service {service!r}. There is: {POSTGRES}.")
