"""Copies of this repository with a name, ports and data of their own, and the programs that are run in them.

A copy is the path of its folder; what it is called and where it listens stands in its `.env`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import psutil
import psycopg
from dotenv import dotenv_values

from stack.ground.catalog import IMAGES, PORTS
from stack.ground.settings import DEFAULTS
from tests.ports import own_ports

REPOSITORY = Path(__file__).resolve().parents[2]
SHOP = Path(__file__).with_name("shop")
INVOKE = (sys.executable, "-m", "invoke")
STAND_INS = {
    "POSTGRES_IMAGE": "standin/postgres:17",
    "CONVEX_BACKEND_IMAGE": "standin/convex-backend:latest",
    "CONVEX_DASHBOARD_IMAGE": "standin/convex-dashboard:latest",
}
ALONE = {"STACK_LAYERS": "dev,alone"}
"""For a copy that starts PostgreSQL without Convex."""
_LABEL = "label=com.docker.compose.project"


# -- what this machine has --------------------------------------------------------------------------------


@cache
def cli_problem() -> str:
    """Return why `docker compose` cannot be used here; empty when it can."""
    if not shutil.which("docker"):
        return "there is no `docker` on PATH"
    version = _ask("docker", "compose", "version", "--short")
    numbers = version.stdout.strip().removeprefix("v").split(".")
    if version.returncode or [int(number) for number in numbers[:2]] < [2, 24]:
        return f"Compose 2.24 or newer is needed; `docker compose version` says: {version.stdout}{version.stderr}"
    return ""


@cache
def engine_problem() -> str:
    """Return why no container can be run here; empty when one can."""
    return cli_problem() or _ask("docker", "version", "--format", "{{.Server.Version}}").stderr.strip()


@cache
def images() -> dict[str, str]:
    """Return the images to test with: the published ones, else the stand-ins, else none.

    Pulls what is not here, once; where no registry can be reached that fails at once.
    """
    if engine_problem():
        return {}
    if all(_is_here(image) or _ask("docker", "pull", "-q", image).returncode == 0 for image in IMAGES.values()):
        return IMAGES
    return STAND_INS if all(map(_is_here, STAND_INS.values())) else {}


def images_problem() -> str:
    """Return why there is nothing to test with; empty when there is."""
    nothing = "the images are neither here nor can they be pulled: type `sudo tests/standin/build` for stand-ins"
    return engine_problem() or ("" if images() else nothing)


def describe() -> str:
    """Return what is tested with, in one line."""
    if images_problem():
        return images_problem()
    engine = docker("version", "--format", "{{.Server.Version}}")
    compose = docker("compose", "version", "--short")
    which = "stand-in" if images() == STAND_INS else "published"
    return f"Engine {engine}, Compose {compose}, {which} images"


def _is_here(image: str) -> bool:
    return _ask("docker", "image", "inspect", image).returncode == 0


def _ask(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=900)


# -- copies -----------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> Path:
    """Copy what git knows or would add, as it is now; where there is no git, all but what is made here."""
    listed = _ask("git", "-C", str(REPOSITORY), "ls-files", "-z", "-co", "--exclude-standard")
    if listed.returncode:
        made = shutil.ignore_patterns(".git", ".env*", ".venv", ".nox", "__pycache__", ".*_cache", ".hypothesis",
                                      "backups", "pg", "convex", "embedded", ".lock", ".wiped-*")  # fmt: skip
        shutil.copytree(REPOSITORY, folder, dirs_exist_ok=True, ignore=made)
        shutil.copy(REPOSITORY / ".env.example", folder)
        return folder
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


@contextmanager
def checkout(template: Path, folder: Path, **lines: str) -> Iterator[Path]:
    """Make a copy at `folder` that is nobody else's, and remove it with all that was started from it."""
    shutil.copytree(template, folder)
    chosen = {} if images() != STAND_INS else STAND_INS
    with own_ports(len(PORTS)) as numbers:
        ports = dict(zip(PORTS, map(str, numbers), strict=True))
        configure(folder, **{"COMPOSE_PROJECT_NAME": unique(), **ports, **chosen, **lines})
        try:
            yield folder
        finally:
            remove(folder)


