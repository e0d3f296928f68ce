"""The cluster of a checkout's container, copied by throw-away ones for another checkout."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stack.engines.copies import COPY, LOOK, MEND, Copy, alone, backing_up, in_use, script, single
from stack.engines.docker.containers import RUNS, Containers
from stack.engines.docker.copying import in_container, seen
from stack.engines.docker.data import Data
from stack.engines.docker.images import Images
from stack.engines.docker.inside import Inside
from stack.engines.docker.mountable import THROWAWAY, bind
from stack.engines.docker.plan import POSTGRES, STATE
from stack.ground.run import look


class Copies:
    """The cluster in data/pg of one checkout."""

    def __init__(self, containers: Containers, images: Images, inside: Inside, data: Data) -> None:
        self.plan = containers.plan
        self.containers = containers
        self.images = images
        self.inside = inside
        self.data = data

    @contextmanager
    def backup(self, target: Path) -> Iterator[Copy]:
        """Begin to make ready to copy the cluster, whose server runs and goes on, to a directory that is empty.

        The container that does it has the server's network, where the image's own rules let it in as for replication.
        """
        running = self.inside.running()
        image = self.containers.ask("inspect", "--format", "{{.Image}}", running.id).strip()
        source = self.plan.root / "data" / "pg"
        owner = _owner(source)
        server = replace(running.endpoint, host="127.0.0.1", port=5432)
        words = script(f"/data/{target.name}", owner, backing_up(server, f"/data/{target.name}"))
        run = ["--network", f"container:{running.id}", image]
        with in_container(target, target, run, words, MEND.format(self.plan.root)) as copy:
            copy.source = source
            yield copy

    @contextmanager
    def copy(self, target: Path, kept: Path | None = None) -> Iterator[Copy]:
        """Do the same while no server is at work on it, or with what is `kept`. Raises Refused when one is."""
        source = kept or self.plan.root / "data" / "pg"
        if not kept:
            self._refuse_if_used(source)
        image = self.plan.config["services"][POSTGRES]["image"]
        argv = ["sh", "-c", COPY, "sh", str(seen(source, target)), f"/data/{target.name}"]
        words = script(f"/data/{target.name}", "", argv)
        run = ["--network", "none", image]
        with in_container(source, target, run, words, LOOK.format(self.plan.root)) as copy:
            yield copy
        if not kept:
            self._refuse_if_used(source)

    def _refuse_if_used(self, source: Path) -> None:
        """Raise Refused when a server is at work on the files, under whatever name."""
        rows = self.containers.rows()
        former = [row for each in self.containers.former(rows).values() for row in each]
        own = [row for row in (*self.containers.own(rows), *former) if row["service"] == POSTGRES]
        names = [f"the container {row['name']}" for row in own if row["state"] in RUNS]
        if found := names or [holder.who for holder in self.data.holders(source)]:
            raise in_use(source, found[0], self.plan.root)

    def alone(self, cluster: Path, sql: str, database: str = "template1") -> list[str]:
        """Run SQL in a cluster that nobody serves, and return the first column. Raises StackError when it fails."""
        image = self.plan.config["services"][POSTGRES]["image"]
        mount = bind(cluster, STATE["pg"][1])
        argv = ["docker", "run", *THROWAWAY, "--interactive", "--user", _owner(cluster), "--mount", mount]
        argv += ["--entrypoint", "postgres", image, *single(STATE["pg"][1], database, linux=True)[1:]]
        return alone(cluster, argv, sql)

    def made_of(self) -> str:
        """Return the service as Compose resolved it, and its image's id; empty when it is given files beside its data.

        Those may make something else of a new cluster when what is in them has changed.
        """
        spec = self.plan.config["services"].get(POSTGRES, {})
        image = look(["docker", "image", "inspect", "--format", "{{.Id}}", spec.get("image", "")]).stdout.strip()
        mounts = [(each["type"], each.get("source"), each["target"]) for each in spec.get("volumes", [])]
        alone = mounts == [("bind", str(self.plan.root / "data" / "pg"), STATE["pg"][1])]
        others = spec.get("configs") or spec.get("secrets") or "PGDATA" in spec.get("environment", {})
        return repr((image, json.dumps(spec, sort_keys=True))) if image and alone and not others else ""

    def major(self) -> int:
        """Return the major version of PostgreSQL in the chosen image; 0 when nobody can tell."""
        return self.images.major()


def _owner(cluster: Path) -> str:
    """Return whose files a server's are, as Docker is told it.

    Where Docker's machine is a virtual one, everything looks like the user's own from here.
    """
    facts = cluster.stat()
    return "postgres" if facts.st_uid == os.geteuid() else f"{facts.st_uid}:{facts.st_gid}"
