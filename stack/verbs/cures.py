"""What a server says of a file that does not load, and what helps, as far as that is known."""

from __future__ import annotations

import re
from collections.abc import Callable

from stack.engines.base import Engine

IMAGES = {"vector": "pgvector/pgvector:pg17", "postgis": "postgis/postgis:17-3.5"}
"""Images of PostgreSQL 17 that have more extensions than the usual one, by the first that they have."""
PACKAGES = {"vector": "postgresql-17-pgvector", "postgis": "postgresql-17-postgis-3"}
"""Debian's and Ubuntu's packages of them."""
_LACKS = re.compile(
    r'ERROR:  (?:extension "([^"]+)" is not available|could not open extension control file "[^"]*/([^"/]+)\.control")'
)
_WITH_POSTGIS = re.compile(r"postgis(_\w+)?$|address_standardizer(_\w+)?$|fuzzystrmatch_postgis")


def cure(engine: Engine, said: str, otherwise: str = "") -> str:
    """Return what to do about a file of which psql or pg_restore said that; `otherwise` when nothing is known."""
    for words, told in _KNOWN:
        if found := words.search(said):
            return told(engine, found) or otherwise
    return otherwise


def no_extension(engine: Engine, said: str) -> str:
    """Return what to do about an extension that psql was told is not there; empty when it was not."""
    found = _LACKS.search(said)
    return _no_extension(engine, found) if found else ""


def _no_extension(engine: Engine, said: re.Match[str]) -> str:
    """Tell where the extensions come from; data is not touched by another build of the same major version."""
    name = said[1] or said[2]
    family = "postgis" if _WITH_POSTGIS.match(name) else name
    if engine.name == "external":
        return f"Which extensions there are is up to the server that DATABASE_URL names: it has no {name}."
    if engine.name == "embedded":
        package = PACKAGES.get(family)
        which = f" (on Debian and Ubuntu with its package {package})" if package else ""
        return (
            f"Which extensions there are is up to the programs that run, and these have no {name}. Install the system's"
            f" PostgreSQL 17 and that extension for it{which}; when it is not found by itself, set POSTGRES_BIN_DIR in"
            " .env to its bin directory. Then `invoke restart`: the data stays. Or use Docker, with an image that has"
            f" it{f' ({IMAGES[family]})' if family in IMAGES else ''}."
        )
    image = IMAGES.get(family)
    line = f"`POSTGRES_IMAGE={image}`" if image else "POSTGRES_IMAGE to an image of PostgreSQL 17 that has it"
    runs = next((each.image for each in engine.services() if each.name == "postgres"), "") or "the one that runs"
    return (
        f"Which extensions there are is up to the image, and {runs} has no {name}."
        f" Set {line} in .env, and type `invoke up`: the data stays, as that is PostgreSQL 17 as well. Then type the"
        " command again."
    )


def _wrong_bytes(_engine: Engine, said: re.Match[str]) -> str:
    if said[2] == "0x00":
        return "A zero byte is in it, which no text of PostgreSQL holds. Take it out: `tr -d '\\000' < FILE`."
    return (
        f"Bytes of it are no {said[1]}. When it does not say what they are, do: `invoke load --encoding LATIN1 FILE`,"
        " with LATIN1, WIN1252 or whatever it was written in; in seed/, put `SET client_encoding = 'LATIN1';` before"
        " everything else in the file. When it says so (a line `SET client_encoding`), that line is not true: mend it."
    )


def _no_variable(_engine: Engine, said: re.Match[str]) -> str:
    named = re.match(r""":(["']?)(\w+)\1""", said[1][len(said[2]) :])
    if not named:
        return ""
    return (
        f"If :{named[2]} is a variable of psql's, it is not set. Put the line `\\set {named[2]} VALUE` before it in"
        f" the file, or in front of it: `printf '\\\\set {named[2]} VALUE\\n\\\\i FILE\\n' | invoke load -`."
    )


_KNOWN: list[tuple[re.Pattern[str], Callable[[Engine, re.Match[str]], str]]] = [
    (_LACKS, _no_extension),
    (re.compile(r'ERROR:  invalid byte sequence for encoding "(\w+)": (0x\w\w)'), _wrong_bytes),
    (re.compile(r'ERROR:  syntax error at or near ":"\n(LINE \d+: .*)\n( *)\^'), _no_variable),
]
