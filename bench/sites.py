"""Copies of this repository to measure in: each has its own project, ports and data, and leaves nothing behind."""

from __future__ import annotations

import compileall
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from stack.ground import settings
from stack.ground.catalog import IMAGES
from stack.ground.run import Rights
from stack.server.programs import server_programs

STAND_INS = {
    "POSTGRES_IMAGE": "standin/postgres:17",
    "CONVEX_BACKEND_IMAGE": "standin/convex-backend:latest",
    "CONVEX_DASHBOARD_IMAGE": "standin/convex-dashboard:latest",
}
# What the user's shell says about their own stack must not reach the copies.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in settings.DEFAULTS and not k.startswith("COMPOSE_")}


class Failed(Exception):
    """A command ended with an error; the message names it and quotes it."""


class Site(NamedTuple):
    """A copy of the repository; `image` is that of PostgreSQL."""

    root: Path
    sizes: Mapping[str, int]
    settings: settings.Settings
    image: str

    def compose(self, *args: str, layers: tuple[str, ...] = ("dev",)) -> float:
        """Run Compose on the base file and these layers, and return the seconds that it took."""
        files = ("docker-compose.yml", *(f"docker-compose.{layer}.yml" for layer in layers))
        return run(self.root, "docker", "compose", *(word for file in files for word in ("-f", file)), *args)

    def sql(self, *statements: str) -> None:
        """Run each statement in the database."""
        psql = ("exec", "-T", "postgres", "psql", "-qX", "-U", self.settings.user, "-d", self.settings.database)
        self.compose(*psql, *(word for statement in statements for word in ("-c", statement)))

    def as_root(self, script: str) -> float:
        """Run a shell script in `data/`, whose files are not the user's, and return the seconds that it took."""
        if os.geteuid() == 0:
            return run(self.root / "data", "sh", "-c", script)
        return run(self.root, "docker", "run", "--rm", "--pull=never", "--network=none", "--user=0", "--entrypoint=sh",
                   f"--volume={self.root}/data:/w", "--workdir=/w", self.image, "-c", script)  # fmt: skip

    def another(self, name: str) -> Path:
        """Make one more checkout, with nothing of its own, in `data/` so that it goes with this one."""
        folder = self.root / "data" / name
        kept = shutil.ignore_patterns("data", "bare", ".env", "*.sql")
        shutil.copytree(self.root, folder, ignore=kept, dirs_exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        return folder

    def remove(self) -> None:
        """Remove containers, network, server and data, whatever state they are in."""
        for other in self.root.glob("data/*/.env"):  # another checkout, which has a project of its own
            run(other.parent, sys.executable, "-m", "invoke", "retire", "--yes")
        if self.settings.engine == "embedded":
            run(self.root, sys.executable, "-m", "invoke", "down")
        mine = f"docker ps --all --quiet --filter 'name=^{self.settings.project}-'"
        run(self.root, "sh", "-c", f"{mine} | xargs -r docker rm --force --volumes")
        self.compose("down")
        self.as_root("rm -rf ./*")


def ask(cwd: Path, *argv: str) -> str:
    """Run a command and return what it printed. Raises Failed when it fails."""
    result = subprocess.run(argv, check=False, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    if result.returncode:
        raise Failed(f"`{' '.join(argv)}` ended with exit code {result.returncode}:\n{result.stderr}")
    return result.stdout


def run(
    cwd: Path,
    *argv: str,
    stdin: str = os.devnull,
    env: Mapping[str, str] | None = None,
    rights: Rights | None = None,
) -> float:
    """Run a command and return the seconds that it took. Raises Failed, with its last words."""
    with (cwd / stdin).open("rb") as source:
        start = time.perf_counter()
        child = subprocess.Popen(
            argv, cwd=cwd, env={**ENVIRONMENT, **(env or {})}, stdin=source, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=signal.getsignal(signal.SIGINT) is signal.SIG_IGN,  # docker would heed it all the same
            **(rights or {}),
        )  # fmt: skip
        try:
            _, said = child.communicate()
            seconds = time.perf_counter() - start
        except BaseException:  # Ctrl-C: what it starts must be there before it can be removed
            child.terminate()
            child.wait()
            raise
    if child.returncode:
        words = said.decode(errors="replace").strip()[-2000:]
        raise Failed(f"`{' '.join(argv)}` ended with exit code {child.returncode}:\n{words}")
    return seconds


def images() -> dict[str, str] | None:
    """Return the published images when this machine has them, else the stand-ins, else None. Nothing is pulled."""
    for found in (IMAGES, STAND_INS):
        asked = ["docker", "image", "inspect", *found.values()]
        if subprocess.run(asked, check=False, capture_output=True).returncode == 0:
            return found
    return None


@contextmanager
def sites(chosen: Mapping[str, str], sizes: Mapping[str, int]) -> Iterator[dict[str, Site]]:
    """Make copies with `all` services, with `postgres` alone, and without Docker; remove all that runs there too."""
    with ExitStack() as last:
        home = Path(tempfile.mkdtemp(prefix="stack-bench-"))
        home.chmod(0o711)  # as a home directory is to a server's account
        last.callback(shutil.rmtree, home)
        made = {}
        for name in ("all", "postgres", "embedded"):
            made[name] = _make(home / f"{home.name}-{name}", chosen, sizes, name)
            last.callback(made[name].remove)
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C would leave containers behind
            last.callback(signal.signal, number, signal.SIG_IGN)
        yield made


def _make(root: Path, chosen: Mapping[str, str], sizes: Mapping[str, int], kind: str) -> Site:
    ours = settings.ROOT
    shutil.copytree(ours / "stack", root / "stack", ignore=shutil.ignore_patterns("__pycache__"))
    for source in (*ours.glob("docker-compose*.yml"), ours / "tasks.py", ours / ".env.example"):
        shutil.copy(source, root)
    compileall.compile_dir(root, quiet=2)
    (root / "data").mkdir()
    base = root / "docker-compose.yml"
    if kind == "postgres":
        base.write_text("".join(re.findall(r"^name:.*\n", base.read_text(), re.MULTILINE)))
    # How most Compose files check a database: first after a whole interval. Given a start_period, the engine would
    # look every 5 s without a start_interval, so that must go too.
    (root / "docker-compose.slow.yml").write_text(
        "services:\n  postgres:\n    healthcheck:\n"
        f"      interval: {sizes['interval']}s\n      start_period: !reset null\n      start_interval: !reset null\n"
    )
    run(root, sys.executable, "-m", "invoke", "init", "--isolated")
    lines = {**chosen, "STACK_ENGINE": "docker"}
    if kind == "embedded":
        lines = {"STACK_ENGINE": kind, "POSTGRES_BIN_DIR": f"'{server_programs(ours)}'"}
    with (root / ".env").open("a") as env:
        env.writelines(f"{name}={value}\n" for name, value in lines.items())
    (root / "bare").mkdir()
    task = 'from invoke.tasks import task\n\n\n@task\ndef nothing(c):\n    """Do nothing."""\n'
    (root / "bare" / "tasks.py").write_text(task)
    return Site(root, sizes, settings.load(root, {}), chosen["POSTGRES_IMAGE"])
