import pytest

from stack.postgres import psql_argv
from stack.process import environment


def test_psql_stops_at_the_first_error_when_nobody_is_there_to_see_it() -> None:
    assert psql_argv([], "", stop=False) == ["psql"]
    assert psql_argv([], "", stop=True) == ["psql", "-X", "-v", "ON_ERROR_STOP=1"]


def test_commands_keep_their_order_and_a_file_comes_through_stdin() -> None:
    assert psql_argv(["one", "two"], "x.sql", stop=True)[4:] == ["-c", "one", "-c", "two", "-f", "-"]


def test_an_empty_value_takes_a_variable_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "production")
    assert "PGHOST" not in environment({"PGHOST": ""})
    assert environment({"PGAPPNAME": "x"})["PGAPPNAME"] == "x"
    assert environment()["PGHOST"] == "production"
