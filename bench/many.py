"""Many checkouts at once: each with a name, ports and a database of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from bench.pool import INVOKE
from bench.rows import Row
from bench.sites import ENVIRONMENT, Failed, Site, ask, run

BESIDE = ("-f", "docker-compose.yml", "-f", "docker-compose.dev.yml")


def folders(site: Site) -> list[Path]:
    """Return where the checkouts are."""
    return [site.root / "data" / f"many-{n}" for n in range(site.sizes["stacks"])]


def checked_out(site: Site) -> None:
    """Make them, and give each a name and ports."""
    site.compose("down")
    lines = [
        line for line in (site.root / ".env").read_text().splitlines() if re.match(r"STACK_ENGINE|\w+_IMAGE", line)
    ]
    for folder in folders(site):
        site.another(folder.name)
        run(folder, *INVOKE, "init", "--isolated")
        with (folder / ".env").open("a") as env:
            env.write("".join(f"{line}\n" for line in lines))


def emptied(site: Site) -> None:
    """Stop them, and delete their data."""
    for folder in folders(site):
        run(folder, "docker", "compose", *BESIDE, "down")
    site.as_root("rm -rf many-*/data/pg && sync")


def ours(site: Site) -> float:
    """Start one after the other, until all are healthy; say what each has of the memory."""
    begun = time.perf_counter()
    for folder in folders(site):
        run(folder, *INVOKE, "up")
    seconds = time.perf_counter() - begun
    told = subprocess.run([*INVOKE, "stacks", "--json"], cwd=site.root, check=False, env=ENVIRONMENT,
                          capture_output=True, text=True)  # fmt: skip
    if missing := [folder for folder in folders(site) if str(folder) not in told.stdout]:
        raise Failed(f"`invoke stacks` does not tell of {missing[0]}:\n{told.stderr}")
    names = ask(site.root, "docker", "ps", "--filter", "health=healthy", "--filter", "name=many-", "-q").split()
    if len(names) != len(folders(site)):
        raise Failed(f"{len(names)} of {len(folders(site))} are healthy.")
    used = ask(site.root, "docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", *names).split("\n")
    print(f"memory of each: {', '.join(each.split(' / ')[0] for each in used if each)}", file=sys.stderr)
    return seconds


def by_compose(site: Site) -> float:
    """Do the same with plain Compose, and leave nothing of it."""
    seconds = sum(run(folder, "docker", "compose", *BESIDE, "up", "-d", "--wait") for folder in folders(site))
    emptied(site)
    return seconds


ROWS = (
    Row("stacks", "invoke up in {stacks} isolated checkouts, PostgreSQL alone, empty", "postgres", checked_out, emptied,
        ours, (("docker compose up -d --wait in each", by_compose, None),), most=3),
)  # fmt: skip
