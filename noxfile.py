"""The sessions: `nox` guards this repository, `nox -s smoke` tests the stack that is running."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "unit", "integration"]

GROUPS = nox.project.load_toml("pyproject.toml")
PATIENCE = 60
"""Seconds that tests get to take their containers down after Ctrl-C."""


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, the Compose files, the scripts and the workflow."""
    session.install(*nox.project.dependency_groups(GROUPS, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("compose-lint", "check", "--strict-config", "--fail-on=low", "--skip-suppressed", "--no-env", "-q",
                "docker-compose.yml", "docker-compose.dev.yml")  # fmt: skip
    session.run("shellcheck", ".ci/run", ".ci/install-docker", "tests/standin/build", external=True)
    session.run("actionlint")
    session.run("zizmor", "--offline", "--quiet", ".github")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types."""
    session.install(*nox.project.dependency_groups(GROUPS, "types"))
    session.run("mypy")


@nox.session
def unit(session: nox.Session) -> None:
    """Test what needs no Docker."""
    session.install("-r", "requirements.txt")
    session.run("pytest", "tests/unit", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Test copies of this repository on the real Docker Engine; never your stack."""
    session.install("-r", "requirements.txt")
    session.run("pytest", "tests/integration", *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def smoke(session: nox.Session) -> None:
    """Test the stack that is running, and leave no trace in it."""
    session.install("-r", "requirements.txt")
    session.run("pytest", "tests/smoke", *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the commands against plain Docker, in one run: ratios, not seconds."""
    session.install("-r", "requirements.txt")
    session.run("python", "-m", "bench", *session.posargs, interrupt_timeout=PATIENCE)
