"""How to reach the stack: settings for other programs, and the dashboard in the browser."""

from __future__ import annotations

import json
import shlex

from stack.engines.base import Engine, need
from stack.ground import catalog
from stack.ground.dotenv import line
from stack.ground.errors import Refused
from stack.ground.talk import give, say
from stack.server.address import Endpoint


def summary(engine: Engine) -> str:
    """Return what to connect to, password included: a developer's next step is to paste it."""
    endpoint = engine.endpoint()
    lines = [f"PostgreSQL        {endpoint.url(masked=False)}"] if endpoint else []
    lines += [f"{each.title:16}  {url}" for each in catalog.PAGES if (url := engine.page(each.name, each.port))]
    return "\n".join(lines)


def env(engine: Engine, style: str) -> str:
    """Return connection settings for other programs: lines for a dotenv file, for a shell, or JSON."""
    values = {}
    if endpoint := engine.endpoint():
        values = _libpq(endpoint)
    pages = {each.variable: engine.page(each.name, each.port) for each in catalog.PAGES if each.variable}
    values |= {name: url for name, url in pages.items() if url}
    if style == "json":
        return json.dumps(values, indent=2)
    if style == "shell":
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())
    if style == "dotenv":
        return "\n".join(line(name, value) for name, value in values.items())
    raise Refused(f"--format {style!r} is unknown. Choose dotenv, shell or json.")


def _libpq(endpoint: Endpoint) -> dict[str, str]:
    return {
        "DATABASE_URL": endpoint.url(masked=False),
        "PGHOST": endpoint.host,
        "PGPORT": str(endpoint.port),
        "PGUSER": endpoint.user,
        "PGPASSWORD": endpoint.password,
        "PGDATABASE": endpoint.database,
    }


def open_dashboard(engine: Engine) -> None:
    """Open the Convex dashboard in the browser, and print its address for those who have none here."""
    import webbrowser

    need(engine.convex, engine).check_dashboard()
    url = engine.page(catalog.DASHBOARD.name, catalog.DASHBOARD.port)
    give(url)
    if not webbrowser.open(url):
        say("No browser could be opened here. Open that address yourself.")
