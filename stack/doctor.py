"""Everything that is known to go wrong, one function per check; the README's table is made from their docstrings."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from stack import engine, guards, identity, init, places, ready, refusals, rights, settings, snapshots
from stack.compose import Docker
from stack.engine import Engine
from stack.ports import holder
from stack.process import Refused, StackError, printable
from stack.programs import MAJOR
from stack.ready import LoginFailed, connect, login, telling
from stack.refusals import APART, explain, tell
from stack.service import Endpoint, Service, paused
from stack.talk import counted, draw, give, human, say
from stack.wipe import sweep, unfinished

POSTGRES = "postgres"
CORNERSTONES = (places.VERSION, "pg_hba.conf", "global/pg_control", "global/pg_filenode.map", "global/1262")
"""Files without which no server starts, or nobody gets in; the last tells which databases there are."""
HALLS = ("base", "global", "pg_wal", "pg_xact")
"""Directories, likewise."""
SKEW = 5.0
"""Seconds that the database's clock may differ; a virtual machine that slept is minutes behind."""
SHARED_MEMORY = 64 << 20
"""Bytes: Docker's default, which parallel queries outgrow (docker-library/postgres#416)."""
AGEING, OLD = 500_000_000, 1_600_000_000
"""Transactions: autovacuum freezes at 200 million, gives up its manners at 1600 (vacuum_failsafe_age), and at 2100 the
server takes no more writes."""
KEPT_REST = "A dump holds one database: the others, the roles and the snapshots stay in what is kept."
ROUNDS = 3
"""How often `--fix` looks again: behind a wrong password there may be a missing database."""


@dataclass(frozen=True)
class Finding:
    """What a check found; `fix` mends it without deleting data."""

    state: str
    """ok, warning, failed, or skipped: it could not be looked at."""
    message: str
    cure: str = ""
    fix: Callable[[], object] | None = None
    check: str = ""
    fixed: bool = False

    @property
    def well(self) -> bool:
        """True when there is nothing to mend."""
        return self.state in ("ok", "skipped")


Findings = Iterator[Finding]


class Case:
    """A checkout that is looked at; each thing is asked for once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def settings(self) -> settings.Settings:
        """What `.env` and the shell say."""
        return settings.load(self.root)

    @cached_property
    def engine(self) -> Engine:
        """The engine that every command would use."""
        return engine.choose(self.root)

    @cached_property
    def endpoint(self) -> Endpoint | None:
        """The database's address; None without a database."""
        return self.engine.endpoint()

    @cached_property
    def services(self) -> dict[str, Service]:
        """What runs, by name."""
        return {service.name: service for service in self.engine.services()}

    @cached_property
    def cluster(self) -> dict[str, str]:
        """The files that tell who made the cluster, and whether it was finished."""
        return self.engine.read(*dict.fromkeys((*CORNERSTONES, *self.engine.texts)))

    @property
    def ours(self) -> bool:
        """False for a server that is run elsewhere."""
        return self.settings.engine != "external"

    @property
    def home(self) -> Path:
        """Where the cluster is, or would be."""
        directories = self.engine.directories()
        return directories.get("pg") or directories.get("embedded") or self.root / "data"

    def rows(self, query: str) -> list[Any]:
        """Ask the database, logged in as a user would be. Raises StackError when it refuses."""
        import psycopg

        assert self.endpoint
        try:
            with connect(self.endpoint) as connection:
                return connection.execute(query.encode()).fetchall()
        except (LoginFailed, psycopg.Error) as error:
            said = str(error).strip()
            why, cure = explain(self.engine, said) or (said, "Type `invoke status`.")
            raise StackError(f"PostgreSQL refused: {why}.", cure=cure) from None


@dataclass(frozen=True)
class Check:
    """A function, and the checks without which it would look at nothing."""

    look: Callable[[Case], Findings]
    needs: tuple[str, ...]
    elsewhere: bool
    """Whether it says something about a server that somebody else runs."""

    @property
    def texts(self) -> tuple[str, str]:
        """What it wants to see, and the cure when it does not: the two paragraphs of its docstring."""
        wanted, _, cure = (self.look.__doc__ or "").partition("\n\n")
        return " ".join(wanted.split()), " ".join(cure.split())


CHECKS: dict[str, Check] = {}


def check(*needs: str, elsewhere: bool = False) -> Callable[[Callable[[Case], Findings]], Callable[[Case], Findings]]:
    """Add a function to the checks, in the order of this file."""

    def add(look: Callable[[Case], Findings]) -> Callable[[Case], Findings]:
        CHECKS[look.__name__.replace("_", " ")] = Check(look, needs, elsewhere)
        return look

    return add


