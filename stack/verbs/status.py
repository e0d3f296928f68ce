"""What is running, as a table and as JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from stack.engines.base import Engine, Service
from stack.ground.tables import print_columns
from stack.ground.talk import give, human, say
from stack.server.identity import Stranger
from stack.server.session import LoginFailed
from stack.verbs.causes import explain
from stack.verbs.login import STANDBY, judged, login, telling
from stack.verbs.wipe import size

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
        places = ", ".join(str(service.data) for service in services if service.data)
        told = f"Engine: {engine.name}.{' Data: ' * bool(places)}{places}{'.' * bool(places)}"
        database = engine.convex.database() if engine.convex else ""
        say(f"{told} Convex keeps its tables in the database {database}." if database else told)
    for each in why:
        say(each)
    if all(row["health"] in ("healthy", "") and service.ready for row, service in zip(rows, services, strict=True)):
        return HEALTHY
    return (
        NOT_RUNNING
        if not any(service.state in ("running", "restarting", "paused") for service in services)
        else UNHEALTHY
    )


def _row(engine: Engine, service: Service, why: list[str]) -> dict[str, Any]:
    """Return what is to be told of a service; `why` is given what is known of a refusal."""
    health, version = service.health, _tag(service.image)
    if service.health not in ("healthy", "starting") and (found := explain(engine, service.output)):
        health = f"{service.health}: {found[0]}"
        why.append(f"{service.name}: {found[0]}. {found[1]}")
    if service.name == "postgres" and service.ready and (endpoint := engine.endpoint()):
        try:
            told = login(endpoint, engine)
            version = told.split()[0]
            if told.endswith(STANDBY):
                why.append(f"{service.name} is {STANDBY.strip(' ()')}: `load` and `seed` need the primary.")
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
        "data": str(service.data) if service.data else None,
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
    headings = ("SERVICE", "STATE", "HEALTH", "ADDRESS", "VERSION", "DATA")
    print_columns(headings, cells, whole=("ADDRESS",), may_go=("DATA", "VERSION"))
