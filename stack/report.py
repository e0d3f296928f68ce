"""What is running and how to reach it, as a table, as JSON, and as settings for other programs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from stack.engine import Engine
from stack.process import Refused, printable
from stack.ready import LoginFailed, Stranger, judged, login, telling
from stack.refusals import explain
from stack.service import Endpoint, Service
from stack.settings import refusals
from stack.snapshots import Snapshot, listed
from stack.talk import draw, give, human, say
from stack.wipe import size

if TYPE_CHECKING:
    from rich.text import Text

HEALTHY, UNHEALTHY, NOT_RUNNING = 0, 1, 3
"""Exit codes of `status`."""


def status(engine: Engine, *, as_json: bool) -> int:
    """Print the state of every service and return the exit code: 0 all healthy, 3 not running, 1 otherwise."""
    services = engine.services()
    why: list[str] = []
    rows = [_row(engine, service, why) for service in services]
    if as_json:
        give(json.dumps({"engine": engine.name, "services": rows}, indent=2))
    else:
        _print_table(rows)
        say(f"Engine: {engine.name}.")
    for each in why:
        say(each)
    if all(row["health"] in ("healthy", "") and service.ready for row, service in zip(rows, services, strict=True)):
        return HEALTHY
    return (
        NOT_RUNNING
        if not any(service.state in ("running", "restarting", "paused") for service in services)
        else UNHEALTHY
    )


def summary(engine: Engine) -> str:
    """Return what to connect to, password included: a developer's next step is to paste it."""
    endpoint = engine.endpoint()
    lines = [f"PostgreSQL        {endpoint.url(masked=False)}"] if endpoint else []
    pages = {"Convex": engine.url("convex-backend", 3210), "Convex dashboard": engine.url("convex-dashboard", 6791)}
    lines += [f"{name:16}  {url}" for name, url in pages.items() if url]
    return "\n".join(lines)


def env(engine: Engine, style: str) -> str:
    """Return connection settings for other programs: lines for a dotenv file, for a shell, or JSON."""
    values = {}
    if endpoint := engine.endpoint():
        values = _libpq(endpoint)
    if url := engine.url("convex-backend", 3210):
        values["CONVEX_SELF_HOSTED_URL"] = url
    if style == "json":
        return json.dumps(values, indent=2)
    if style == "shell":
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())
    if style == "dotenv":
        return "\n".join(_dotenv_line(name, value) for name, value in values.items())
    raise Refused(f"--format {style!r} is unknown. Choose dotenv, shell or json.")


def snapshots(engine: Engine, *, as_json: bool) -> None:
    """Print the snapshots of every database of the cluster, the newest first."""
    found = listed(engine)
    if as_json:
        give(json.dumps([_snapshot(each) for each in found], indent=2))
    elif found:
        rows = [(each.name, each.age, human(each.size), each.spare, each.database, each.message)
                for each in found]  # fmt: skip
        _print_columns(("SNAPSHOT", "AGE", "SIZE", "SPARE", "DATABASE", "MESSAGE"), rows)
    else:
        say("There is no snapshot. `invoke snapshot` takes one.")


def _snapshot(each: Snapshot) -> dict[str, Any]:
    return {
        "name": each.name,
        "taken": datetime.fromtimestamp(each.taken, timezone.utc).isoformat(timespec="seconds") if each.taken else None,
        "database": each.database,
        "bytes": each.size,
        "server_version": each.server_version,
        "message": each.message,
        "spare": each.spare,
    }


def open_dashboard(engine: Engine) -> None:
    """Open the Convex dashboard in the browser, and print its address for those who have none here."""
    import webbrowser

    engine.running("convex-dashboard")
    url = engine.url("convex-dashboard", 6791)
    give(url)
    if not webbrowser.open(url):
        say("No browser could be opened here. Open that address yourself.")


def _libpq(endpoint: Endpoint) -> dict[str, str]:
    return {
        "DATABASE_URL": endpoint.url(masked=False),
        "PGHOST": endpoint.host,
        "PGPORT": str(endpoint.port),
        "PGUSER": endpoint.user,
        "PGPASSWORD": endpoint.password,
        "PGDATABASE": endpoint.database,
    }


def _dotenv_line(name: str, value: str) -> str:
    if re.fullmatch(r"[\w.:/@%+-]*", value, re.ASCII):
        return f"{name}={value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    for line in (f"{name}='{value}'", f'{name}="{escaped}"'):
        if not refusals(line):
            return line
    raise Refused(f"{name} holds characters that no dotenv line can carry to every reader. Use --format shell or json.")


def _row(engine: Engine, service: Service, why: list[str]) -> dict[str, Any]:
    """Return what is to be told of a service; `why` is given what is known of a refusal."""
    health, version = service.health, _tag(service.image)
    if service.health not in ("healthy", "starting") and (found := explain(engine, service.output)):
        health = f"{service.health}: {found[0]}"
        why.append(f"{service.name}: {found[0]}. {found[1]}")
    if service.name == "postgres" and service.ready and (endpoint := engine.endpoint()):
        try:
            version = login(endpoint, engine).split()[0]
        except LoginFailed as error:
            health = f"login failed: {telling(str(error))}"
            if found := explain(engine, judged(str(error))):
                why.append(f"{service.name}: {found[0]}. {found[1]}")
        except Stranger as error:
            health = f"{error.what} {error.cure}"
    return {
        "service": service.name,
        "state": service.state.replace("not started", "not running"),
        "health": health,
        "address": service.url,
        "version": version,
        "data_bytes": size(engine, service.data) if service.data else None,
    }


def _tag(image: str) -> str:
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    return tag[:12] if re.fullmatch(r"[0-9a-f]{40}", tag) else tag


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    cells = []
    for row in rows:
        data = "" if row["data_bytes"] is None else human(row["data_bytes"])
        good = row["health"] == "healthy"
        style = "green" if good else "yellow" if row["health"] == "starting" else "red"
        health = Text(row["health"], style=style)
        cells.append((row["service"], row["state"], health, row["address"], row["version"], data))
    _print_columns(("SERVICE", "STATE", "HEALTH", "ADDRESS", "VERSION", "DATA"), cells)


def _print_columns(headings: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell, one_line=True)) for cell in row))
    # Without a terminal nothing is folded: a row stays one line for grep.
    draw(table, plain_width=1000)
