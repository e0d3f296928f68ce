"""The workflow that runs elsewhere, as far as its text tells; `nox -s lint` does the rest."""

from __future__ import annotations

import re

import pytest

from stack.ground.settings import ROOT

WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text()
FIRST = (ROOT / "README.md").read_text().split("```sh\n")[1].splitlines()[0]
JOBS = dict(re.findall(r"^  (\w+):\n((?:(?: {4}.*)?\n)+)", WORKFLOW.partition("\njobs:\n")[2], re.MULTILINE))


def test_actions_are_pinned_each_by_one_commit() -> None:
    used = re.findall(r"uses: (.+)", WORKFLOW)
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each) for each in used)
    assert len(set(used)) == len({each.partition("@")[0] for each in used})


def test_what_a_leg_is_told_to_do_before_is_done() -> None:
    """A leg whose step has another name would pass and prove nothing."""
    assert sorted(re.findall(r"before: ([\w-]+)", WORKFLOW)) == sorted(re.findall(r"before == '([\w-]+)'", WORKFLOW))


@pytest.mark.parametrize("job", sorted(JOBS.keys() - {"windows"}))
def test_a_job_types_what_the_readme_says(job: str) -> None:
    assert f" {FIRST}\n" in JOBS[job]
    assert "nox -s smoke" in JOBS[job]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (
            "test",
            ["ubuntu-24.04,", "ubuntu-24.04-arm", "two addresses", "rootless Docker", "newest Docker"],
        ),
        ("podman", ["podman with systemd"]),
        ("mac", ["macos-15", "macos-26", "LANG unset", "env -u LANG", "invoke dump", "invoke load", "nox -s unit"]),
        ("windows", ["refused"]),
        ("wsl", ["WSL2 on Windows"]),
    ],
)
def test_every_machine_of_the_readme_has_its_leg(job: str, words: list[str]) -> None:
    assert not [each for each in words if each not in JOBS[job]]


def test_podman_is_started_as_the_readme_says() -> None:
    block = (ROOT / "README.md").read_text().partition("podman serves in Docker's place")[2].split("```console\n")[1]
    typed = [line[2:] for line in block.partition("```")[0].splitlines() if "invoke" not in line]
    assert typed
    assert not [line for line in typed if f" {line}\n" not in JOBS["podman"]]