def ok(message: str) -> Finding:
    """Return that all is well."""
    return Finding("ok", message)


def warning(message: str, cure: str, fix: Callable[[], object] | None = None) -> Finding:
    """Return that it works, and may not for long."""
    return Finding("warning", message, cure, fix)


def failed(message: str, cure: str, fix: Callable[[], object] | None = None) -> Finding:
    """Return that something does not work."""
    return Finding("failed", message, cure, fix)


def skipped(why: str) -> Finding:
    """Return that this could not be looked at."""
    return Finding("skipped", why)


# -- settings ---------------------------------------------------------------------------------------------


@check(elsewhere=True)
def env_file(case: Case) -> Findings:
    """Every setting can be used, and each line of `.env` means the same to all who read it.

    The message shows the line and how to write it. `--fix` writes a `.env` where there is none (`invoke init`).
    """
    chosen = case.settings
    if chosen.env_file.name == ".env":
        yield ok(f"{chosen.env_file} can be used")
    else:
        write = "Type `invoke init` to have them all in a file."
        yield warning(
            "There is no .env, so every setting has its default.", write, lambda: init.init(case.root, isolated=False)
        )


@check(elsewhere=True)
def env_secrets(case: Case) -> Findings:
    """Only you can read `.env`, which may hold passwords.

    `chmod 600 .env`; `--fix` does it.
    """
    file = case.root / ".env"
    if not file.is_file():
        return
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        message = f"{file} can be read by other users of this machine (mode {mode:o}), and it may hold passwords."
        yield warning(message, f"Type `chmod 600 '{file}'`.", lambda: file.chmod(0o600))
    else:
        yield ok("nobody else can read .env")


# -- what the stack runs on -------------------------------------------------------------------------------


@check("env file")
def machine(case: Case) -> Findings:
    """Docker is asked on this machine, and not on another one, where its bind mounts and ports would be.

    `docker context use default`, or unset `DOCKER_HOST` and `DOCKER_CONTEXT`.
    """
    try:
        case.engine.check_machine()
    except Refused:
        raise
    except StackError:
        return  # there is no Docker; the next check says so
    yield ok("this one")


@check("env file", elsewhere=True)
def platform(case: Case) -> Findings:
    """What runs the stack answers, lets you in, and is new enough: Docker Engine 25 and Compose 2.24, or PostgreSQL 17.

    The message names what is missing: the program, the daemon, your permission, or the version.
    """
    found = f"{case.engine.name} engine: {case.engine.platform()}"
    if case.settings.engine == "auto" and case.engine.name == "embedded" and not case.home.exists():
        why = Docker(case.settings, case.root).why_not()
        yield warning(f"{found}, without Convex: {why}", "Or set STACK_ENGINE=embedded, if that is what you want.")
    else:
        yield ok(found)


@check("platform", elsewhere=True)
def address(case: Case) -> Findings:
    """The Compose files and layers can be read, and the database has an address on this machine.

    The message quotes Compose; mend the file that it names.
    """
    yield ok(case.endpoint.url() if case.endpoint else "the chosen layers have no database")


@check("address")
def images(case: Case) -> Findings:
    """Every image is here, or its registry gives it.

    `invoke up` pulls what is missing; else mend the network, or the image's name in `.env`.
    """
    missing = case.engine.missing_images()
    for image in missing:
        if why := case.engine.unobtainable(image):
            yield failed(
                f"{image} is not here, and its registry does not give it: {why.rstrip('.')}.",
                "Mend the network, or the name (POSTGRES_IMAGE, CONVEX_BACKEND_IMAGE, CONVEX_DASHBOARD_IMAGE).",
            )
        else:
            yield warning(f"{image} is not here yet.", "`invoke up` pulls it.")
    if not missing:
        yield ok("everything that is started is here")


@check("platform")
def project_name(case: Case) -> Findings:
    """No other checkout uses this one's project name, and this one does not run under another name.

    `invoke init --isolated` in one of them; `invoke down` for a name that was changed.
    """
    case.engine.check_name()
    yield ok(f"{case.settings.project} is this checkout's own")


@check("address", "project name")
def ports(case: Case) -> Findings:
    """Every port is free or held by this stack, on ::1 (`localhost`) too; else the message names who holds it.

    Stop that, or `invoke init --isolated` for other ports.
    """
    case.engine.check_ports()
    yield ok("each is free, or this stack's")


# -- the data ---------------------------------------------------------------------------------------------


