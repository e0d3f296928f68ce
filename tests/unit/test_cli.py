"""The command line as invoke parses it, with the tasks' bodies replaced."""

import json
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
from stack.commands import usage
from stack.ground.settings import ROOT

COLLECTION = Collection.from_module(tasks)
CONTEXTS = COLLECTION.to_contexts()


def parse(line: str) -> list[tuple[str | None, dict[str, Any]]]:
    parser = Parser(contexts=CONTEXTS)
    return [(context.name, context.as_kwargs) for context in parser.parse_argv(line.split()) if context.name]


NOWHERE = {"STACK_ENGINE": "external", "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
"""Of what is to be refused nothing can be done by mistake."""


def invoke(*args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    result = subprocess.run(
        [sys.executable, "-m", "invoke", *args], capture_output=True, text=True, cwd=ROOT, check=False,
        stdin=subprocess.DEVNULL, env={**os.environ, **NOWHERE, **env},
    )  # fmt: skip
    assert "Traceback" not in result.stderr, result.stderr
    return result


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
        ("load seed", "load", "file", "seed"),  # a folder of that name, not a task that changes the database
        ("load --clean reset --yes", "load", "file", "reset"),
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
        "doctor", "undo", "diff", "guard", "fresh", "fork", "forks", "drop-fork", "pool", "drop-pool", "stacks",
        "retire",
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
        ("up --timeout=", "'' is not a number"),
        ("up --timeout -5", "-5 is no number of seconds"),
        ("up --timeout 5 --timeout 6", "--timeout is given twice"),
        ("logs --tail 5 -t 6", "--tail is given twice"),  # the 6 was taken for a service
        ("restore one --name two", "--name is given twice"),
        ("restore --keep=no", "--keep is a switch"),  # the no was taken for the name of a snapshot
        ("drop-snapshot -y=no", "-y is a switch"),
        ("up --no-wait=yes", "--no-wait is a switch"),
        ("psql status", "`status` would never run"),
        ("logs down", "`down` would never run"),
        ("--help upp", "Did you mean `up`"),
        ("up -c other", "--collection"),
        ("up -r /", "--search-root"),
        ("-T 5 up", "-T (--command-timeout)"),
        ("up -T 5", "-T (--command-timeout)"),
        ("-f x.sql psql", "`invoke psql -f FILE`"),
        ("up -f docker-compose.mine.yml", "`invoke up --layers dev,NAME`"),
        ("--prompt-for-sudo-password up", "nothing here uses sudo"),
        ("--list -F xml", "xml is no format"),
        ("--list -F json -D 1", "has no --list-depth"),
        ("--list upp", "no group of commands 'upp'"),
    ],
)
def test_a_typing_mistake_is_one_line_and_exit_code_2(line: str, wrong: str) -> None:
    result = invoke(*line.split())
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert not result.stdout
    assert wrong in result.stderr
    assert "ype " in result.stderr or "eave it out" in result.stderr


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("upp", "up"), ("statsu", "status"), ("snapshto", "snapshot"), ("drop-snaphot x", "drop-snapshot"),
        ("load --claen x", "--clean"), ("up --layer dev", "--layers"), ("up --no-wiat", "--no-wait"),
        ("up --drry", "--dry"),
        ("stop", "down"), ("start", "up"),
    ],
)  # fmt: skip
def test_what_was_probably_meant_is_named(line: str, meant: str) -> None:
    result = invoke(*line.split())
    assert result.returncode == 2
    assert f"Did you mean `{meant}`?" in result.stderr


@pytest.mark.parametrize("line", ["restore", "drop-snapshot --yes", "reset-data --yes", "load", "restart", "dump"])
def test_an_empty_word_is_refused(line: str) -> None:
    """As of a variable that is not set: `reset-data --service "$WHICH"` would have deleted the data of both."""
    (options,) = (each.args for each in CONTEXTS if each.name == line.partition(" ")[0])
    for word in ("", "--service=", "--name=", "--file="):
        option = word.strip("-=")
        if option and option not in options:
            continue
        result = invoke(*line.split(), word)
        assert (result.returncode, "is empty" in result.stderr) == (2, True), (word, result.stderr)


def test_an_empty_list_of_layers_is_the_base() -> None:
    assert parse("up --layers=")[0][1]["layers"] == ""