def remove(copy: Path) -> None:
    """Remove a copy's containers, networks and files, without the help of anything that is tested."""
    with suppress(AssertionError):  # what the background copies comes from outside of the containers that are removed
        eventually(lambda: not (keepers(copy) and any((copy / "data").glob(".new-kept-*"))))
    if not engine_problem():
        _remove_containers(copy)
    with suppress(OSError, ValueError, psutil.Error):  # else it would run on for a minute, until it misses its files
        server = psutil.Process(int((copy / "data" / "embedded" / "postmaster.pid").read_text().split()[0]))
        if server.name() == "postgres":
            server.send_signal(signal.SIGQUIT)
            server.wait(10)
    shutil.rmtree(copy, ignore_errors=True)
    if copy.exists():  # the files of a container's user
        mount = f'type=bind,"source={str(copy).replace(chr(34), chr(34) * 2)}",target=/copy'
        docker("run", "--rm", "--network", "none", "--user", "0", "--mount", mount, "--entrypoint", "find",
               images()["POSTGRES_IMAGE"], "/copy", "-mindepth", "1", "-delete")  # fmt: skip
        copy.rmdir()


def _remove_containers(copy: Path) -> None:
    mine = f"{_LABEL}.working_dir={copy}"
    keys = '{{.ID}}\t{{.Label "com.docker.compose.project"}}'
    listed = dict(line.split("\t") for line in docker("ps", "-a", "--filter", mine, "--format", keys).splitlines())
    if listed:
        docker("rm", "--force", "--volumes", *listed)
    for name in {project(copy), *listed.values()}:  # a test may have renamed it
        for network in docker("network", "ls", "-q", "--filter", f"{_LABEL}={name}").split():
            _ask("docker", "network", "rm", network)  # another copy of the same name may still be in it
        for volume in docker("volume", "ls", "-q", "--filter", f"{_LABEL}={name}").split():
            _ask("docker", "volume", "rm", volume)


def unique() -> str:
    """Return a project name that nobody has."""
    return f"it-{uuid.uuid4().hex[:12]}"


def configure(copy: Path, **lines: str) -> None:
    """Write settings to `.env` as they are given, quotes included, in place of lines of the same name."""
    file = copy / ".env"
    old = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    kept = [line for line in old if line.partition("=")[0] not in lines]
    file.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in lines.items()), ""]), encoding="utf-8")


def value(copy: Path, name: str) -> str:
    """Return a setting as the copy's `.env` has it, else its default."""
    return dotenv_values(copy / ".env", interpolate=False).get(name) or DEFAULTS[name]


def project(copy: Path) -> str:
    """Return the copy's project name."""
    return value(copy, "COMPOSE_PROJECT_NAME")


# -- programs ---------------------------------------------------------------------------------------------


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without the settings of anybody's stack."""
    ours = ("COMPOSE_", "PG", "DATABASE_URL", *DEFAULTS)
    return {**{name: text for name, text in os.environ.items() if not name.startswith(ours)}, **extra}


