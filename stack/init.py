"""Writes `.env`; with names and ports of its own for a second checkout."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from stack import files, settings
from stack.compose import projects
from stack.ports import is_free
from stack.process import Refused, StackError


def init(root: Path, *, isolated: bool) -> str:
    """Write `.env` from `.env.example`, or add to the one that is there, and say what was done.

    Nothing that the user wrote is lost: without `isolated` an existing file is left as it is, with it only the
    project's name and the ports are replaced.
    """
    file = root / ".env"
    if file.is_dir():
        raise Refused(
            f"{file} is a directory, such as Docker makes where it is to mount a file that is not there. Nothing was"
            f" written. Look at what is in it, and remove it: `rmdir {quote(str(file))}`."
        )
    if file.exists() and not isolated:
        return f"{file} is there already, and was left as it is."
    if file.exists() and not file.is_file():
        raise Refused(
            f"{file} is no regular file, so what is in it comes from elsewhere. Nothing was written. Set"
            f" {', '.join(('COMPOSE_PROJECT_NAME', *settings.PORTS))} there, or in the shell."
        )
    changes = isolation(root, settings.load(root).bind_address) if isolated else {}
    source = file if file.exists() else root / ".env.example"
    with _told(source, file):
        text = source.read_text(encoding="utf-8-sig")
    for name, value in changes.items():
        text = assign(text, name, value)
    with _told(file, file):
        files.write_text(file, text)  # for the owner alone when it is new: it may come to hold passwords
    chosen = "".join(f"\n  {name}={value}" for name, value in changes.items())
    return f"Wrote {file}.{chosen}"


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
    if slug == settings.DEFAULTS["COMPOSE_PROJECT_NAME"] or projects().get(slug, root) != root:
        slug = f"{slug}-{mark:08x}"
    return {"COMPOSE_PROJECT_NAME": slug, **free_ports(mark % 300, lambda port: is_free(address, port))}


def free_ports(start: int, free: Callable[[int], bool]) -> dict[str, str]:
    """Return the first set of ports, each moved by the same multiple of ten, that is free altogether.

    The search begins at `start`, which differs between checkouts, so that two that are down do not choose alike.
    """
    for step in range(start + 1, start + 301):
        ports = {name: int(settings.DEFAULTS[name]) + 10 * step for name in settings.PORTS}
        if all(map(free, ports.values())):
            return {name: str(port) for name, port in ports.items()}
    raise StackError("No free set of ports was found. Set POSTGRES_PORT, CONVEX_PORT and the others in `.env` by hand.")


def assign(text: str, name: str, value: str) -> str:
    """Return a dotenv text in which `name` has the value: its last line is replaced, a commented one used."""
    line = f"{name}={value}"
    for pattern in (rf"^[ \t]*(?:export[ \t]+)?{name}[ \t]*=.*$", rf"^#[ \t]*{name}=.*$"):
        if re.search(pattern, text, re.MULTILINE):
            return re.sub(pattern, line, text, flags=re.MULTILINE)
    return f"{text.rstrip()}\n{line}\n"
