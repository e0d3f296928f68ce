"""Every stack of this machine, whichever checkout made it, and the end of those whose checkout is gone."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from stack.engines import choose
from stack.engines.docker import machine
from stack.engines.embedded import shutdown
from stack.ground import disk, register, settings
from stack.ground.catalog import STATEFUL
from stack.ground.errors import StackError, Words
from stack.ground.tables import print_columns
from stack.ground.talk import ago, confirm, counted, give, human, say
from stack.server import processes


@dataclass
class Stack:
    """What there is of one checkout."""

    folder: Path
    project: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    used: float = 0
    """When it was set up or started last, in seconds since 1970; 0: nobody has written that down."""
    containers: list[machine.Container] = field(default_factory=list)
    servers: dict[int, Path] = field(default_factory=dict)
    """The servers that run without Docker, by their process id, with their directory."""

    @property
    def is_orphan(self) -> bool:
        """Whether its checkout is gone, and something of it is here."""
        return _is_gone(self.folder) and bool(self.containers or self.servers)

    @property
    def state(self) -> str:
        """What is up, in a word."""
        runs = sum(each.runs for each in self.containers) + len(self.servers)
        there = len(self.containers) + len(self.servers)
        return "down" if not runs else "up" if runs == there else f"{runs} of {there} up"

    @property
    def engine(self) -> str:
        """What runs it, as far as that is to be seen."""
        runs = [machine.ENGINE] * bool(self.containers) + ["embedded"] * bool(self.servers)
        return ", ".join(dict.fromkeys([*runs, *choose.with_data(self.folder)])) or "-"

    @property
    def branch(self) -> str:
        """The branch of git's that is checked out there; empty when there is none."""
        with suppress(OSError, UnicodeDecodeError):
            git = self.folder / ".git"
            if git.is_file():  # a worktree
                git = self.folder / git.read_text().partition("gitdir:")[2].strip()
            return (git / "HEAD").read_text().strip().removeprefix("ref: refs/heads/")[:40]
        return ""


def _is_gone(folder: Path) -> bool:
    """Return whether a checkout is gone, as far as this user may look.

    PostgreSQL ends within a minute when its files are deleted; Docker starts it again, and makes `data/` for that.
    """
    with suppress(OSError):
        data = folder / "data"
        return [*folder.iterdir()] == [data] and {each.name for each in data.iterdir()} <= {*STATEFUL}
    return disk.is_gone(folder)


def found(root: Path) -> list[Stack]:
    """Return the stacks of this machine, the one used last first, this checkout's among them."""
    used = {root: 0.0, **register.checkouts()}
    stacks = {folder: _of(folder, at) for folder, at in used.items() if disk.is_seen(folder / "docker-compose.yml")}
    for container in machine.stacks():
        its = stacks.setdefault(container.folder, _of(container.folder))
        its.containers.append(container)
        its.project, its.ports = container.project, {**its.ports, **container.ports}
    for pid, directory in processes.embedded().items():
        folder = directory.parents[1]
        stacks.setdefault(folder, _of(folder)).servers[pid] = directory
    return sorted(stacks.values(), key=lambda each: (-each.used, each.folder))


def _of(folder: Path, used: float = 0) -> Stack:
    made = Stack(folder, used=used)
    if disk.is_seen(folder / "docker-compose.yml"):
        with suppress(StackError, OSError, ValueError):
            its = settings.load(folder, {})
            made.project, made.ports = its.project, dict(its.ports)
    return made


def print_list(root: Path, *, as_json: bool) -> None:
    """Print them."""
    every = found(root)
    if as_json:
        give(json.dumps([_told(each) for each in every], indent=2))
        return
    rows = [
        (str(each.folder), each.branch or "-", "orphan, " * each.is_orphan + each.state, each.engine, each.project,
         str(each.ports.get("POSTGRES_PORT", "-")), human(_size(each)), _age(each))
        for each in every
    ]  # fmt: skip
    print_columns(("FOLDER", "BRANCH", "STATE", "ENGINE", "PROJECT", "PORT", "DATA", "USED"), rows)
    if told := orphans(every):
        say(" ".join(told))


def orphans(every: list[Stack]) -> Words | None:
    """Return which stacks have no checkout any more, and the cure; None when all have theirs."""
    gone = [str(each.folder) for each in every if each.is_orphan]
    if not gone:
        return None
    have, them = ("has", "it") if len(gone) == 1 else ("have", "them")
    why = f"{counted(len(gone), 'stack')} of this machine {have} no checkout any more: {', '.join(gone)}."
    return why, f"`invoke stacks --prune` ends what is left of {them}."


def mention(root: Path) -> str:
    """Return what `up` says of stacks whose checkout is gone; empty when all have theirs, which is asked first."""
    folders = [*machine.projects().values(), *(directory.parents[1] for directory in processes.embedded().values())]
    told = orphans(found(root)) if any(map(_is_gone, folders)) else None
    return " ".join(told or ())


def prune(root: Path, *, yes: bool) -> None:
    """End the stacks whose checkout is gone, after asking. Raises StackError naming what could not be ended."""
    gone = [each for each in found(root) if each.is_orphan]
    if not gone:
        say("Every stack of this machine has its checkout: there is nothing to end.")
        return
    for each in gone:
        names = [container.name for container in each.containers]
        names += [f"the PostgreSQL of process {pid}" for pid in each.servers]
        gone_is = f"{each.folder} is gone" if not disk.is_seen(each.folder) else f"{each.folder} has nothing but data/"
        say(f"{gone_is}. Left of it: {', '.join(names)}.")
    confirm("End these?", yes=yes)
    for each in gone:
        if not _is_gone(each.folder):  # it has come back while you thought
            continue
        machine.end(each.containers)
        for pid, directory in each.servers.items():
            shutdown.stop(pid, directory / "server.log", 10)
        kept = f" {each.folder / 'data'} is kept." if disk.is_seen(each.folder) else ""
        say(f"Ended what was left of {each.folder}.{kept}")


def _told(each: Stack) -> dict[str, Any]:
    used = datetime.fromtimestamp(each.used, timezone.utc).isoformat(timespec="seconds") if each.used else None
    return {
        "folder": str(each.folder), "branch": each.branch, "state": each.state, "orphan": each.is_orphan,
        "engine": each.engine, "project": each.project, "ports": each.ports, "bytes": _size(each), "used": used,
        "containers": [container.name for container in each.containers], "processes": [*each.servers],
    }  # fmt: skip


def _age(each: Stack) -> str:
    return ago(time.time() - each.used) if each.used else "-"


def _size(each: Stack) -> int:
    """Return the bytes of what may be looked at: a container's files may belong to another account."""
    total = 0
    for leaf in ("pg", "convex", "embedded"):
        with suppress(PermissionError):
            total += disk.used(each.folder / "data" / leaf)
    return total
