"""The data directories and volumes, with a container's eyes and hands where the user has no rights."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from stack.engines.base import Service
from stack.engines.docker import mountable
from stack.engines.docker.containers import Containers
from stack.engines.docker.holders import Holders
from stack.engines.docker.plan import POSTGRES, STATE, Plan
from stack.engines.docker.volumes import Volumes
from stack.ground import disk
from stack.ground.errors import Refused, StackError
from stack.ground.run import look
from stack.ground.volume import Place, Volume
from stack.server import pgdata, processes

# A listing, then name and text of each file that is there, all between zero bytes.
_READ = r"""cd "$0" && ls -A && for f; do [ ! -f "$f" ] || { printf '\0%s\0' "$f"; tr -d '\0' <"$f"; }; done"""
_APPEND = r"""[ -z "$3" ] || [ ! -s "$0/$1" ] || mv "$0/$1" "$0/$1.damaged"; printf '%s\n' "$2" >>"$0/$1" """


class Data:
    """The directories and volumes in which the services of one checkout keep their state."""

    texts: Mapping[str, str] = MappingProxyType(
        {
            "postgresql.conf": "listen_addresses = '*'",
            "pg_hba.conf": "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\n"
            "host all all all scram-sha-256",
        }
    )

    def __init__(self, plan: Plan, containers: Containers, others: Holders, made: Volumes) -> None:
        self.plan = plan
        self.containers = containers
        self.others = others
        self.made = made

    def directories(self) -> dict[str, Path]:
        """Return where the services keep their state, as Compose resolved it, by name: pg, convex."""
        return self.plan.directories()

    def stores(self) -> dict[str, Place]:
        """Return those, and the volumes of this checkout's in the place of some."""
        return {**self.plan.directories(), **self.plan.own_volumes()}

    def volumes(self) -> dict[str, str]:
        """Return the services that keep their state in a volume of somebody else's making, as words, by name."""
        return self.plan.volumes()

    def place(self) -> Place:
        """Return where the cluster is, or would be."""
        return self.plan.stores().get("pg", self.plan.root / "data" / "pg")

    def there(self, place: Place) -> bool:
        """Return whether a directory or a volume exists."""
        return self.made.there(place) if isinstance(place, Volume) else place.exists()

    def room(self, place: Place) -> int | None:
        """Return the bytes that are free on the disk of a directory, or of Docker's machine for a volume."""
        if isinstance(place, Volume):
            told = self._inside(place, "df", "-Pk", "{}") if self.there(place) else None
            return int(told.stdout.split()[-3]) * 1024 if told and not told.returncode else None
        # With Docker in a virtual machine the directory has another path there.
        return disk.free(place if place.exists() else self.plan.root / "data")

    def admits(self, rule: Sequence[str]) -> bool:
        """Return whether a line lets in more than the container itself, as those of initdb do."""
        return not {"127.0.0.1/32", "::1/128"} & set(rule)

    def closed(self, path: Path) -> None:
        """Return None: a container's user takes over whatever it finds."""

    def unusable(self) -> tuple[str, str] | None:
        """Return why Docker cannot mount what lies in this checkout, and the cure; None when it can."""
        return mountable.unbindable(self.plan.root)

    def holders(self, path: Place) -> list[processes.Holder]:
        """Return who is at work on `path` or something in it, or keeps a volume from being deleted; not this stack.

        Raises Refused when Docker is asked on another machine, and so cannot know who uses what is here.
        """
        self.containers.check_machine()
        found = self.others.on([path], self.containers.rows())[path]
        return found or (self.made.users(path) if isinstance(path, Volume) else [])

    def read(self, *names: str) -> dict[str, str]:
        """Return files of the cluster as `pgdata.read` does, with a container's eyes where the user may not look.

        Raises StackError when nobody here may.
        """
        path = self.place()
        if not self.there(path):
            return {}
        result = None
        try:
            if isinstance(path, Path):
                return pgdata.read(path, *names)
        except PermissionError:
            pass
        result = self._inside(path, "sh", "-c", _READ, "{}", *names)
        if not result or result.returncode:
            raise StackError(f"Nobody here can look into {path}.", cure="Type `invoke up --pull` for an image to look.")
        listing, *parts = result.stdout.split("\0")
        return {"": listing, **dict(zip(parts[::2], parts[1::2], strict=True))} if listing else {}

    def contents(self) -> pgdata.Contents | None:
        """Return what is in the cluster's directory, with a container's eyes where the user may not look.

        None when nobody here may, or the data is not in a directory of this machine.
        """
        if not (path := self.plan.stores().get("pg")):
            return None
        if not self.there(path):
            return pgdata.Contents()
        try:
            if isinstance(path, Path):
                return pgdata.contents(path)
        except PermissionError:
            pass
        listed = self._in_throwaway(path, "du", "-ak", "/data", mode="ro")
        if not listed or not listed.stdout:
            return None
        rows = [line.split("\t", 1) for line in listed.stdout.splitlines() if "\t/data/" in line]
        # It adds up what is in a directory; each file is to be counted once.
        above = {name.rpartition("/")[0] for _, name in rows}
        return pgdata.counted(
            (name.removeprefix("/data/"), 0 if name in above else int(kilobytes) * 1024) for kilobytes, name in rows
        )

    def append(self, name: str, text: str, *, instead: bool = False) -> None:
        """Add lines to a text file of the cluster as root of a throw-away container, and let the server read it."""
        path = self.place()
        done = self._in_throwaway(path, "sh", "-c", _APPEND, "/data", name, text, "instead" * instead)
        if not done or done.returncode:
            why = done.stderr.strip() if done else "none of this stack's images is on this machine"
            raise StackError(
                f"{path / name} could not be written: {why}.", cure="Type `invoke up --pull` for an image."
            )
        # One that keeps ending would wait longer and longer before it sees that.
        anew = {"running": ("kill", "--signal", "HUP"), "restarting": ("restart",)}
        for row in self.containers.own():
            if row["service"] == POSTGRES and row["state"] in anew:
                look(["docker", *anew[row["state"]], row["id"]])

    def size(self, path: Place) -> int | None:
        """Return the bytes in a directory that the user may not read, or a volume; None when no image is here."""
        return _kilobytes(self._inside(path, "du", "-sk", "{}")) if self.there(path) else None

    def delete(self, path: Place) -> None:
        """Delete a volume, or what is in a directory as root of a throw-away container; raises StackError."""
        if isinstance(path, Volume):
            self.made.delete(path)
            return
        result = self._in_throwaway(path, "find", "/data", "-mindepth", "1", "-delete")
        if not result or result.returncode:
            why = result.stderr.strip() if result else "none of this stack's images is on this machine"
            raise StackError(
                f"{path} holds files that another user owns, and no container could delete them: {why}."
                f" The stack no longer uses that directory. Delete it with `sudo rm -rf '{path}'`."
            )

    def check_seen(self, services: list[Service]) -> None:
        """Raise StackError when one of these runs and its files are not where this machine has its directory."""
        running = [each.name for each in services if each.state == "running"]
        for name, path in self.plan.directories().items():
            service = STATE[name][0]
            if service in running and not self._seen(name, path) and self._sees(name):
                raise StackError(
                    f"{service} runs, and its files are not in {path} on this machine. Docker runs on"
                    f" {self._machine()} and keeps them in a folder of that name there, where nothing here can back"
                    " them up or delete them.",
                    cure="Type `invoke down`. Then move this checkout into a folder that Docker shares with its machine"
                    " (Colima and Lima: your home; Docker Desktop: Settings, Resources, File sharing), or start it on"
                    " the machine where Docker runs; then `invoke up`.",
                )

    def check_deletable(self, path: Place) -> None:
        """Raise Refused when a directory is empty here and not on Docker's machine, or a volume is not ours."""
        if isinstance(path, Volume):
            self.made.check_deletable(path)
            return
        try:
            if any(path.iterdir()):
                return
        except OSError:
            return
        self._refuse_if_unseen()
        there = self._in_throwaway(path, "ls", "-A", "/data", mode="ro")
        if there and there.stdout.strip():
            raise Refused(
                f"{path} is empty on this machine, and Docker, which runs on {self._machine()}, has files under that"
                " name: they cannot be deleted from here. Nothing was touched.",
                cure="Move this checkout into a folder that Docker shares with its machine, or type the command there.",
            )

    def _refuse_if_unseen(self) -> None:
        try:
            self.check_seen(self.containers.services())
        except StackError as error:
            raise Refused(f"{error.what} Nothing was touched.", cure=error.cure) from None

    def _seen(self, name: str, path: Path) -> bool:
        """Return whether a running service's files are in its directory on this side, where this user may look."""
        mount = self.plan.keeps(name)
        within = self.plan.home(name).removeprefix(mount["target"] if mount else "").strip("/")
        try:
            if name == "pg":
                (path / within / "postmaster.pid").stat()
            return any(path.iterdir())
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _sees(self, name: str) -> bool:
        """Return whether a running service sees files in its directory."""
        asked = look(["docker", "exec", self.containers.running(STATE[name][0]), "ls", "-A", self.plan.home(name)])
        return bool(asked.stdout.strip())

    def _machine(self) -> str:
        told = look(["docker", "info", "--format", "{{.Name}} ({{.OperatingSystem}})"])
        return f"{told.stdout.strip() or 'a machine of its own'}"

    def _inside(self, path: Place, *argv: str) -> subprocess.CompletedProcess[str] | None:
        """Look at a directory, {} in `argv`, from its running container or a throw-away one; None without an image."""
        running = {row["service"]: row["id"] for row in self.containers.own() if row["state"] == "running"}
        for name, (service, target) in STATE.items():
            if service in running and self.plan.stores().get(name) == path:
                asked = look(["docker", "exec", running[service], *(target if word == "{}" else word for word in argv)])
                if not asked.returncode:  # else it has just ended, as one does that keeps ending
                    return asked
        return self._in_throwaway(path, *("/data" if word == "{}" else word for word in argv), mode="ro")

    def _in_throwaway(self, path: Place, *argv: str, mode: str = "rw") -> subprocess.CompletedProcess[str] | None:
        for spec in self.plan.config["services"].values():
            if look(["docker", "image", "inspect", spec.get("image", "")]).returncode == 0:
                mount = _mount(path) + (",readonly" if mode == "ro" else "")
                return look(
                    ["docker", "run", *mountable.THROWAWAY, "--mount", mount, "--entrypoint", argv[0], spec["image"],
                     *argv[1:]],
                    timeout=3600,
                )  # fmt: skip
        return None


def _mount(place: Place) -> str:
    """Return what --mount is told."""
    if isinstance(place, Volume):
        return f"type=volume,source={place.name},target=/data,volume-nocopy"
    return mountable.bind(place)


def _kilobytes(du: subprocess.CompletedProcess[str] | None) -> int | None:
    return int(du.stdout.split()[0]) * 1024 if du and du.stdout else None
