import gzip
from pathlib import Path

import pytest

from stack.postgres import _head, _open, psql_argv
from stack.process import Refused, environment


def test_psql_stops_at_the_first_error_when_nobody_is_there_to_see_it() -> None:
    assert psql_argv([], "", stop=False) == ["psql"]
    assert psql_argv([], "", stop=True) == ["psql", "-X", "-v", "ON_ERROR_STOP=1"]


def test_commands_keep_their_order_and_a_file_comes_through_stdin() -> None:
    assert psql_argv(["one", "two"], "x.sql", stop=True)[4:] == ["-c", "one", "-c", "two", "-f", "-"]


def test_a_file_is_told_by_its_content(tmp_path: Path) -> None:
    plain, zipped = tmp_path / "a.dump", tmp_path / "b.sql"  # neither is what its name says
    plain.write_bytes(b"SELECT 1;")
    zipped.write_bytes(gzip.compress(b"PGDMP and so on"))
    for file, content in ((plain, b"SELECT 1;"), (zipped, b"PGDMP and so on")):
        with _open(str(file)) as source:
            assert _head(source) == content
            assert source.read() == content


@pytest.mark.parametrize("name", ["missing.dump", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="cannot be read"), _open(str(tmp_path / name)):
        pass


def test_an_empty_value_takes_a_variable_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "production")
    assert "PGHOST" not in environment({"PGHOST": ""})
    assert environment({"PGAPPNAME": "x"})["PGAPPNAME"] == "x"
    assert environment()["PGHOST"] == "production"
