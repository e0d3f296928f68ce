"""How to reach the stack: settings for other programs, and the dashboard in the browser."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stack.engines.base import Engine, need
from stack.ground import catalog, files
from stack.ground.dotenv import amend, bindings, line, line_of
from stack.ground.errors import Refused, StackError
from stack.ground.talk import give, say
from stack.server.address import LIBPQ, Endpoint
from stack.verbs import forks

KEY, HOSTED = "CONVEX_SELF_HOSTED_ADMIN_KEY", "CONVEX_DEPLOYMENT"


def summary(engine: Engine) -> str:
    """Return what to connect to, password included: a developer's next step is to paste it."""
    endpoint = engine.endpoint()
    lines = [f"PostgreSQL        {endpoint.url(masked=False)}"] if endpoint else []
    lines += [f"{each.title:16}  {url}" for each in catalog.PAGES if (url := engine.page(each.name, each.port))]
    return "\n".join(lines)


def env(engine: Engine, style: str, *, key: bool = True, database: str = "") -> str:
    """Return connection settings for other programs: lines for a dotenv file, for a shell, or JSON.

    Without `key` the admin key of Convex is not among them. A fork that `database` names is in the user's place.
    """
    forks.check(engine, forks.beside(engine, database))
    values = settings(engine, key=key, database=database)
    if style == "json":
        return json.dumps(values, indent=2)
    if style == "shell":
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())
    if style == "dotenv":
        return "\n".join(line(name, value) for name, value in values.items())
    raise Refused(f"--format {style!r} is unknown. Choose dotenv, shell or json.")


def write(engine: Engine, file: str, style: str, *, key: bool = True, database: str = "") -> None:
    """Give the settings their values in an application's dotenv file, and say which of them have changed.

    The rest of the file stays, and so does an admin key that is still good. Raises Refused for a file that is none of
    an application's, StackError when it cannot be written.
    """
    if style != "dotenv":
        raise Refused(f"A file is written as dotenv, and not as {style}. Leave out --format, or --write.")
    if file == "-":
        raise Refused(
            "`-` is stdout, and --write changes a file, so nothing was written. Without --write `invoke env` prints"
            " them; a file of that name is `--write ./-`."
        )
    path = Path(file)
    if not file or path.is_dir() or (path.exists() and not path.is_file()):
        what = f"{file} is no regular file" if file else "--write is empty"
        raise Refused(f"{what}, so nothing was written. Name the application's own: `--write ../app/.env.local`.")
    if os.path.realpath(file) == os.path.realpath(engine.root / ".env"):
        raise Refused(
            f"{file} holds the settings of this stack itself, and these are for an application. Nothing was written."
            " Name the application's own: `--write ../app/.env.local`."
        )
    with _told(file):
        former = path.read_bytes() if path.exists() else b""
    text = _decoded(file, former)
    there = _last(text)
    forks.check(engine, forks.beside(engine, database))
    values = settings(engine, key=key, former=there.get(KEY) or "", database=database)
    new = amend(text, values, file)
    if new != text or not path.exists():
        with _told(file):
            files.write(file, lambda stream: stream.write(new.encode("utf-8", "surrogateescape")))
    say(_report(file, there, values, changed=new != text))
    if catalog.BACKEND.variable in values:
        for each in dict.fromkeys((path, path.with_name(".env.local"), path.with_name(".env"))):
            _tell_of_hosted(each)


def settings(engine: Engine, *, key: bool = True, former: str = "", database: str = "") -> dict[str, str]:
    """Return what other programs are told, by the names of environment variables.

    `database` is one in the place of the user's; `former` an admin key that is kept while it is good.
    """
    values = {}
    if endpoint := engine.endpoint():
        values = _libpq(replace(endpoint, database=database) if database else endpoint)
    pages = {each.variable: engine.page(each.name, each.port) for each in catalog.PAGES if each.variable}
    values |= {name: url for name, url in pages.items() if url}
    if key and engine.convex and catalog.BACKEND.variable in values:
        try:
            # Each is a new one, and a program that watches its file would start anew for it.
            values[KEY] = former if former and engine.convex.accepts(former) else engine.convex.key()
        except StackError as error:
            say(f"{KEY} is left out: {error}")
    return values


def _decoded(file: str, content: bytes) -> str:
    """Return a file's text; what is not UTF-8 in it goes through as it is. Raises Refused for UTF-16."""
    if b"\0" in content:
        raise Refused(
            f"{file} is not text in UTF-8. Nothing was written. Save it as UTF-8, then type the command again."
        )
    return content.decode("utf-8", "surrogateescape")


def _last(text: str) -> dict[str, str | None]:
    """Return the value that counts of each name: the last one."""
    return {each.key: each.value for each in bindings(text) if each.key}


def _report(file: str, former: Mapping[str, str | None], values: Mapping[str, str], *, changed: bool) -> str:
    if not changed:
        return f"{file} was left as it is: all of {', '.join(values)} are there already."
    added = [name for name in values if name not in former]
    other = [name for name in values if name in former and former[name] != values[name]]
    parts = [f"{', '.join(names)} {what}" for names, what in ((other, "changed"), (added, "added")) if names]
    return f"Wrote {file}: {'; '.join(parts) or 'the same values, as every reader takes them'}."


def _tell_of_hosted(path: Path) -> None:
    """Name the file whose CONVEX_DEPLOYMENT, of Convex's hosted service, its command line refuses beside ours."""
    with contextlib.suppress(OSError):
        for each in bindings(path.read_bytes().decode("utf-8", "surrogateescape")):
            if each.key == HOSTED and each.value:
                say(
                    f"{path}, line {line_of(each)}, sets {HOSTED}, of Convex's hosted service. The Convex CLI refuses"
                    f" it beside {catalog.BACKEND.variable} and {KEY}: put # before that line."
                )


@contextmanager
def _told(file: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StackError(
            f"{file} cannot be used: {error.strerror}. It is as it was. Mend that, or name another file: `invoke env"
            " --write FILE`."
        ) from None


def _libpq(endpoint: Endpoint) -> dict[str, str]:
    """Return what libpq reads, and what is in DATABASE_URL for it too, such as PGSSLMODE."""
    further = {f"PG{name.replace('_', '').upper()}": value for name, value in endpoint.options.items()}
    return {
        "DATABASE_URL": endpoint.url(masked=False),
        "PGHOST": endpoint.host,
        "PGPORT": str(endpoint.port),
        "PGUSER": endpoint.user,
        "PGPASSWORD": endpoint.password,
        "PGDATABASE": endpoint.database,
        **{name: value for name, value in further.items() if name in LIBPQ},
    }


def open_dashboard(engine: Engine) -> None:
    """Open the Convex dashboard in the browser, and print its address for those who have none here."""
    import webbrowser

    need(engine.convex, engine).check_dashboard()
    url = engine.page(catalog.DASHBOARD.name, catalog.DASHBOARD.port)
    give(url)
    if not webbrowser.open(url):
        say("No browser could be opened here. Open that address yourself.")
