"""What the Compose files of a checkout come to, with its settings and layers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stack.engines.docker.words import explain
from stack.ground import catalog, ports
from stack.ground.errors import Refused, StackError
from stack.ground.layers import layer_files
from stack.ground.run import look
from stack.ground.settings import Settings
from stack.ground.volume import Place, Volume
from stack.server.address import Endpoint

POSTGRES, BACKEND = catalog.POSTGRES.name, catalog.BACKEND.name
STATE = {leaf: (entry.name, entry.home) for leaf, entry in catalog.STATEFUL.items()}
"""Each directory of data/: which service keeps its state there, and where it sees it."""
STATEFUL = [service for service, _ in STATE.values()]
_SAYS = "(?:POSTGRES_URL|CONVEX_DATABASE_HOST)"
_ON_POSTGRES = re.compile(rf"""^\s*(?:["']?{_SAYS}["']?\s*:|-\s*["']?{_SAYS}=)""", re.MULTILINE)


class Plan:
    """The Compose files of one checkout, with the chosen layers."""

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings = settings
        self.root = root

    def files(self) -> list[Path]:
        """Return the Compose files in their order. Raises Refused when the file of a layer does not exist."""
        return layer_files(self.root, self.settings.layers)

    def compose(self, *args: str) -> list[str]:
        """Return the command line of Compose: project directory, `.env` and files are never left to chance.

        Raises Refused when the file of a layer does not exist.
        """
        return self._command(self.files(), args)

    def down(self, *args: str) -> list[str]:
        """Return the command line that ends what runs, for which a layer whose file is gone is not needed."""
        return self._command(
            layer_files(self.root, self.settings.layers, there=True), [*args, "down", "--remove-orphans"]
        )

    def _command(self, files: Sequence[Path], args: Sequence[str]) -> list[str]:
        command = ["docker", "compose", "--project-directory", str(self.root)]
        command += ["--env-file", str(self.settings.env_file)]
        return [*command, *(word for file in files for word in ("-f", str(file))), *args]

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the Compose files mean once `.env`, environment and layers are resolved."""
        result = look(self.compose("config", "--format", "json"))
        if result.returncode:
            raise explain(result.stderr)
        # `config` doubles every $ so that its output can be read as a Compose file again.
        config: dict[str, Any] = json.loads(result.stdout.replace("$$", "$"))
        return config

    def endpoint(self) -> Endpoint | None:
        """Return the database's address as Compose resolved it; None when no layer has a database."""
        service = self.config["services"].get(POSTGRES)
        if not service:
            return None
        port = published(service, 5432)
        if not port:
            raise StackError(
                "The service postgres publishes no port for 5432, so nothing on this machine can reach the database."
                f' Give it one, such as "127.0.0.1:5433:5432", in {" or ".join(map(str, self.files()))}.'
            )
        environment = service["environment"]
        return Endpoint(*port, *(environment[name] for name in ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB")))

    def contained(self) -> list[str]:
        """Return the services that run in containers; one that something else provides has none."""
        return [name for name, spec in self.config["services"].items() if "provider" not in spec]

    def addresses(self) -> list[str]:
        """Return the addresses on which the layers publish the database's port."""
        published = self.config["services"].get(POSTGRES, {}).get("ports", [])
        return [port.get("host_ip") or "0.0.0.0" for port in published if port["target"] == 5432]  # noqa: S104

    def page_of(self, service: str, target: int) -> str:
        """Return where a browser reaches port `target` of a service; empty when it is not published."""
        found = published(self.config["services"].get(service, {}), target)
        return page(*found) if found else ""

    def directories(self) -> dict[str, Path]:
        """Return where the services keep their state, as Compose resolved it, by name: pg, convex."""
        found = {name: self.keeps(name) for name in STATE}
        return {name: Path(mount["source"]) for name, mount in found.items() if mount and mount["type"] == "bind"}

    def volumes(self) -> dict[str, str]:
        """Return the services that keep their state in a volume that is not this checkout's, as words, by name."""
        words = {}
        for name, (service, _) in STATE.items():
            mount = self.keeps(name)
            if service in self.config["services"] and (not mount or mount["type"] == "volume"):
                volume = self._volume(mount or {})
                words[name] = (
                    f"{service} keeps its data in {f'the volume {volume}' if volume else 'a volume without a name'}"
                )
        return {name: each for name, each in words.items() if name not in self.own_volumes()}

    def own_volumes(self) -> dict[str, Volume]:
        """Return the volumes that are named after a service's leaf and this project, and have nothing special."""
        found = {}
        for name in STATE:
            mount = self.keeps(name) or {}
            volume = self._volume(mount)
            plain = not set((self.config.get("volumes") or {}).get(name) or {}) - {"name"}
            if plain and mount.get("source") == name and volume.startswith(f"{self.settings.project}_{name}"):
                found[name] = Volume(volume)
        return found

    def stores(self) -> dict[str, Place]:
        """Return where the services keep their state: directories, and volumes that have a name, by name."""
        found: dict[str, Place] = {**self.directories()}
        for name in STATE:
            mount = self.keeps(name) or {}
            if (volume := self._volume(mount)) and mount["target"] == self.home(name):
                found[name] = Volume(volume)
        return found

    def _volume(self, mount: dict[str, Any]) -> str:
        """Return the name of a volume that is mounted; empty when it is none, or has none."""
        source = str(mount.get("source", "")) if mount.get("type") == "volume" else ""
        return str(((self.config.get("volumes") or {}).get(source) or {}).get("name", source))

    def wanted(self) -> list[tuple[str, int]]:
        """Return the addresses and TCP ports that the chosen layers publish."""
        return [
            (port.get("host_ip") or "0.0.0.0", int(port["published"]))  # noqa: S104
            for service in self.config["services"].values()
            for port in service.get("ports", [])
            if str(port.get("published", "")).isdigit() and port.get("protocol", "tcp") == "tcp"
        ]

    def home(self, name: str) -> str:
        """Return the directory that a service keeps its state in, as the container sees it."""
        service, target = STATE[name]
        environment = self.config["services"].get(service, {}).get("environment") or {}
        return (environment.get("PGDATA") or target) if name == "pg" else target

    def keeps(self, name: str) -> dict[str, Any] | None:
        """Return the mount that a service's state is in, as Compose resolved it; None without one."""
        home = self.home(name)
        spec = self.config["services"].get(STATE[name][0], {})
        temporary = [{"type": "tmpfs", "target": each.split(":")[0]} for each in spec.get("tmpfs") or []]
        around = [
            mount
            for mount in [*spec.get("volumes", []), *temporary]
            if home == mount["target"] or home.startswith(mount["target"].rstrip("/") + "/")
        ]
        return max(around, key=lambda mount: len(mount["target"]), default=None)

    def known(self, service: str) -> None:
        """Raise Refused when no layer has a service of that name."""
        if service and service not in self.config["services"]:
            raise Refused(f"There is no service {service!r}. There are: {', '.join(self.config['services'])}.")

    def places(self) -> dict[str, Path]:
        """Return where the services keep their state, by the directory's name, as `directories` does.

        Compose, which takes 0.17 s, is asked only when its files may put one elsewhere.
        """
        return self.directories() if self._may_move() else self._usual()

    def guarded(self) -> list[Path]:
        """Return the directories that a start would use: where they always are, and where Compose puts them."""
        if self._may_move():
            self.refuse_twins()
        return list(dict.fromkeys([*self._usual().values(), *self.places().values()]))

    def guarded_volumes(self) -> list[Volume]:
        """Return the volumes that a start would use."""
        return [place for place in self.stores().values() if isinstance(place, Volume)] if self._may_move() else []

    def convex_database(self) -> str:
        """Return the database in which Convex keeps its tables; empty when they are in its directory.

        Compose is asked only when a file says something of it.
        """
        if not any(_ON_POSTGRES.search(file.read_text(errors="replace")) for file in self.files()):
            return ""
        environment = self.config["services"].get(BACKEND, {}).get("environment") or {}
        on_postgres = environment.get("POSTGRES_URL") or environment.get("CONVEX_DATABASE_HOST")
        return str(environment.get("INSTANCE_NAME") or "").replace("-", "_") if on_postgres else ""

    def _usual(self) -> dict[str, Path]:
        return {leaf: self.root / "data" / leaf for leaf in STATE}

    def _may_move(self) -> bool:
        """Return whether the files say anything of directories but what they say in this repository."""
        usual = "".join(file.read_text(errors="replace") for file in self.files())
        for name, (_, target) in STATE.items():
            usual = usual.replace(f"    volumes:\n      - ./data/{name}:{target}:z\n", "")
        return any(word in usual for word in ("volumes", "extends", "include", "replicas", "scale"))

    def without_start_interval(self) -> str:
        """Return a layer that takes that key from the health checks, which are then made more often instead."""
        checks = {name: spec.get("healthcheck") or {} for name, spec in self.config["services"].items()}
        lines = (
            f"  {json.dumps(name)}: {{healthcheck: {{start_interval: !reset null, interval: 5s}}}}\n"
            for name, check in checks.items()
            if "start_interval" in check
        )
        return f"services:\n{''.join(lines)}"

    def refuse_twins(self) -> None:
        """Raise Refused when the layers give one directory to two servers."""
        owners: dict[str, str] = {}
        for name, spec in self.config["services"].items():
            copies = int(spec.get("scale") or (spec.get("deploy") or {}).get("replicas") or 1)
            for volume in spec.get("volumes", []):
                at_home = volume["target"] in (target for _, target in STATE.values())
                source = self._volume(volume) or (volume["type"] == "bind" and os.path.realpath(volume["source"]))
                if not source or volume.get("read_only") or not at_home:
                    continue
                place = str(source)
                if place in owners or copies > 1:
                    shown = self._volume(volume) or volume["source"]
                    raise Refused(
                        f"The layers give {shown} to two servers, {owners.get(place, name)} and {name}, and"
                        " the second would destroy the data of the first. Nothing was started.",
                        cure="Give one of them a directory of its own in its layer, then type `invoke up`.",
                    )
                owners[place] = name

    def refuse_if_changed(self, variables: list[str]) -> dict[str, str]:
        """Return a container's environment. Raises Refused when the settings name another database than it does."""
        environment = dict(variable.split("=", 1) for variable in variables)
        runs = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
        if runs != (self.settings.user, self.settings.database):  # a layer may say otherwise, which takes longer to ask
            now = self.endpoint()
            if now and runs != (now.user, now.database):
                raise Refused(
                    f"The settings have changed since the stack was started: it runs with the database {runs[1]!r} of"
                    f" the user {runs[0]!r}, and they name {now.database!r} of {now.user!r}. Nothing was done.",
                    cure="Type `invoke up` to start with the settings of now, or put the former ones back.",
                )
        return environment


def published(service: dict[str, Any], target: int) -> tuple[str, int] | None:
    """Return the address and port at which this machine reaches a service's port; None when it is not published."""
    return next(
        (address(port) for port in service.get("ports", []) if port["target"] == target and port.get("published")),
        None,
    )


def address(port: dict[str, Any]) -> tuple[str, int]:
    """Return the address and port at which this machine reaches what is published."""
    return ports.reached_at(port.get("host_ip", "")), int(port.get("published") or 0)


def page(host: str, port: int) -> str:
    """Return what a browser is told."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
