"""With whose rights a server runs that root starts: an account's that has none, since who logs in has what it has.

A superuser of the database reads files and starts programs as the server's user, and the default password is known to
all. So root is no user for a server, not even in disguise: its real user id counts.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stack.ground.errors import StackError
from stack.ground.run import Rights, look

_INHERITED = ("PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
"""Variables of root's that the server gets, and LC_*: the others may hold secrets, and who logs in can read them."""
LOCALE = {"LC_ALL": "C"}
"""What every server is told: on a Mac whose shell has no LANG it would end, as a locale's library starts a thread."""
_AS_ONESELF = "Type the command as an ordinary user, in a checkout that is that user's."
_QUESTION = """
n=0; while [ "$1" != / ]; do test -x "$1" || echo $n; n=$((n + 1)); shift; done
shift; log=$1; shift
test -x "$1/postgres" || echo "$1/postgres may not be run" >&2
for place; do test -r "$place" && test -x "$place" || echo "$place may not be read" >&2; done
[ -z "$log" ] || [ -f "$log" ] || [ ! -e "$log" ] || { echo "$log is no file" >&2; exit; }
[ -z "$log" ] || : >>"$log"
"""
"""What the kernel alone can answer, which knows of access lists too; asked with the account's rights."""


class Account(NamedTuple):
    """A user of this machine who is not root."""

    name: str
    uid: int
    gid: int

    @property
    def rights(self) -> Rights:
        """What a program is started with that is to have this user's rights and no group of root's."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


class Way(NamedTuple):
    """How a program is started with other rights: what stands before its command line, and as whom."""

    prefix: list[str]
    rights: Rights
    env: dict[str, str]
    """As `process.environment` takes it."""


def account(*places: Path) -> Account | None:
    """Return who runs the server when root starts it; None when this user does.

    The owner of the first of the places who is not root, so that they can go on with it; else `postgres`, or `nobody`.
    PostgreSQL does not run for a user id without an account. Raises StackError when there is none at all.
    """
    if os.geteuid() != 0 or _nobody_else():
        return None
    owners = (str(place.stat().st_uid) for place in places if place.exists())
    for who in (*owners, "postgres", "_postgres", "_postgresql", "nobody"):
        try:
            found = pwd.getpwuid(int(who)) if who.isdigit() else pwd.getpwnam(who)
        except KeyError:
            continue
        if found.pw_uid:
            return Account(found.pw_name, found.pw_uid, found.pw_gid or found.pw_uid)
    raise StackError(
        "PostgreSQL does not run as root, and this machine has no account that it could run as: neither `postgres` nor"
        f" `nobody`. {_AS_ONESELF}"
    )


def way(
    chosen: Account | None, data: Path, programs: Path, *others: Path, log: Path | None = None, ask: bool = True
) -> Way:
    """Return how a server on `data` is started, whose programs are in `programs`; `others` are directories it needs.

    Where the way to one of them is closed to the account, as in root's home, the program gets a view of the file system
    of its own in which it is open, with the same paths and with nothing else behind the closed door.
    Without `ask`, no program is started to find out what is plain to see: that everybody may go there.
    Raises StackError when the account may not use them, or root may not start programs as that account.
    """
    if not chosen:
        disguise = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
        return Way(disguise, {}, dict(LOCALE))
    siblings = (programs.parent / name for name in ("lib", "lib64", "share"))
    wanted = [programs, *(place for place in siblings if place.is_dir())]
    places = [data, *wanted, *others]
    doors = list(dict.fromkeys(door for place in places for door in reversed(place.parents)))
    env = {name: "" for name in os.environ if name not in _INHERITED and not name.startswith("LC_")}
    env.update(LOCALE)
    drop = _setpriv(chosen)
    found = Way(drop, {}, env) if drop else Way([], chosen.rights, env)
    if not ask and _plainly_open(chosen, doors, wanted, log):
        return found
    shut, said = _try(chosen, Way([], chosen.rights, env), doors, wanted, log)
    if shut:
        behind = [place for place in places if shut & {*place.parents}]
        first = [door for door in doors if door in shut and not shut & {*door.parents}]
        found = Way(_own_view(chosen, first, behind), {}, env)
        shut, said = _try(chosen, found, doors, wanted, log)
        if shut or "unshare:" in said or "mount:" in said or "not found" in said:
            raise StackError(
                f"PostgreSQL does not run as root. It would run as the account {chosen.name}, but that may not enter"
                f" {first[0]}, and this machine does not let root open a way of its own ({said}). Move the checkout to"
                f" a directory that others may enter. Or: {_AS_ONESELF[0].lower()}{_AS_ONESELF[1:]}"
            )
    if said:
        mine = " ".join(shlex.quote(str(place)) for place in wanted)
        cure = f"chmod -R a+rX {mine}"
        if log and str(log) in said:
            place, plain = shlex.quote(str(log)), log.is_file() and not log.is_symlink()
            cure = f"chown {chosen.name} {place}" if plain else f"mv {place} {shlex.quote(f'{log}.former')}"
        raise StackError(
            f"The server runs as the account {chosen.name}, which may not use what it needs: {said}.",
            cure=f"Type `{cure}`, then the command again.",
        )
    return found


def not_allowed(chosen: Account, error: OSError) -> StackError:
    """Return what to say when root may not become another user, as in a container without these rights."""
    return StackError(
        f"PostgreSQL does not run as root, and root may not start programs as the account {chosen.name} here"
        f" ({error.strerror}). {_AS_ONESELF}"
    )


def give(directory: Path, chosen: Account) -> None:
    """Give a cluster to an account, the directory itself last: an interruption is mended by the next attempt.

    Only what belonged to the directory's former owner is given, and nothing behind a link. Raises StackError.
    """
    former = directory.lstat().st_uid
    for link in (directory / "pg_wal", *_inside(directory / "pg_tblspc")):
        if link.is_symlink() and link.exists() and link.stat().st_uid != chosen.uid:
            there = shlex.quote(str(link.resolve()))
            raise StackError(
                f"The server runs as {chosen.name} and no longer with root's rights, and {link} leads to"
                f" {link.resolve()}, which {chosen.name} may not use. Nothing was changed.",
                cure=f"Type `chown -R {chosen.name} {there}`, then `invoke up`.",
            )
    try:
        for folder, _, names in os.walk(directory, topdown=False):
            for path in (*(Path(folder, name) for name in names), Path(folder)):
                if path != directory and path.lstat().st_uid == former:
                    os.chown(path, chosen.uid, chosen.gid, follow_symlinks=False)
        os.chown(directory, chosen.uid, chosen.gid, follow_symlinks=False)
    except OSError as error:
        raise StackError(
            f"{error.filename or directory} cannot be given to the account {chosen.name}, as which the server runs:"
            f" {error.strerror}. {_AS_ONESELF}"
        ) from None


def _inside(directory: Path) -> Iterator[Path]:
    return directory.iterdir() if directory.is_dir() else iter(())


def _nobody_else() -> bool:
    """Return whether root here is an ordinary user of the machine in a user namespace, and the only user in it."""
    try:
        lines = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:  # not Linux
        return False
    return len(lines) == 1 and lines[0].split()[2] == "1" and lines[0].split()[1] != "0"


def _plainly_open(chosen: Account, doors: list[Path], wanted: list[Path], log: Path | None) -> bool:
    """Return True when the modes alone tell that everybody may go there, and that the log is the account's."""
    try:
        facts = log.lstat() if log else None
    except FileNotFoundError:
        facts = None
    if facts and not (facts.st_uid == chosen.uid and stat.S_ISREG(facts.st_mode)):
        return False
    modes = (*((door, 0o001) for door in doors), *((place, 0o005) for place in wanted), (wanted[0] / "postgres", 0o005))
    return all(place.stat().st_mode & mode == mode for place, mode in modes)