@check("address")
def directories(case: Case) -> Findings:
    """The data directories are plain directories that this checkout may use: no file, link or mount, the owner right.

    The message says what is in the way, or why Docker cannot mount them; only you know whether it may be moved.
    """
    mounted = guards.unbindable(case.root) if isinstance(case.engine, Docker) else None
    found = [failed(*mounted)] if mounted else []
    found += filter(None, map(_directory, (case.root / "data", *case.engine.directories().values())))
    yield from found
    if not found:
        yield ok("data/ is as it should be")


def _directory(path: Path) -> Finding | None:
    if path.is_symlink():
        where = os.path.realpath(path)
        if not path.exists():
            return failed(f"{path} is a link to {where}, which does not exist.", f"Make that, or remove {path}.")
        return failed(*guards.link(path))
    if path.exists() and not path.is_dir():
        return failed(f"{path} is not a directory.", "Look at it, and remove it.")
    if path.is_mount():
        return warning(f"{path} is a mount, which `reset` and `reset-data` refuse to empty.", "Unmount it to be free.")
    return _owner(path) if path.exists() else None


def _owner(path: Path) -> Finding | None:
    if path.name == "data" and not os.access(path, os.W_OK | os.X_OK):
        return failed(f"{path} is another user's, so nothing can be started.", f"Type `sudo chown $USER '{path}'`.")
    if path.name != "embedded":
        return None  # a container's user takes over whatever it finds
    facts = path.stat()
    account = rights.account(path, path.parent.parent)  # when this is root, `up` gives the data to the account
    if not account and facts.st_uid != os.geteuid():
        return failed(*guards.closed(path))
    if facts.st_mode & 0o027 and any(path.iterdir()):
        mode = f"{facts.st_mode & 0o777:o}"
        return failed(f"{path} has mode {mode}, so PostgreSQL refuses it.", f"Type `chmod 700 '{path}'`.")
    return None


@check("address")
def disk(case: Case) -> Findings:
    """The disk of the data directory has 2 GB free; with less than 100 MB nothing is started.

    Make room; `docker system df` shows what Docker keeps.
    """
    places.refuse_if_full(case.home)
    left = places.free(case.home)
    if left < places.TIGHT:
        yield warning(f"Only {human(left)} are free where {case.home} is.", "Make room (`docker system df`).")
    else:
        yield ok(f"{human(left)} free")


@check("images", "project name", "directories")
def data_version(case: Case) -> Findings:
    """The data was made by the major version of PostgreSQL that is started.

    Dump with the old and load with the new; the message has the commands.
    """
    try:
        made_by, runs = places.made_by(case.cluster), case.engine.major()
    except StackError as error:
        yield skipped(error.what)
        return
    if runs > MAJOR:
        yield failed(
            f"The image is PostgreSQL {runs}, which keeps its data elsewhere than this stack's {MAJOR}.",
            f"Set POSTGRES_IMAGE back to PostgreSQL {MAJOR}.",
        )
    elif made_by and runs and made_by != str(runs):
        why, cure = case.engine.other_major(made_by)
        yield failed(f"{case.home} cannot be used: {why}.", cure)
    elif case.cluster and not made_by:
        yield ok(f"{places.lack(places.VERSION, case.cluster)}, so nothing tells; see the next line")
    else:
        yield ok(f"made by PostgreSQL {made_by}" if made_by else "there is no data yet")


@check("data version")
def first_start(case: Case) -> Findings:
    """The first start, which makes the data, ran to its end, and the files without which it does not start are there.

    The message says what the data holds, how big it is, and how to keep it. `--fix` writes `PG_VERSION`,
    `postgresql.conf` and `pg_hba.conf` anew where they are missing, and gives `pg_hba.conf` the line
    `host all all all scram-sha-256` where nobody is let in.
    """
    service = case.services.get(POSTGRES)
    if service and service.just_starting:
        yield skipped("postgres is just starting")
    elif case.cluster and (why := _half_made(case.cluster, case.engine.name)):
        yield _unfinished(case, why)
    elif service and service.state == "running" and not case.cluster:
        yield failed(
            f"The server runs, and {case.home} is gone or empty: its files were deleted beneath it, and what was in"
            " them is lost, unless you have a dump or a copy.",
            "To begin anew, type `invoke down`, then `invoke up`.",
        )
    else:
        yield ok("complete" if case.cluster else "there is no data yet")