def run(
    copy: Path,
    *args: str,
    stdin: str | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    through: tuple[str, ...] = (),
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run `invoke ARGS` in a copy, `through` another program if there is one; no command may end in a traceback."""
    streams: dict[str, Any] = {"stdin": stdin or subprocess.DEVNULL}
    if isinstance(stdin, str):
        streams = {"input": stdin}
    result = subprocess.run(
        [*through, *INVOKE, *args], check=False, capture_output=True, encoding="utf-8", timeout=timeout,
        cwd=cwd or copy, env=environment(**(env or {})), **streams,
    )  # fmt: skip
    assert "Traceback" not in result.stderr, result.stderr
    return result


def succeed(copy: Path, *args: str, **options: Any) -> str:
    """Run `invoke ARGS`, which must end with 0, and return its stdout."""
    result = run(copy, *args, **options)
    assert result.returncode == 0, f"{args} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
    return result.stdout


def fail(copy: Path, code: int, *args: str, saying: tuple[str, ...] = (), within: float = 60, **options: Any) -> str:
    """Run `invoke ARGS`, which must end with `code` soon, give no data, and say all of `saying`; return its stderr.

    `within` is in seconds.
    """
    begun = time.monotonic()
    result = run(copy, *args, **options)
    assert time.monotonic() - begun < within, f"{args} took too long:\n{result.stderr}"
    assert result.returncode == code, f"{args} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
    assert not result.stdout
    for words in saying:
        assert words in result.stderr, f"{words!r} is not in:\n{result.stderr}"
    return result.stderr


def docker(*args: str, cwd: Path | None = None) -> str:
    """Run `docker ARGS`, which must end with 0, and return what it printed."""
    result = subprocess.run(
        ["docker", *args], check=False, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment()
    )
    assert result.returncode == 0, f"docker {args}: {result.stdout}{result.stderr}"
    return result.stdout.strip()


def containers(copy: Path, *filters: str) -> dict[str, str]:
    """Return the ids of the copy's containers, whatever their state, by service; `filters` as in `docker ps`."""
    chosen = [word for each in (f"{_LABEL}={project(copy)}", *filters) for word in ("--filter", each)]
    keys = '{{.Label "com.docker.compose.service"}}\t{{.ID}}'
    listed = docker("ps", "-a", "--no-trunc", *chosen, "--format", keys)
    return dict(line.split("\t") for line in listed.splitlines())


def networks(copy: Path) -> list[str]:
    """Return the names of the copy's networks."""
    return docker("network", "ls", "--filter", f"{_LABEL}={project(copy)}", "--format", "{{.Name}}").split()


def holders(folder: Path) -> list[str]:
    """Return the names of all running containers that have a folder mounted."""
    return docker("ps", "--filter", f"volume={folder}", "--format", "{{.Names}}").split()


@contextmanager
def foreign(*options: str) -> Iterator[str]:
    """Run a container that has nothing to do with any copy, and yield its name."""
    name = unique()
    try:
        docker("run", "--detach", "--name", name, *options, "--entrypoint", "sleep", images()["POSTGRES_IMAGE"], "600")
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def eventually(happened: Callable[[], object], timeout: float = 20) -> None:
    """Return once something is true; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, f"This did not happen within {timeout:g} s."
        time.sleep(0.05)


def keepers(copy: Path) -> list[psutil.Process]:
    """Return the processes that work in the background for a copy: on its spares, and on its pool."""
    return [
        each
        for each in psutil.process_iter(["cmdline", "cwd"])
        if any("import keeper" in word for word in each.info["cmdline"] or ()) and each.info["cwd"] == str(copy)
    ]


# -- the database -----------------------------------------------------------------------------------------


def login(copy: Path, **other: Any) -> psycopg.Connection[Any]:
    """Log in from this machine with what `.env` says; one attempt."""
    names = {"port": "POSTGRES_PORT", "user": "POSTGRES_USER", "password": "POSTGRES_PASSWORD", "dbname": "POSTGRES_DB"}
    settings: dict[str, Any] = {key: value(copy, name) for key, name in names.items()}
    return psycopg.connect(**{"host": "127.0.0.1", "connect_timeout": 5, "autocommit": True, **settings, **other})


def sql(copy: Path, query: str, **other: Any) -> list[Any]:
    """Run a query from this machine; return the first column."""
    with login(copy, **other) as connection:
        cursor = connection.execute(query.encode())
        return [row[0] for row in cursor] if cursor.description else []


def tables(copy: Path, **other: Any) -> list[str]:
    """Return the names of the tables in the database."""
    return sql(copy, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1", **other)