def test_invoke_alone_lists_every_command_in_groups_by_first_use() -> None:
    result = invoke()
    assert result.returncode == 0
    shown = re.findall(r"^  ([a-z-]+) {2,}\S", result.stdout, re.MULTILINE)
    assert sorted(shown) == sorted(COLLECTION.task_names)
    titles = re.findall(r"^(\S.*):$", result.stdout, re.MULTILINE)
    assert titles == [
        "Start and stop", "Work with it", "Data", "Save points", "More databases",
        "When it does not work, and settings",
    ]  # fmt: skip
    assert result.stdout.index("  up ") < result.stdout.index("  psql ") < result.stdout.index("  reset-data ")


def test_list_is_invokes_own() -> None:
    assert set(re.findall(r"^  ([a-z-]+) {2,}\S", invoke("--list").stdout, re.MULTILINE)) == set(COLLECTION.task_names)
    told = json.loads(invoke("--list", "--list-format", "json").stdout)
    assert {each["name"] for each in told["tasks"]} == set(COLLECTION.task_names)


@pytest.mark.parametrize("name", sorted(COLLECTION.task_names))
def test_help_shows_what_may_be_typed(name: str) -> None:
    (context,) = (each for each in CONTEXTS if each.name == name)
    for line in (["--help", name], [name, "--help"], [name, "-h"]):
        shown = invoke(*line, COLUMNS="1000").stdout
        assert shown.splitlines()[0].startswith(f"Usage: invoke {name}")
        for argument in context.args.values():
            assert f"--{argument.name.strip('_').replace('_', '-')}" in shown.replace("[no-]", "")
            assert argument.help in shown
    words = [each for each in usage.WORDS if each in context.args]
    assert f" [{words[0].upper()}]" in shown if words else "[-" in shown or "[" not in shown.splitlines()[0]
    assert ("[-- WORDS FOR PSQL]" in shown) == (name == "psql")


def test_questions_to_invoke_are_answered_after_a_command_too() -> None:
    """They were passed over, and the command ran: `restore --version` restored."""
    assert invoke("restore", "--version").stdout == invoke("--version").stdout
    assert invoke("reset", "--print-completion-script", "bash").stdout.count("complete -F") == 1


@pytest.mark.parametrize("flag", ["-p", "--pty", "-e", "--echo", "-w", "--warn-only", "--hide=both", "--no-dedupe",
                                  "--write-pyc", "-c tasks", f"-r {ROOT}"])  # fmt: skip
