"""Settings: `.env` and the environment, checked before anything starts."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stack.ground.catalog import IMAGES, PORTS
from stack.ground.dotenv import read_env_file
from stack.ground.errors import Refused
from stack.ground.layers import started

ROOT = Path(__file__).resolve().parents[2]
# The same defaults stand in the Compose files and in .env.example; a test holds the three together.
DEFAULTS: dict[str, str] = {
    "COMPOSE_PROJECT_NAME": "convex-poc",
    "STACK_ENGINE": "auto",
    "STACK_LAYERS": "dev",
    "STACK_SPARE": "1",
    "STACK_SNAPSHOT": "both",
    "STACK_RESTART": "unless-stopped",
    "BIND_ADDRESS": "127.0.0.1",
    "POSTGRES_USER": "postgres",
    "POSTGRES_PASSWORD": "postgres",
    "POSTGRES_DB": "convex_poc",
    **IMAGES,
    **PORTS,
    "CONVEX_INSTANCE_NAME": "convex-self-hosted",
    "CONVEX_INSTANCE_SECRET": "",
    "POSTGRES_BIN_DIR": "",
    "DATABASE_URL": "",
}
SECRETS = ("POSTGRES_PASSWORD", "CONVEX_INSTANCE_SECRET", "DATABASE_URL")
ENGINES = ("auto", "docker", "embedded", "external")


@dataclass(frozen=True)
class Settings:
    """Every setting, checked; ports are TCP ports on the host."""

    project: str
    engine: str
    layers: tuple[str, ...]
    bind_address: str
    ports: Mapping[str, int]
    user: str
    password: str = field(repr=False)
    database: str
    bin_dir: str
    """Where PostgreSQL's programs are; empty: wherever they are found."""
    database_url: str = field(repr=False)
    """The server of the external engine; nothing else reads it."""
    spare: bool
    """Whether a copy of the latest snapshot is kept ready for `restore`."""
    snapshot: str
    """What a snapshot holds and `restore` brings back, when nothing else is typed: both, or pg."""
    has_secret: bool
    """Whether CONVEX_INSTANCE_SECRET is set, so that admin keys outlive the data."""
    env_file: Path
    """`.env` where there is one, else the null device: what Compose is told to read."""


def load(
    root: Path = ROOT, environ: Mapping[str, str] = os.environ, layers: str | None = None, *, afresh: bool = False
) -> Settings:
    """Read and check the settings of the checkout at `root`; `layers` replaces STACK_LAYERS.

    So do those with which `up --layers` has started the stack, unless it is started `afresh`.

    A variable in `environ` wins over `.env`; an empty one stands for the default, as it does to Compose.
    Raises Refused with file, line and reason when a value cannot be used.
    """
    path = root / ".env"
    file = read_env_file(path) if path.exists() else {}
    values = {name: (environ[name] if name in environ else file.get(name)) or default
              for name, default in DEFAULTS.items()}  # fmt: skip
    for name, (fits, wanted) in _RULES.items():
        if not fits(values[name]):
            # A line end that was lost puts the next line, and the secret in it, into this value.
            shown = "" if name in SECRETS or set("=@") & set(values[name]) else f" {values[name]!r}"
            where = "the environment" if name in environ else str(path)
            raise Refused(f"{name}{shown} cannot be used: it must be {wanted}. Change it in {where}.")
    ports = {name: int(values[name]) for name in PORTS}
    if layers is None and not afresh and "STACK_LAYERS" not in environ:
        layers = started(root)
    return Settings(
        project=values["COMPOSE_PROJECT_NAME"],
        engine=values["STACK_ENGINE"],
        layers=tuple(filter(None, re.split(r"[,\s]+", values["STACK_LAYERS"] if layers is None else layers))),
        bind_address=values["BIND_ADDRESS"],
        ports=ports,
        user=values["POSTGRES_USER"],
        password=values["POSTGRES_PASSWORD"],
        database=values["POSTGRES_DB"],
        bin_dir=values["POSTGRES_BIN_DIR"],
        database_url=values["DATABASE_URL"],
        spare=values["STACK_SPARE"] == "1",
        snapshot=values["STACK_SNAPSHOT"],
        has_secret=bool(values["CONVEX_INSTANCE_SECRET"]),
        env_file=path if path.exists() else Path(os.devnull),
    )


def _is_port(value: str) -> bool:
    return value.isascii() and value.isdigit() and 0 < int(value) < 65536 and str(int(value)) == value


def _is_address(value: str) -> bool:
    try:
        return bool(ipaddress.IPv4Address(value))
    except ValueError:
        return False


def is_identifier(value: str) -> bool:
    """Return whether PostgreSQL and libpq take a value for the name of a database or a role, whole."""
    # `=` and a URI would be taken for a whole connection string by every libpq program.
    return value.isprintable() and len(value.encode()) <= 63 and "=" not in value and "://" not in value


_RULES: dict[str, tuple[Callable[[str], object], str]] = {
    "COMPOSE_PROJECT_NAME": (
        re.compile(r"[a-z0-9][a-z0-9_-]*").fullmatch,
        "lower-case letters, digits, - and _, beginning with a letter or digit",
    ),
    "STACK_ENGINE": (ENGINES.__contains__, " or ".join(ENGINES)),
    "STACK_LAYERS": (
        re.compile(r"[\w.-]+([,\s]+[\w.-]+)*").fullmatch,
        "names of docker-compose.<name>.yml files with commas between them",
    ),
    "STACK_SPARE": (("0", "1").__contains__, "0 or 1"),
    "STACK_SNAPSHOT": (("both", "pg").__contains__, "both or pg"),
    "STACK_RESTART": (
        re.compile(r"no|always|unless-stopped|on-failure(:\d+)?").fullmatch,
        "no, unless-stopped, always or on-failure",
    ),
    "BIND_ADDRESS": (_is_address, "an IPv4 address of this machine, such as 127.0.0.1"),
    **dict.fromkeys(PORTS, (_is_port, "a port from 1 to 65535")),
    "POSTGRES_USER": (
        # initdb fails on the rest
        lambda name: is_identifier(name) and not name.startswith("pg_") and not set("\"$'\\") & set(name),
        "at most 63 bytes of printable text that does not begin with pg_ and has no = \" ' $ \\ or :// in it",
    ),
    "POSTGRES_DB": (is_identifier, "at most 63 bytes of printable text without = or ://"),
    "POSTGRES_PASSWORD": (str.isprintable, "printable text on one line"),
    "CONVEX_INSTANCE_SECRET": (re.compile(r"([0-9a-fA-F]{64})?").fullmatch, "64 hexadecimal digits, or empty"),
}
