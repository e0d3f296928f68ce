"""Where PostgreSQL 17's programs are looked for, in which order, in folders of made-up machines."""

from pathlib import Path

import pytest

from stack.server import programs

WHERE = [  # as each machine's own packages lay them out; the names are PostgreSQL's, Homebrew's and so on
    ("Debian and Ubuntu", "/usr/lib/postgresql/17/bin"),
    ("Homebrew on Apple silicon", "/opt/homebrew/opt/postgresql@17/bin"),
    ("Homebrew on Intel", "/usr/local/opt/postgresql@17/bin"),
    ("Red Hat, Fedora: PostgreSQL's own packages", "/usr/pgsql-17/bin"),
    ("Alpine", "/usr/libexec/postgresql17"),
    ("Postgres.app", "/Applications/Postgres.app/Contents/Versions/17/bin"),
    ("EDB's installer", "/Library/PostgreSQL/17/bin"),
    ("MacPorts", "/opt/local/lib/postgresql17/bin"),
]


def install(place: Path, version: str = "17.5") -> Path:
    """Put programs there that tell their version as PostgreSQL's do."""
    place.mkdir(parents=True)
    for name in programs.SERVER:
        (place / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (place / name).chmod(0o755)
    return place


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root in which nothing is installed, and a PATH with nothing of PostgreSQL's in it."""
    monkeypatch.setattr(programs, "PLACES", tuple(f"{tmp_path}{place}" for place in programs.PLACES))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin")
    monkeypatch.setattr(programs.shutil, "which", lambda name: found if (found := tmp_path / "bin" / name).exists()
                        else None)  # fmt: skip
    return tmp_path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the wheel, which was fetched before."""
    install(tmp_path / "checkout" / programs.WHEEL, "17.10")
    return tmp_path / "checkout"


@pytest.mark.parametrize("place", [place for _, place in WHERE], ids=[name for name, _ in WHERE])
def test_the_systems_programs_are_found_and_go_before_the_wheel(machine: Path, checkout: Path, place: str) -> None:
    assert programs.installed(checkout) == checkout / programs.WHEEL
    there = install(Path(f"{machine}{place}"), "17.12")
    assert programs.installed(checkout) == there
    assert programs.release(there / "postgres") == "17.12"


def test_every_place_is_of_a_machine_that_is_tested() -> None:
    assert {place.format(major=17) for place in programs.PLACES} == {place for _, place in WHERE}


@pytest.mark.parametrize("name", ["pg_config", "psql"])
def test_programs_elsewhere_are_found_by_what_is_on_the_path(machine: Path, name: str) -> None:
    """Fedora's own packages put all into /usr/bin; pg_config tells where the rest of a build by hand is."""
    there = install(machine / "opt" / "mine", "17.9") if name == "pg_config" else install(machine / "bin2", "17.9")
    if name == "pg_config":
        (machine / "bin" / name).write_text(f"#!/bin/sh\necho '{there}'\n")
        (machine / "bin" / name).chmod(0o755)
    else:
        for each in there.iterdir():
            (machine / "bin" / each.name).symlink_to(each)
        there = machine / "bin"
    assert programs.installed(machine) == there


@pytest.mark.parametrize("version", ["16.9", "18.1", "17"])
def test_another_major_version_is_passed_over(machine: Path, version: str) -> None:
    there = install(Path(f"{machine}{WHERE[0][1]}"), version)
    assert programs.installed(machine) == (there if version == "17" else None)


def test_programs_without_a_server_are_passed_over(machine: Path) -> None:
    """As where only the client is installed."""
    there = install(Path(f"{machine}{WHERE[1][1]}"))
    (there / "initdb").unlink()
    assert programs.installed(machine) is None
