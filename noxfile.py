"""The sessions: `nox` guards this repository, `nox -s smoke` tests the stack that is running."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    sys.stderr.write(
        "The sessions do not run on Windows itself. Use WSL2, with the checkout in the file system there.\n"
    )
    raise SystemExit(2)
if sys.version_info < (3, 10):  # noqa: UP036 - who has an older one is told
    sys.stderr.write(
        f"The sessions need Python 3.10 or newer and this is {sys.version.split()[0]}. Make the environment with a"
        " newer one, as the README says, then type the command again.\n"
    )
    raise SystemExit(2)

import os
import subprocess
from pathlib import Path
from shutil import which

import nox

# As pip does it; else every command that is tested or measured may have to compile all that it imports.
os.environ["UV_COMPILE_BYTECODE"] = "1"
nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "unit", "integration"]

GROUPS = nox.project.load_toml("pyproject.toml")
PATIENCE = 60
"""Seconds that tests get to take their containers down after Ctrl-C."""
WORKERS = ("-n", "4", "--dist", "worksteal")
"""Four at once, on two cores as well: what takes the time is waiting. `-- -n 0` goes back to one after another."""


def layers() -> list[str]:
    """Return the Compose files: where there is git those that it knows, since one of the user's own is theirs."""
    argv = ["git", "ls-files", "docker-compose*.yml"]
    listed = subprocess.run(argv, check=False, capture_output=True, text=True).stdout.split() if which("git") else []
    return listed or sorted(map(str, Path().glob("docker-compose*.yml")))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, the Compose files, the scripts and the workflow."""
    session.install(*nox.project.dependency_groups(GROUPS, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    # A layer that only changes services would be told that it lacks all that the file beneath it has.
    makes = [file for file in layers() if " image:" in Path(file).read_text()]
    session.run("compose-lint", "check", "--strict-config", "--fail-on=low", "--skip-suppressed", "--no-env", "-q",
                *makes)  # fmt: skip
    session.run("shellcheck", ".ci/run", ".ci/install-docker", ".ci/renew", "tests/standin/build", external=True)
    session.run("actionlint")
    session.run("zizmor", "--offline", "--quiet", ".github")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types."""
    session.install(*nox.project.dependency_groups(GROUPS, "types"))
    # As for 3.10, which needs a package that 3.14 has in itself and cannot install.
    session.run("mypy", *["--python-version", "3.14"] * (sys.version_info >= (3, 14)))


@nox.session
def unit(session: nox.Session) -> None:
    """Test what needs no Docker."""
    session.install("-r", "requirements.txt")
    session.run("pytest", "tests/unit", "-n", "4", "--dist", "loadgroup", *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """Test what needs no Docker, without what kills servers at random moments; says how many tests that leaves out."""
    session.install("-r", "requirements.txt")
    session.run("pytest", "tests/unit", "-m", "not slow", "-n", "4", "--dist", "loadgroup", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Test copies of this repository on the real Docker Engine; never your stack."""
    session.install("-r", "requirements.txt")
    session.run("pytest", "tests/integration", *WORKERS, *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def smoke(session: nox.Session) -> None:
    """Test the stack that is running, and leave no trace in it."""
    session.install("-r", "requirements.txt")
    session.run("pytest", "tests/smoke", *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def audit(session: nox.Session) -> None:
    """Look every locked dependency up among the known vulnerabilities, on PyPI."""
    session.install(*nox.project.dependency_groups(GROUPS, "audit"))
    locks = ("-r", "requirements.txt", "-r", "requirements-embedded.txt")
    # Without --strict it passes when PyPI knows nothing of a package, as where only a mirror is in reach.
    said = session.run("pip-audit", "--strict", "--disable-pip", "--require-hashes", "--progress-spinner=off", *locks,
                       silent=True, success_codes=[0, 1])  # fmt: skip
    if "No known vulnerabilities found" in str(said):
        return
    session.log(said)
    found = "known vulnerabilit" in str(said)
    unknown = "The database could not be asked about everything, so nothing is known. Repeat it with pypi.org in reach."
    session.error("Known vulnerabilities were found: lock newer versions." if found else unknown)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the commands against plain Docker, in one run: ratios, not seconds."""
    session.install("-r", "requirements.txt", *nox.project.dependency_groups(GROUPS, "bench"))
    # As its users have it: with dependencies of its own, which are not ours.
    tools = {"UV_TOOL_DIR": f"{session.virtualenv.location}/tools", "UV_TOOL_BIN_DIR": session.bin}
    session.run("uv", "tool", "install", "--quiet", *nox.project.dependency_groups(GROUPS, "dslr"), env=tools)
    session.run("python", "-m", "bench", *session.posargs, interrupt_timeout=PATIENCE)
