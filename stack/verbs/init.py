"""Writes `.env`; with names and ports of its own for a second checkout."""

from __future__ import annotations

import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shlex import quote
from types import MappingProxyType

from stack.engines.docker.machine import projects, running_from
from stack.engines.embedded.engine import Embedded
from stack.ground import disk, dotenv, files, register, settings
from stack.ground.catalog import PORTS
from stack.ground.dotenv import assign
from stack.ground.errors import Refused, StackError
from stack.ground.ports import is_free
from stack.ground.talk import say

RESTART = "STACK_RESTART"
NOTHING: Mapping[str, str] = MappingProxyType({})


def init(root: Path, *, isolated: bool, password: bool = False, along: Mapping[str, str] = NOTHING) -> str:
    """Write `.env` from `.env.example`, or add to the one that is there, and say what was done.

    Nothing that the user wrote is lost: an existing file is left as it is, but for the project's name and the ports
    with `isolated`, and the default password with `password`. Raises Refused when there is another password already.
    What comes `along` from another checkout is written with a name of its own, as it stands in a file.
    """
    file = root / ".env"
    if file.is_dir():
        raise Refused(
            f"{file} is a directory, such as Docker makes where it is to mount a file that is not there. Nothing was"
            f" written. Look at what is in it, and remove it: `rmdir {quote(str(file))}`."
        )
    if file.exists() and not isolated and not password:
        return f"{file} is there already, and was left as it is."
    if file.exists() and not file.is_file():
        names = ("COMPOSE_PROJECT_NAME", *PORTS) if isolated else ("POSTGRES_PASSWORD",)
        raise Refused(
            f"{file} is no regular file, so what is in it comes from elsewhere. Nothing was written. Set"
            f" {', '.join(names)} there, or in the shell."
        )
    if isolated:
        refuse_if_running(root)
        with _alone(file):
            return _write(root, file, isolated=True, password=password, along=along)
    return _write(root, file, isolated=False, password=password)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Let no other checkout choose a name and ports until this one's are written down."""
    with ExitStack() as stack:
        try:
            stack.enter_context(register.chosen_alone())
        except OSError as error:
            say(
                f"{register.place()} cannot be used ({error.strerror}), so other checkouts of yours that are down are"
                f" not known: what is chosen for {file} may be theirs too."
            )
        yield


def _write(root: Path, file: Path, *, isolated: bool, password: bool, along: Mapping[str, str] = NOTHING) -> str:
    source = file if file.exists() else root / ".env.example"
    changes = _random_password(file) if password else {}
    if isolated:
        changes.update(isolation(root, settings.load(root).bind_address))
        if RESTART not in _written(file):
            changes[RESTART] = "no"  # once it is forgotten, nothing of it comes back with the machine
    with _told(source, file):
        text = source.read_bytes().decode("utf-8-sig")
    changes.update(along)
    for name, value in changes.items():
        text = assign(text, name, value)
    with _told(file, file):
        if password and file.exists():  # it comes to hold a secret, and keeps its mode when it is replaced
            file.chmod(file.stat().st_mode & 0o700)
        files.write_text(file, text)  # for the owner alone when it is new
    if isolated:
        with suppress(OSError):
            register.write(root)
    secret = {*along}.intersection(settings.SECRETS)
    told = (
        f"\n  {name} is that of the other checkout" if name in secret else _chosen(root, name, value)
        for name, value in changes.items()
    )
    return f"Wrote {file}.{''.join(told)}"


def _random_password(file: Path) -> dict[str, str]:
    """Return a password that every dotenv reader and every URL takes as it is. Raises Refused where one is set."""
    name = "POSTGRES_PASSWORD"
    if name in os.environ:
        raise Refused(
            f"{name} is set in the environment, where it wins over `.env`. Nothing was done. Type `unset {name}`, then"
            " the command again."
        )
    there = _written(file).get(name)
    if there and there != settings.DEFAULTS[name]:
        raise Refused(
            f"{file} has a {name} of your own already, which was left as it is. For a random one delete that line and"
            " type the command again; then `invoke doctor --fix`, while the stack is up, gives it to the database."
        )
    return {name: secrets.token_hex(16)}


def _written(file: Path) -> dict[str, str]:
    """Return what an `.env` says; nothing where there is none."""
    return dotenv.read_env_file(file) if file.exists() else {}


def _chosen(root: Path, name: str, value: str) -> str:
    """Return what to say of a setting that was written; of a secret, not what it is."""
    if name not in settings.SECRETS:
        return f"\n  {name}={value}"
    keeps = any(disk.has_data(root / "data" / leaf) for leaf in ("pg", "embedded"))
    until = "The data that is there keeps its former password until `invoke up`, then `invoke doctor --fix`, change it."
    return f"\n  {name} is a random one; `invoke env` prints it. {until if keeps else ''}".rstrip()


def refuse_if_running(root: Path) -> None:
    """Raise Refused while this checkout's stack runs: under another name it would be started a second time."""
    running = running_from(root)
    if Embedded(settings.load(root), root).services()[0].state == "running":
        running.append("the embedded PostgreSQL")
    if running:
        raise Refused(
            f"This checkout's stack is running ({', '.join(running)}), and with a new name and new ports it would no"
            " longer be found. Nothing was written.",
            cure="Type `invoke down`, then `invoke init --isolated` again.",
        )


@contextmanager
def _told(used: Path, kept: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StackError(
            f"{used} cannot be used: {error.strerror}. {kept} is as it was. Mend that, then type the command again."
        ) from None


def isolation(root: Path, address: str) -> dict[str, str]:
    """Return a project name made from the folder's, and free ports on `address`."""
    slug = re.sub(r"[^a-z0-9]+", "-", root.name.lower()).strip("-") or "stack"
    mark = zlib.crc32(os.fsencode(root))
    others = [found for path in register.checkouts() if path != root and (found := _settings_of(path))]
    names, given = {each.project for each in others}, {port for each in others for port in each.ports.values()}
    if slug in (settings.DEFAULTS["COMPOSE_PROJECT_NAME"], *names) or projects().get(slug, root) != root:
        slug = f"{slug}-{mark:08x}"
    ports = free_ports(mark % 300, lambda port: port not in given and is_free(address, port))
    return {"COMPOSE_PROJECT_NAME": slug, **ports}


def _settings_of(root: Path) -> settings.Settings | None:
    """Return another checkout's settings, as its `.env` has them; None when it is gone, or they cannot be read."""
    with suppress(Refused, StackError, OSError, ValueError):
        return settings.load(root, {}) if (root / "docker-compose.yml").exists() else None
    return None


def free_ports(start: int, free: Callable[[int], bool]) -> dict[str, str]:
    """Return the first set of ports, each moved by the same multiple of ten, that is free altogether.

    The search begins at `start`, which differs between checkouts, so that two that are down do not choose alike.
    """
    for step in range(start + 1, start + 301):
        ports = {name: int(default) + 10 * step for name, default in PORTS.items()}
        if all(map(free, ports.values())):
            return {name: str(port) for name, port in ports.items()}
    raise StackError("No free set of ports was found. Set POSTGRES_PORT, CONVEX_PORT and the others in `.env` by hand.")