def _half_made(files: dict[str, str], engine_name: str) -> str:
    for name in (*CORNERSTONES, "postgresql.conf"):
        if why := places.lack(name, files):
            return why
    if lost := set(HALLS) - set(files[""].splitlines()):
        return f"{sorted(lost)[0]} is missing"
    hosts = [line.split() for line in files["pg_hba.conf"].splitlines() if line.startswith(("host", "include"))]
    # The image adds `host all all all` last; initdb's own lines let nobody in but the container itself.
    let_in = [words for words in hosts if engine_name == "embedded" or not {"127.0.0.1/32", "::1/128"} & set(words)]
    return "" if let_in else NOBODY


NOBODY = "pg_hba.conf lets nobody in but the container itself"


def _unfinished(case: Case, why: str) -> Finding:
    """Return what to do about a cluster that lacks something; only what can hold nothing of the user's is half-made."""
    held, home = case.engine.contents(), case.home
    users = not held or held.files or held.complete
    begin = places.start_over(home, held)
    if users and why == NOBODY:
        message = f"{why}; {home} holds {held or 'what cannot be seen from here'}, and nothing of it is lost."
        cure = f"Type `invoke doctor --fix`, which gives it the line `{places.ADMIT}`."
        cure += "" if not held or held.files else f" If its first start was interrupted: {begin}"
        return failed(message, cure, lambda: case.engine.append("pg_hba.conf", places.ADMIT))
    if users and (lost := refusals.lost_text(case.engine)):
        return failed(
            f"{refusals.lacks(case.engine, lost)}; {home} holds {held or 'what cannot be seen from here'}, and nothing"
            " of that is lost.",
            "Type `invoke doctor --fix`, which writes that as it was when the data was made (what you had changed in it"
            " is gone), then `invoke up`.",
            lambda: refusals.write_lost_text(case.engine),
        )
    if users and (not held or held.files):
        return failed(f"{home} is damaged: {why}.", begin)
    if places.VERSION in why:
        why = "it holds files, and no cluster"
    return failed(f"{home} is half-made, as by a first start that was interrupted: {why}.", begin)


@check("address")
def leftovers(case: Case) -> Findings:
    """Nothing that a dead command left half deleted or half made lies in `data/`.

    `--fix` deletes it; so does the next `invoke up`.
    """
    found = [path.name for path in unfinished(case.root)]
    if found:
        message = f"data/ holds what commands that died have left behind: {', '.join(sorted(found))}."
        yield warning(message, "Type `invoke doctor --fix`.", lambda: sweep(case.engine))
    else:
        yield ok("none")


@check("address", "project name")
def shared_memory(case: Case) -> Findings:
    """The server has more shared memory (`/dev/shm`) than Docker's default of 64 MB, which parallel queries outgrow.

    Give the service `postgres` an `shm_size: 256mb`.
    """
    size = case.engine.shared_memory()
    if size is not None and size <= SHARED_MEMORY:
        message = f"The server has {human(size)} of shared memory for parallel queries."
        yield warning(message, "Give the service postgres `shm_size: 256mb`.")
    elif size:
        yield ok(human(size))


# -- what runs --------------------------------------------------------------------------------------------


@check("address", "project name")
def services(case: Case) -> Findings:
    """Every service that was started is healthy.

    `invoke logs SERVICE` for its words, `invoke up` to try again.
    """
    if all(service.state == "not started" for service in case.services.values()):
        yield skipped("nothing runs; type `invoke up`")
        return
    ill = [service for service in case.services.values() if not service.ready]
    for service in ill:
        if service.just_starting:
            yield warning(f"{service.name} is starting.", "Type `invoke wait-healthy`.")
        elif service.state == "paused":
            yield failed((found := paused(service.name)).what, found.cure)
        else:
            log = case.engine.last_words(service.name) if service.state != "not started" else ""
            asking = f"Type `invoke logs {service.name}` for its words, `invoke up` to try again."
            known = explain(case.engine, service.output) or explain(case.engine, log, log=True)
            why, cure = known or (service.output or "see its log", asking)
            yield failed(f"{service.name} is {service}: {why}.", cure)
    if not ill:
        yield ok("all healthy")


@check("address", "project name", elsewhere=True)
def log_in(case: Case) -> Findings:
    """A login from this machine works: the data was initialised with the password, user and database of `.env`.

    Put the former value back. `--fix` gives the database the new password, and creates a missing database. When another
    server answers at the address of this stack's, stop that, or `invoke init --isolated`.
    """
    service = case.services.get(POSTGRES)
    if not case.endpoint or not service or service.state != "running":
        yield skipped("postgres is not running")
        return
    if service.restarts and service.health == "starting":
        yield skipped("postgres keeps ending")
        return
    try:
        yield ok(f"works: PostgreSQL {login(case.endpoint, case.engine)}")
    except LoginFailed as error:
        if case.ours and "Connection refused" in telling(str(error)):
            why = f"Nothing listens at {case.endpoint.url()}; the settings may have changed since it was started."
            yield failed(why, "Type `invoke down`, then `invoke up`, to start with those of now.")
        else:
            yield _shut(case, case.endpoint, str(error)) or _why_not_in(case, case.endpoint, str(error))


