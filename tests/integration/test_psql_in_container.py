"""psql in the container, as if it stood on this machine: files, pipes, exit codes, a terminal."""

from __future__ import annotations

import shlex
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.checkout import INVOKE, SHOP, environment, eventually, fail, run, sql, succeed
from tests.integration.terminal import CTRL_C, Terminal


def test_each_command_is_run_in_the_configured_database(shared: Path) -> None:
    printed = succeed(shared, "psql", "-c", "SELECT current_database() AS db", "-c", "SELECT 'größe, $HOME' AS second")
    assert "convex_poc" in printed
    assert "größe, $HOME" in printed


def test_a_file_is_found_from_a_sub_folder(shared: Path) -> None:
    folder = shared / "some where"
    folder.mkdir(exist_ok=True)
    (folder / "a file.sql").write_text("SELECT 'from ' || 'the file';", encoding="utf-8")
    assert "from the file" in succeed(shared, "psql", "-f", "a file.sql", cwd=folder)
    assert "from the file" in succeed(shared, "psql", "--file", str(folder / "a file.sql"))


def test_what_is_no_file_is_refused_in_one_paragraph(shared: Path) -> None:
    said = fail(shared, 2, "psql", "-f", "missing.sql", saying=("missing.sql", "No such file"))
    assert "\n\n" not in said.strip()
    fail(shared, 2, "psql", "-f", "seed", saying=("seed", "irectory"))


def test_what_a_file_includes_and_copies_is_read_on_this_machine(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,name\n1,Ada\n2,Bo\n")
    (tmp_path / "table.sql").write_text("CREATE TEMP TABLE people (id int, name text);\n")
    (tmp_path / "all.sql").write_text(
        "\\ir table.sql\n\\copy people from 'rows.csv' with (format csv, header)\n"
        "SELECT string_agg(name, '+') FROM people;\n"
    )
    assert "Ada+Bo" in succeed(shared, "psql", "-f", str(tmp_path / "all.sql"))
    (tmp_path / "more.sql").write_text("SELECT 'more';\n")
    printed = succeed(shared, "psql", "-f", str(tmp_path / "all.sql"), "--", "-f", str(tmp_path / "more.sql"))
    assert printed.index("Ada+Bo") < printed.index("more")


def test_an_error_is_told_with_the_users_file_and_line(shared: Path) -> None:
    folder = shared / "errors"
    folder.mkdir(exist_ok=True)
    (folder / "fails.sql").write_text("SELECT 1;\n\nSELECT 1/0;\n")
    (folder / "fine.sql").write_text("SELECT 1;\n")
    (folder / "rows.csv").write_text("1\n2\n3\n")
    (folder / "all.sql").write_text(
        "CREATE TEMP TABLE people (id int);\n\\copy people from 'rows.csv'\n\\i fine.sql\n\\warn said\n\\i fails.sql\n"
    )
    for files, where in (
        (["fails.sql"], "fails.sql:3"),
        ([str(folder / "fails.sql")], f"{folder}/fails.sql:3"),
        (["all.sql"], "fails.sql:3"),
        (["fine.sql", "fails.sql"], "fails.sql:3"),
        (["fine.sql", "all.sql"], "fails.sql:3"),
    ):
        more = [word for each in files[1:] for word in ("-f", each)]
        words = ("psql", "-f", files[0], *(["--", "-q", "-o", "/dev/null", *more]))
        said = fail(shared, 3, *words, cwd=folder, saying=("division by zero",))
        assert f"psql:{where}: ERROR:  division by zero" in said
        assert ("said" in said.splitlines()) == ("all.sql" in files)
    done = run(shared, "psql", "-f", "-", stdin="SELECT 1;\nSELECT 1/0;\n")
    assert "psql:<stdin>:2: ERROR:  division by zero" in done.stderr  # which is what it is


@pytest.mark.parametrize("args", [("psql",), ("psql", "-f", "-")])
def test_sql_comes_in_through_a_pipe(shared: Path, args: tuple[str, ...]) -> None:
    assert "from stdin" in succeed(shared, *args, stdin="SELECT 'from ' || 'stdin';\n")


def test_sql_comes_in_from_a_redirected_file(shared: Path) -> None:
    with (SHOP / "checksum.sql").open("rb") as file:
        assert "checksum" in succeed(shared, "psql", stdin=file)


def test_no_sql_is_no_error(shared: Path) -> None:
    assert succeed(shared, "psql", stdin="") == ""
    assert succeed(shared, "psql") == ""  # </dev/null


def test_much_data_comes_in_and_out_unharmed(shared: Path) -> None:
    rows = "".join(f"{n}\tÜnïcödé 🦊 {n * 7}\n" for n in range(300_000))
    script = f"\\set QUIET on\nCREATE TEMP TABLE big (n int, t text); COPY big FROM STDIN;\n{rows}\\.\n"
    printed = succeed(shared, "psql", stdin=f"{script}COPY big TO STDOUT;\n")
    assert printed == rows


@pytest.mark.parametrize(
    ("args", "stdin", "code"),
    [
        (("-c", "SELECT 1/0"), None, 1),
        (("-c", "SELECT 1/0", "-c", "SELECT 'next'"), None, 1),
        ((), "SELECT 1/0; SELECT 'next';", 3),
        (("-f", "-"), "SELECT 1/0; SELECT 'next';", 3),
    ],
)
def test_the_first_error_ends_it_with_psqls_own_code(
    shared: Path, args: tuple[str, ...], stdin: str | None, code: int
) -> None:
    said = fail(shared, code, "psql", *args, stdin=stdin, saying=("division by zero",))
    assert "next" not in said


def test_a_loop_around_it_keeps_its_stdin(shared: Path) -> None:
    loop = f"printf 'a\\nb\\nc\\n' | while read x; do {shlex.join(INVOKE)} psql -c \"SELECT 'got $x'\"; done"
    result = subprocess.run(
        ["sh", "-c", loop], check=True, capture_output=True, text=True, cwd=shared, env=environment()
    )
    assert [line.strip() for line in result.stdout.splitlines() if "got" in line] == ["got a", "got b", "got c"]


def test_on_a_terminal_it_is_interactive_and_ctrl_c_cancels_the_query_alone(shared: Path) -> None:
    with closing(Terminal(shared, "psql")) as terminal:
        terminal.expect("convex_poc=#")
        terminal.type("SELECT 6 * 7 AS answer;\n")
        assert "42" in terminal.expect("(1 row)")
        terminal.expect("convex_poc=#")
        terminal.type("SELECT 1/0;\n")  # no ON_ERROR_STOP for a person
        terminal.expect("division by zero")
        terminal.expect("convex_poc=#")
        terminal.type("SELECT 'sleeping', pg_sleep(60);\n")
        others = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
        eventually(lambda: sql(shared, others))
        terminal.type(CTRL_C)
        terminal.expect("canceling statement due to user request")
        terminal.expect("convex_poc=#")
        terminal.type("\\q\n")
        assert terminal.wait() == 0
        assert "history" not in terminal.said


def test_a_query_on_a_terminal_shows_its_result_and_ends(shared: Path) -> None:
    with closing(Terminal(shared, "psql", "-c", "SELECT 6 * 7 AS answer")) as terminal:
        assert "42" in terminal.expect("(1 row)")
        assert terminal.wait() == 0


def test_stdout_is_psqls_alone(shared: Path) -> None:
    result = run(shared, "psql", "-c", "COPY (SELECT 1, 'x') TO STDOUT")
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\tx\n", "")
