"""The command line as invoke parses it, with the tasks' bodies replaced."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.parser import Parser

import tasks
from stack.settings import ROOT

COLLECTION = Collection.from_module(tasks)
CONTEXTS = COLLECTION.to_contexts()


def parse(line: str) -> list[tuple[str | None, dict[str, Any]]]:
    parser = Parser(contexts=CONTEXTS)
    return [(context.name, context.as_kwargs) for context in parser.parse_argv(line.split()) if context.name]


def invoke(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "invoke", *args], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.parametrize(
    ("line", "task", "option", "value"),
    [
        ("logs postgres", "logs", "service", "postgres"),
        ("logs --tail 5 postgres", "logs", "tail", "5"),
        ("logs postgres --follow", "logs", "follow", True),
        ("logs --service postgres", "logs", "service", "postgres"),
        ("logs", "logs", "service", ""),
        ("restart convex-backend", "restart", "service", "convex-backend"),
        ("psql -", "psql", "file", "-"),
        ("psql -c one -c two", "psql", "command", ["one", "two"]),
        ("up --no-wait", "up", "wait", False),
        ("up --layers dev,mine", "up", "layers", "dev,mine"),
        ("snapshot before-it -m why", "snapshot", "name", "before-it"),
        ("snapshot", "snapshot", "name", ""),
        ("restore reset", "restore", "name", "reset"),  # a snapshot of that name, not a task that deletes all data
        ("restart dashboard", "restart", "service", "dashboard"),  # not all services, and then the browser
        ("restore --keep two", "restore", "name", "two"),
        ("drop-snapshot --name=-x --yes", "drop-snapshot", "name", "-x"),
        ("reset-data --service pg --dry-run --yes", "reset-data", "dry_run", True),
    ],
)
def test_options_and_words_reach_the_task(line: str, task: str, option: str, value: object) -> None:
    ((name, options),) = parse(line)
    assert (name, options[option]) == (task, value)


def test_a_word_that_is_a_task_begins_that_task() -> None:
    assert [name for name, _ in parse("down up")] == ["down", "up"]
    assert [name for name, _ in parse("restart status")] == ["restart", "status"]


def test_every_command_of_the_house_is_there() -> None:
    names = {
        "up", "down", "restart", "status", "logs", "wait-healthy", "psql", "env", "seed", "reset", "reset-data",
        "init", "admin-key", "dashboard", "dump", "load", "snapshot", "restore", "snapshots", "drop-snapshot",
        "doctor", "undo",
    }  # fmt: skip
    assert set(COLLECTION.task_names) == names


@pytest.mark.parametrize("name", sorted(COLLECTION.task_names))
def test_help_explains_every_option(name: str) -> None:
    first = (COLLECTION[name].__doc__ or "").splitlines()[0]
    assert first.endswith(".")
    assert first[0].isupper()
    (context,) = (each for each in CONTEXTS if each.name == name)
    for argument in context.args.values():
        assert argument.help, f"{name} --{argument.name} has no help"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("upp", "upp"),
        ("up --tiemout 5", "--tiemout"),
        ("up --timeout soon", "soon"),
        ("up --timeout", "--timeout needs a value"),
        ("psql -c", "--command needs a value"),
        ("psql -c 1 -c", "--command needs a value"),
        ("psql -c -f x", "--command needs a value"),
        ("logs --tail x", "'x' is not a number"),
        ("status postgres", "postgres"),
        ("down --data", "--data"),
    ],
)
def test_a_typing_mistake_is_one_line_and_exit_code_2(line: str, wrong: str) -> None:
    result = invoke(*line.split())
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert wrong in result.stderr
    assert "invoke --" in result.stderr


def test_shell_completion_offers_the_tasks() -> None:
    assert {"up", "down", "reset-data"} <= set(invoke("--complete", "--", "invoke", "").stdout.split())
    assert "--isolated" in invoke("--complete", "--", "invoke init -").stdout.split()


def test_the_tasks_are_short() -> None:
    for body in re.split(r"\n(?=@task)", (ROOT / "tasks.py").read_text())[1:]:
        lines = body.partition('"""\n')[2].strip().splitlines()
        work = [line for line in lines if line.strip() and not line.lstrip().startswith(("from ", "#"))]
        assert len(work) <= 8, body


@pytest.mark.parametrize("line", ["restore -- a", "snapshot -- -x", "dump -- x.dump", "status -- --json", "-- up"])
def test_words_that_would_reach_no_command_are_refused(line: str) -> None:
    """invoke drops them: `restore -- a` would have restored another snapshot than that."""
    result = invoke(*line.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert line.partition("-- ")[2] in result.stderr
    assert "Type it without --" in result.stderr
    assert parse("snapshot --name=-x")[0][1]["name"] == "-x"  # the cure


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", [["status"], ["doctor"], ["status", "--json"], ["env"]])
def test_a_full_stdout_is_told_in_a_sentence(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "invoke", *command], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            check=False, env={**os.environ, "STACK_ENGINE": "embedded"},
        )  # fmt: skip
    assert result.returncode == 1
    assert "stdout cannot be written: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