# What our own server does not say to who has its user, password and database; the last three are no PostgreSQL.
_REFUSED = re.compile(
    r'password authentication failed|(role|database) ".*" does not exist'
    r"|invalid response|expected authentication|timeout"
)


def _why_not_in(case: Case, endpoint: Endpoint, said: str) -> Finding:
    last = telling(said)
    if not case.ours:
        return failed(f"{endpoint.url()} does not let us in: {last}", "Mend DATABASE_URL, or the server.")
    known = _inside(case.engine, endpoint)
    if known and (found := _differs(case.engine, endpoint, said, known)):
        return found
    if "password authentication failed" in said:
        return failed(
            f"The data was initialised with another user, or with another password and a superuser who is not"
            f" {' or '.join(dict.fromkeys((endpoint.user, POSTGRES)))}.",
            "Put the former POSTGRES_USER and POSTGRES_PASSWORD back.",
        )
    log = case.engine.last_words(POSTGRES)
    known_of_it = explain(case.engine, said) or explain(case.engine, log, log=True)
    why, cure = known_of_it or ("", "Type `invoke logs postgres`.")
    return failed(f"The database does not let us in: {why or last}.", cure)


def _shut(case: Case, endpoint: Endpoint, said: str) -> Finding | None:
    """Return that a server is full, or a database closed; None when it refuses for another reason."""
    kind = refusals.refusal(said)
    if not case.ours or not kind or kind.cause == "other":
        return None
    if another := refusals.anothers(case.engine, said):
        return failed(f"The database does not let us in: {another[0]}.", another[1])
    why, cure = kind.explain(case.engine, said)
    message = f"The database does not let us in: {why}."
    if kind.cause == "full":
        return failed(message, cure)
    return failed(message, cure, lambda: open_database(case.engine, endpoint))


def _differs(chosen: Engine, endpoint: Endpoint, said: str, known: dict[str, Any]) -> Finding | None:
    """Return in what our own server, asked from inside, differs from the settings, or from the one that answered."""
    if endpoint.user not in known["users"]:
        return failed(
            f"The data was initialised with another user: it has no {endpoint.user!r}, but {_names(known['users'])}.",
            "Put the former POSTGRES_USER back.",
        )
    # Of a database whose files are gone our own server says that it does not exist, and the reason in a DETAIL.
    if _REFUSED.search(said) and "subdirectory" not in said and _lets_in(chosen, endpoint, known):
        return failed(
            f"Another than this stack's server listens at {endpoint.host}:{endpoint.port}:"
            f" {holder(int(endpoint.port), endpoint.host)}. It does not let us in ({telling(said)}), and this stack's"
            " own has the password, the user and the database of the settings.",
            APART,
        )
    if "password authentication failed" in said:
        return failed(
            "The data was initialised with another password.",
            "Put the former POSTGRES_PASSWORD back, or type `invoke doctor --fix` to give the database the new one.",
            lambda: set_password(chosen, endpoint, known["superuser"]),
        )
    if endpoint.database not in known["databases"]:
        return failed(
            f"There is no database {endpoint.database!r}, but {_names(known['databases'])}.",
            "Put the former POSTGRES_DB back, or type `invoke doctor --fix` to create an empty one.",
            lambda: create_database(chosen, endpoint, known["superuser"]),
        )
    return None