def _try(chosen: Account, how: Way, doors: list[Path], wanted: list[Path], log: Path | None) -> tuple[set[Path], str]:
    """Return which directories the account may not go through, and what else keeps it from running PostgreSQL there."""
    asked = [*map(str, reversed(doors)), str(log or ""), *map(str, wanted)]
    try:
        answer = look([*how.prefix, "sh", "-c", _QUESTION, "sh", *asked], how.env, rights=how.rights)
    except OSError as error:
        raise not_allowed(chosen, error) from None
    said = answer.stderr.strip() or (f"exit code {answer.returncode}" if answer.returncode else "")
    return {Path(asked[int(number)]) for number in answer.stdout.split()}, said


def _setpriv(chosen: Account) -> list[str]:
    """Return the command that gives up root's rights, and all ways to get them back; none where it does not exist.

    Quicker than to have Python do it, which then copies itself first. That of Busybox cannot change the user.
    """
    program = shutil.which("setpriv")
    if not program or Path(program).resolve().name != "setpriv":
        return []
    return [program, f"--reuid={chosen.uid}", f"--regid={chosen.gid}", "--clear-groups", "--no-new-privs",
            "--inh-caps=-all", "--"]  # fmt: skip


def _own_view(chosen: Account, shut: list[Path], places: list[Path]) -> list[str]:
    """Return what opens a program's view: each closed directory is covered by an empty one with the way to the places.

    They are opened before they are covered. What is mounted on this machine later is seen by the server too.
    """
    quoted = [shlex.quote(str(place)) for place in places]
    numbers = range(3, 3 + len(places))  # a shell knows these with one digit
    steps = [
        "set -e; umask 022",
        "exec " + " ".join(f"{number}<{place}" for number, place in zip(numbers, quoted, strict=True)),
        *(f"mount -t tmpfs -o mode=0755,size=1m,nosuid,nodev stack {shlex.quote(str(door))}" for door in shut),
        f"mkdir -p {' '.join(quoted)}",
        *(
            f"mount --no-canonicalize --rbind /proc/self/fd/{number} {place}"
            for number, place in zip(numbers, quoted, strict=True)
        ),
        "exec " + " ".join(f"{number}<&-" for number in numbers),
        f'exec {" ".join(_setpriv(chosen) or ["setpriv"])} "$@"',
    ]
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", "\n".join(steps), "sh"]
