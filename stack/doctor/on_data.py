"""Checks of the data directories."""

from __future__ import annotations

import os
from pathlib import Path

from stack.doctor.case import CORNERSTONES, Case
from stack.engines.checks import Finding, Findings, check, failed, ok, skipped, warning
from stack.ground import disk as places
from stack.ground.catalog import POSTGRES
from stack.ground.talk import human
from stack.ground.trash import unfinished
from stack.server import pgdata
from stack.verbs import damage, exchange
from stack.verbs.wipe import sweep

HALLS = ("base", "global", "pg_wal", "pg_xact")
"""Directories, likewise."""
NOBODY = "pg_hba.conf lets nobody in but the container itself"


@check("address")
def directories(case: Case) -> Findings:
    """The data directories are plain directories that this checkout may use: no file, link or mount, the owner right.

    The message says what is in the way, or why Docker cannot mount them; only you know whether it may be moved.
    """
    unusable = case.data.unusable()
    found = [failed(*unusable)] if unusable else []
    found += filter(None, (_directory(case, path) for path in (case.root / "data", *case.data.directories().values())))
    yield from found
    if not found:
        yield ok("data/ is as it should be")


def _directory(case: Case, path: Path) -> Finding | None:
    if path.is_symlink():
        where = os.path.realpath(path)
        if not path.exists():
            return failed(f"{path} is a link to {where}, which does not exist.", f"Make that, or remove {path}.")
        return failed(*places.link(path))
    if path.exists() and not path.is_dir():
        return failed(f"{path} is not a directory.", "Look at it, and remove it.")
    if path.is_mount():
        return warning(f"{path} is a mount, which `reset` and `reset-data` refuse to empty.", "Unmount it to be free.")
    return _closed(case, path) if path.exists() else None


def _closed(case: Case, path: Path) -> Finding | None:
    if path.name == "data" and not os.access(path, os.W_OK | os.X_OK):
        return failed(f"{path} is another user's, so nothing can be started.", f"Type `sudo chown $USER '{path}'`.")
    closed = None if path.name == "data" else case.data.closed(path)
    return failed(*closed) if closed else None


@check("address")
def disk(case: Case) -> Findings:
    """The disk of the data directory has 2 GB free; with less than 100 MB nothing is started.

    Make room; `docker system df` shows what Docker keeps.
    """
    left = case.data.room(case.home)
    if left is None:
        yield skipped(f"nothing here can look into {case.home}, or it is not there yet")
    elif left < places.NEARLY_FULL:
        raise places.full(left, case.home)
    elif left < places.TIGHT:
        yield warning(f"Only {human(left)} are free where {case.home} is.", "Make room (`docker system df`).")
    else:
        yield ok(f"{human(left)} free")


@check("data version")
def first_start(case: Case) -> Findings:
    """The first start, which makes the data, ran to its end, and the files without which it does not start are there.

    The message says what the data holds, how big it is, and how to keep it. `--fix` writes `PG_VERSION`,
    `postgresql.conf` and `pg_hba.conf` anew where they are missing, and gives `pg_hba.conf` the line
    `host all all all scram-sha-256` where nobody is let in.
    """
    service = case.services.get(POSTGRES.name)
    if service and service.just_starting:
        yield skipped("postgres is just starting")
    elif case.cluster and (why := _half_made(case)):
        yield _unfinished(case, why)
    elif service and service.state == "running" and not case.cluster:
        yield failed(
            f"The server runs, and {case.home} is gone or empty: its files were deleted beneath it, and what was in"
            " them is lost, unless you have a dump or a copy.",
            "To begin anew, type `invoke down`, then `invoke up`.",
        )
    else:
        yield ok("complete" if case.cluster else "there is no data yet")


def _half_made(case: Case) -> str:
    files = case.cluster
    for name in (*CORNERSTONES, "postgresql.conf"):
        if why := pgdata.lack(name, files):
            return why
    if lost := set(HALLS) - set(files[""].splitlines()):
        return f"{sorted(lost)[0]} is missing"
    hosts = [line.split() for line in files["pg_hba.conf"].splitlines() if line.startswith(("host", "include"))]
    # The image adds `host all all all` last; initdb's own lines let nobody in but the container itself.
    let_in = [words for words in hosts if case.data.admits(words)]
    return "" if let_in else NOBODY


def _unfinished(case: Case, why: str) -> Finding:
    """Return what to do about a cluster that lacks something; only what can hold nothing of the user's is half-made."""
    held, home = case.data.contents(), case.home
    users = not held or held.files or held.complete
    begin = pgdata.start_over(home, held)
    if users and why == NOBODY:
        message = f"{why}; {home} holds {held or 'what cannot be seen from here'}, and nothing of it is lost."
        cure = f"Type `invoke doctor --fix`, which gives it the line `{pgdata.ADMIT}`."
        cure += "" if not held or held.files else f" If its first start was interrupted: {begin}"
        return failed(message, cure, lambda: case.data.append("pg_hba.conf", pgdata.ADMIT))
    if users and (lost := damage.lost_text(case.engine)):
        return failed(
            f"{damage.lacks(case.engine, lost)}; {home} holds {held or 'what cannot be seen from here'}, and nothing"
            " of that is lost.",
            "Type `invoke doctor --fix`, which writes that as it was when the data was made (what you had changed in it"
            " is gone), then `invoke up`.",
            lambda: damage.write_lost_text(case.engine),
        )
    if users and (not held or held.files):
        return failed(f"{home} is damaged: {why}.", begin)
    if pgdata.VERSION in why:
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


@check("log in")
def pair(case: Case) -> Findings:
    """No restore or load of the database and Convex was interrupted between the two.

    `--fix` lets Convex follow, or takes it back; so do `invoke up` and the next command that changes data.
    """
    if exchange.marks(case.root):
        yield warning(
            "A restore or load was interrupted between the database and Convex: they may be of two moments.",
            "Type `invoke up`, which finishes it.",
            lambda: exchange.settle_after_start(case.engine),
        )
    else:
        yield ok("none is half-way")