def _names(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


@check("address", "project name")
def open_door(case: Case) -> Findings:
    """The database's password is not the default one, which everybody knows, where other machines reach its port.

    `invoke init --password` writes a random one into `.env`; then `invoke up`, and `invoke doctor --fix` for data that
    is there already.
    """
    if door := ready.open_door(case.engine):
        yield warning(*door)
    else:
        yield ok("closed to whom only the default password would let in")


# -- the database -----------------------------------------------------------------------------------------


@check("log in", elsewhere=True)
def clock(case: Case) -> Findings:
    """The database's clock agrees with this machine's to 5 seconds.

    Restart Docker, whose virtual machine's clock stands still while the computer sleeps; or set the clock.
    """
    ((theirs,),) = case.rows("SELECT extract(epoch FROM clock_timestamp())::float8")
    off = theirs - time.time()
    if abs(off) > SKEW:
        which = "ahead of" if off > 0 else "behind"
        yield warning(f"The database's clock is {abs(off):.0f} s {which} this machine's.", "Restart Docker.")
    else:
        yield ok("agrees with this machine's")


@check("log in", elsewhere=True)
def connections(case: Case) -> Findings:
    """Fewer than nine in ten of the connections that are not kept for superusers are taken, or of the database's own.

    The message says who has them. Close that program, or `invoke restart postgres`, which ends every session.
    """
    ((name, taken, limit, kept, here, allowed),) = case.rows("""
        SELECT datname, (SELECT count(*) FROM pg_stat_activity
                         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
               current_setting('max_connections')::int,
               current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true), '0')::int,  -- since 16
               numbackends, datconnlimit
        FROM pg_database JOIN pg_stat_database USING (datname) WHERE datname = current_database()""")
    cure = "Close that program, or type `invoke restart postgres`, which ends every session."
    if taken * 10 >= (limit - kept) * 9:
        which = f"{taken} of {limit} connections are taken ({kept} are kept for superusers)"
        yield warning(f"{which}{refusals.holders(case.engine)}.", cure)
    elif 0 <= allowed < here:  # which counts this session
        who = refusals.holders(case.engine)
        message = (
            f"{name} allows {counted(allowed, 'connection')} (CONNECTION LIMIT), and {here - 1} of them taken{who}."
        )
        yield warning(message, f"{cure} Or change the limit: `ALTER DATABASE … CONNECTION LIMIT -1`.")
    else:
        yield ok(f"{taken} of {limit} are taken, and this one")


@check("log in", elsewhere=True)
def checksums(case: Case) -> Findings:
    """No page that was read had a wrong checksum.

    `invoke dump` what can be read, or take your last dump. The message has the way to a new cluster that keeps the old.
    Doubt the disk.
    """
    if case.rows("SHOW data_checksums") == [("off",)]:
        yield skipped("this cluster was made without checksums")
        return
    query = "SELECT coalesce(datname, 'shared'), checksum_failures FROM pg_stat_database WHERE checksum_failures > 0"
    damaged = [f"{name} ({counted(count, 'time')})" for name, count in case.rows(query)]
    if damaged:
        yield failed(
            f"The disk gave back other data than was written, in {_names(damaged)}.",
            "Type `invoke dump` while it can be read, and doubt the disk. A new cluster beside the old one:"
            f" {places.keep(case.home)}, `invoke load FILE` with that dump or your last good one. {KEPT_REST}",
        )
    else:
        yield ok("no failure since the statistics began")


@check("log in", elsewhere=True)
def transaction_ids(case: Case) -> Findings:
    """No database is on its way to run out of transaction ids: its oldest is younger than 500 million.

    `VACUUM (FREEZE)` in that database, after ending what holds it back (long transactions, prepared ones).
    """
    query = "SELECT datname, greatest(age(datfrozenxid), mxid_age(datminmxid)) FROM pg_database ORDER BY 2 DESC LIMIT 1"
    ((name, age),) = case.rows(query)
    if age > AGEING:
        message = f"The oldest transaction of {name} is {age // 10**6} million back; the server stops at 2100 million."
        cure = f"Type `invoke psql -c 'VACUUM (FREEZE)'` for {name}, and end what is in pg_prepared_xacts."
        yield failed(message, cure) if age > OLD else warning(message, cure)
    else:
        yield ok(f"the oldest is {age} transactions back")


@check("log in", elsewhere=True)
def indexes(case: Case) -> Findings:
    """No index is invalid, left behind by a `CREATE INDEX CONCURRENTLY` that failed: it is written and never used.

    `REINDEX INDEX CONCURRENTLY`, or `DROP INDEX`.
    """
    query = """
        SELECT indexrelid::regclass::text FROM pg_index AS i
        WHERE NOT indisvalid AND NOT EXISTS (
            SELECT FROM pg_stat_progress_create_index AS p WHERE p.index_relid = i.indexrelid)"""
    invalid = case.rows(query)
    for (name,) in invalid:
        cure = f"Type `invoke psql -c 'REINDEX INDEX CONCURRENTLY {name}'`, or drop it."
        yield warning(f"The index {name} is invalid: it is written, and never used.", cure)
    if not invalid:
        yield ok("all valid")


@check("log in", elsewhere=True)
def collation(case: Case) -> Findings:
    """The rules that text is sorted by are those that the indexes were made with.

    `REINDEX DATABASE`, then `ALTER DATABASE … REFRESH COLLATION VERSION`, in that database.
    """
    query = """
        SELECT datname, datcollversion, pg_database_collation_actual_version(oid) FROM pg_database
        WHERE datallowconn AND datcollversion <> pg_database_collation_actual_version(oid)"""
    changed = case.rows(query)
    for name, made_with, now in changed:
        quoted = f'"{name}"'
        yield warning(
            f"The text indexes of {name} were made with collation version {made_with}, and the server has {now}: they"
            " may miss rows.",
            f"In it, type `REINDEX DATABASE {quoted}; ALTER DATABASE {quoted} REFRESH COLLATION VERSION`.",
        )
    if not changed:
        yield ok("that of the indexes")


@check("log in", "directories")
def snapshot_room(case: Case) -> Findings:
    """The disk has room for a snapshot, which is a whole copy of the database.

    Drop old snapshots, or make room.
    """
    ((size,),) = case.rows("SELECT pg_database_size(current_database())")
    left = places.free(case.home)
    if size + snapshots.MARGIN > left:
        message = f"A snapshot would take {human(size)}, and {human(left)} are free."
        yield warning(message, "Type `invoke drop-snapshot NAME` (`invoke snapshots` lists them), or make room.")
    else:
        yield ok(f"a snapshot takes {human(size)} of {human(left)}")


@check("log in", "directories")
def unfinished_copies(case: Case) -> Findings:
    """No copy of the database is left that a dead command has not finished, or that could not be dropped.

    `--fix` drops it, or the message says what is in the way; a database that only is called like one is yours.
    """
    try:
        left = snapshots.left(case.engine)
    except Refused as error:  # it runs with other settings than those of now
        yield skipped(error.what)
        return
    for each in left:
        if each.ours:
            message = f"A copy of the database is left, unfinished or no longer wanted: {each.what}"
            yield warning(message, each.cure, lambda: snapshots.clear(case.engine))
        else:
            yield warning(each.what, each.cure)
    if not left:
        yield ok("none")


@check("log in", "directories")
def lost_files(case: Case) -> Findings:
    """No files of a copy lie in the cluster that belong to no database, as when a server was killed while copying.

    They do no harm. The message has the way to have the room back: PostgreSQL itself never deletes them.
    """
    query = """
        SELECT count(*), coalesce(sum((
            SELECT sum((pg_stat_file('base/' || name || '/' || file, true)).size)
            FROM pg_ls_dir('base/' || name, true, false) AS file)), 0)::int8
        FROM pg_ls_dir('base') AS name
        WHERE name ~ '^[0-9]+$' AND NOT EXISTS (SELECT FROM pg_database WHERE oid = name::oid)
          AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND query ILIKE '%database%'
                          AND pid <> pg_backend_pid())"""
    ((count, size),) = case.rows(query)
    if count:
        yield warning(
            f"{human(size)} in the cluster belong to no database: the server was killed while it copied one.",
            f"They do no harm. To have the room back: `invoke dump`, {places.keep(case.home)}, `invoke load FILE` with"
            f" that dump; and delete what is kept when nothing is missing. {KEPT_REST}",
        )
    else:
        yield ok("none")


# -- what --fix does to a database: through the socket, on which the server trusts who is beside it ------------


def _inside(chosen: Engine, endpoint: Endpoint) -> dict[str, Any] | None:
    """Return who may log in, which databases there are, and a superuser; None when no superuser is known."""
    query = """SELECT json_build_object('superuser', current_user,
        'users', (SELECT json_agg(rolname ORDER BY rolname) FROM pg_roles WHERE rolcanlogin),
        'databases', (SELECT json_agg(datname ORDER BY datname) FROM pg_database
                      WHERE datallowconn AND NOT datistemplate))
        FROM pg_roles WHERE rolname = current_user AND rolsuper;"""
    for user in dict.fromkeys((endpoint.user, POSTGRES)):
        try:
            told = tell(chosen, user, query)
        except StackError:
            continue
        if told:
            known: dict[str, Any] = json.loads(told)
            return known
    return None


def _lets_in(chosen: Engine, endpoint: Endpoint, known: dict[str, Any]) -> bool:
    """Return whether our own server has the user, the database and the password of `endpoint`."""
    from psycopg import sql

    query = sql.SQL(
        "SELECT rolpassword FROM pg_authid WHERE rolname = {} AND now() < coalesce(rolvaliduntil, 'infinity');"
    ).format(sql.Literal(endpoint.user))
    verifier = tell(chosen, known["superuser"], query.as_string(None))
    return endpoint.database in known["databases"] and identity.is_password(verifier, endpoint.password)


def set_password(chosen: Engine, endpoint: Endpoint, superuser: str) -> None:
    """Give the role of `endpoint` its password; only a SCRAM verifier leaves this process, and no log keeps it."""
    from psycopg import pq, sql

    never = pq.PGconn.connect_start(b"host=/nonexistent")  # an object to ask, not a connection
    verifier = never.encrypt_password(endpoint.password.encode(), endpoint.user.encode(), b"scram-sha-256").decode()
    role = sql.Identifier(endpoint.user).as_string(None)
    quiet = "SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_error_statement = panic;"
    # One that has expired is refused with the same words as a wrong one.
    tell(chosen, superuser, f"{quiet} ALTER ROLE {role} PASSWORD '{verifier}' VALID UNTIL 'infinity';")
    say(f"The password of {endpoint.user} is now that of the settings.")


def create_database(chosen: Engine, endpoint: Endpoint, superuser: str) -> None:
    """Create the empty database of `endpoint`, owned by its user."""
    from psycopg import sql

    names = (sql.Identifier(name).as_string(None) for name in (endpoint.database, endpoint.user))
    tell(chosen, superuser, "CREATE DATABASE {} OWNER {};".format(*names))
    say(f"The database {endpoint.database} was created; it is empty.")


def open_database(chosen: Engine, endpoint: Endpoint) -> None:
    """Let sessions into the database of `endpoint` again."""
    from psycopg import sql

    superuser = (_inside(chosen, endpoint) or {}).get("superuser", endpoint.user)
    name = sql.Identifier(endpoint.database).as_string(None)
    tell(chosen, superuser, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true;")
    say(f"The database {endpoint.database} lets sessions in again.")


# -- all of them ------------------------------------------------------------------------------------------


def doctor(root: Path, *, fix: bool, as_json: bool) -> int:
    """Print what every check finds, mend what can be mended safely if `fix`, and return 1 if any check failed."""
    case, findings = _examine(root)
    tried: set[str] = set()
    for _ in range(ROUNDS if fix else 0):
        todo = {finding.message for finding in findings if finding.fix}
        if not todo - tried:
            break
        tried |= todo
        before = {finding.check for finding in findings if not finding.well} | {f.check for f in findings if f.fixed}
        _mend(root, findings)
        case, after = _examine(root)
        findings = [replace(each, fixed=each.state == "ok" and each.check in before) for each in after]
    if as_json:
        give(json.dumps({"engine": _engine_name(case), "findings": [_row(each) for each in findings]}, indent=2))
    else:
        _print(findings)
    return int(any(finding.state == "failed" for finding in findings))


def _examine(root: Path) -> tuple[Case, list[Finding]]:
    case, findings = Case(root), list[Finding]()
    for name, each in CHECKS.items():
        findings += [replace(finding, check=name) for finding in _run(case, each, findings)]
    return case, findings


def _run(case: Case, each: Check, before: list[Finding]) -> list[Finding]:
    for other in before:
        if other.check in each.needs and other.state in ("failed", "skipped"):
            return [skipped(f"{other.check!r} failed" if other.state == "failed" else other.message)]
    if not each.elsewhere and not case.ours:
        return []
    try:
        return list(each.look(case))
    except StackError as error:
        return [failed(error.what, error.cure)]
    except (LoginFailed, OSError) as error:
        return [failed(f"This could not be looked at: {error}", "Type `invoke status`.")]


def _mend(root: Path, findings: list[Finding]) -> None:
    try:
        with engine.exclusive(root):
            for finding in findings:
                if finding.fix:
                    _try(finding.fix)
    except StackError as error:
        say(str(error))


def _try(fix: Callable[[], object]) -> None:
    try:
        fix()
    except (StackError, OSError) as error:
        say(f"This could not be mended: {error}")


def _engine_name(case: Case) -> str:
    try:
        return case.engine.name
    except StackError:
        return ""


def _row(finding: Finding) -> dict[str, Any]:
    names = ("check", "state", "message", "cure", "fixed")
    return {name: _line(value) if isinstance(value := getattr(finding, name), str) else value for name in names}


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    colours = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
    lines = []
    for each in findings:
        state = "fixed" if each.fixed else each.state
        stop = "." if each.cure and each.message.rstrip()[-1:].isalnum() else ""
        line = Text(f"{state:8} {each.check:17} {_line(f'{each.message.rstrip()}{stop} {each.cure}')}")
        line.stylize(colours[each.state], 0, 8)
        lines.append(line)
    draw(*lines, plain_width=100_000, soft_wrap=True)


def table() -> str:
    """Return the README's table of all checks."""
    rows = (f"| {name} | {wanted} | {cure} |" for name, (wanted, cure) in ((n, c.texts) for n, c in CHECKS.items()))
    return "\n".join(("| check | what it wants to see | if not |", "|---|---|---|", *rows))