def test_options_of_invokes_own_that_mean_nothing_here_do_no_harm(flag: str) -> None:
    plain, flagged = (
        invoke(*words, "env", STACK_ENGINE="external", DATABASE_URL="postgresql://u@h/d")
        for words in ([], flag.split())
    )
    assert (flagged.returncode, flagged.stdout, flagged.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    refused = invoke(*flag.split(), "restore", "--no-such")
    assert refused.returncode == 2


# -- --dry ------------------------------------------------------------------------------------------------------

READING = {"status", "logs", "env", "snapshots", "diff", "forks", "stacks", "doctor", "admin-key"}
SHOWING = {"reset", "reset-data"}


@pytest.mark.parametrize("name", sorted(set(COLLECTION.task_names) - READING - SHOWING))
@pytest.mark.parametrize("way", ["before", "after", "short", "variable"])
def test_dry_refuses_what_would_change_something(name: str, way: str) -> None:
    line = {"before": ["--dry", name], "after": [name, "--dry"], "short": ["-R", name], "variable": [name]}[way]
    result = invoke(*line, **({"INVOKE_RUN_DRY": "1"} if way == "variable" else {}))
    assert (result.returncode, result.stdout) == (2, "")
    assert f"`invoke {name}` would do this: " in result.stderr
    assert "nothing was done" in result.stderr
    assert ("leave out --dry" in result.stderr) == (way != "variable")


def test_dry_refuses_all_of_several_commands_before_the_first() -> None:
    result = invoke("--dry", "env", "down")
    assert (result.returncode, result.stdout) == (2, "")
    assert "`invoke doctor`" in invoke("-R", "doctor", "--fix").stderr
    assert "`invoke env`" in invoke("-R", "env", "--write", "no/such/.env").stderr


def test_every_command_either_only_reads_or_is_refused_or_shows_under_dry() -> None:
    assert usage.READS == READING
    assert {name for name in COLLECTION.task_names for each in CONTEXTS
            if each.name == name and "dry-run" in each.args} == SHOWING  # fmt: skip


def test_shell_completion_lives_on_unfinished_lines() -> None:
    for line in ("invoke psql -c 'sel", "invoke up --timeout soon -", "invoke up --timeout", "invoke restore --name ''",
                 "invoke psql -- -", "invoke up --timeout 1 --timeout 2", "invoke upp --"):  # fmt: skip
        result = invoke("--complete", "--", line)
        assert (result.returncode, result.stderr) == (0, ""), line


def test_shell_completion_offers_the_tasks() -> None:
    assert {"up", "down", "reset-data"} <= set(invoke("--complete", "--", "invoke", "").stdout.split())
    assert "--isolated" in invoke("--complete", "--", "invoke init -").stdout.split()


def test_the_tasks_are_short() -> None:
    bodies = [body for room in (ROOT / "stack" / "commands").glob("*.py")
              for body in re.split(r"\n(?=@task)", room.read_text())[1:]]  # fmt: skip
    assert len(bodies) == len(COLLECTION.task_names)
    for body in bodies:
        lines = body.partition('"""\n')[2].strip().splitlines()
        work = [line for line in lines if line.strip() and not line.lstrip().startswith(("from ", "#"))]
        assert len(work) <= 8, body


def test_the_readme_has_every_command() -> None:
    table = re.search(r"(\| `invoke up` \|.*?)\n\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert table
    rows = re.findall(r"^\| `(invoke|nox -s) ([a-z-]+)", table[1], re.MULTILINE)
    assert {name for program, name in rows if program == "invoke"} <= set(COLLECTION.task_names)
    assert set(re.findall(r"`invoke ([a-z-]+)", table[1])) == set(COLLECTION.task_names)


@pytest.mark.parametrize("line", ["restore -- a", "snapshot -- -x", "dump -- x.dump", "status -- --json", "-- up"])
def test_words_that_would_reach_no_command_are_refused(line: str) -> None:
    """invoke drops them: `restore -- a` would have restored another snapshot than that."""
    result = invoke(*line.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert line.partition("-- ")[2] in result.stderr
    assert "Type it without --" in result.stderr
    assert parse("snapshot --name=-x")[0][1]["name"] == "-x"  # the cure


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "command", [["status"], ["doctor"], ["status", "--json"], ["env"], [], ["--list"], ["--help", "up"], ["up", "-h"]]
)
def test_a_full_stdout_is_told_in_a_sentence(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "invoke", *command], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            check=False, env={**os.environ, "STACK_ENGINE": "embedded"},
        )  # fmt: skip
    assert result.returncode == 1
    assert "stdout cannot be written: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


def test_closed_streams_are_no_traceback() -> None:
    python = f"{sys.executable} -m invoke"
    for line, code in ((f"{python} psql -c 'select 1' <&-", 2), (f"{python} psql -f /dev/stdin <&-", 2),
                       (f"{python} psql -c 'select 1' >&-", 2), (f"{python} env <&- >&- 2>&-", 1),
                       (f"{python} --list | head -1", 0), (f"{python} | head -1", 0)):  # fmt: skip
        result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=ROOT, check=False,
                                env={**os.environ, **NOWHERE})  # fmt: skip
        assert "Traceback" not in result.stderr, line
        assert "Exception ignored" not in result.stderr, line
        assert result.returncode in (code, 1), (line, result.stderr)


def test_what_an_encoding_lacks_is_spelled_out_in_a_table_and_refused_as_data() -> None:
    draws = "import tasks; from stack.ground.tables import print_columns; print_columns(('A',), [('größe',)])"
    drawn = subprocess.run(
        [sys.executable, "-c", draws], capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (drawn.returncode, drawn.stdout.split()) == (0, ["A", "gr\\xf6\\xdfe"]), drawn.stderr
    other = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/größe"}
    said = invoke("env", "--no-key", PYTHONIOENCODING="ascii", **other)
    assert (said.returncode, said.stdout) == (1, "")
    assert "stdout is written in ascii, which has no '\\xf6'. Put `PYTHONIOENCODING=utf-8` in front" in said.stderr
    cured = invoke("env", "--no-key", PYTHONIOENCODING="utf-8", **other)
    assert (cured.returncode, "PGDATABASE='größe'" in cured.stdout) == (0, True)
