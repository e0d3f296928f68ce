import pytest

from stack.ground.errors import Refused
from stack.ground.run import environment
from stack.verbs.psql import psql_argv
from stack.verbs.psql_options import read


def test_psql_stops_at_the_first_error_when_nobody_is_there_to_see_it() -> None:
    assert psql_argv(read([], "", []), stop=False) == ["psql"]
    assert psql_argv(read([], "", []), stop=True) == ["psql", "-X", "-v", "ON_ERROR_STOP=1"]


def test_commands_and_files_keep_their_order() -> None:
    asked = read(["one", "two"], "x.sql", ["-f", "y.sql", "-c", "three"])
    argv = ["-c", "one", "-c", "two", "-f", "x.sql", "-f", "y.sql", "-c", "three"]
    assert psql_argv(asked, stop=True)[4:] == argv


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        ("-At -c one", "-A -t -c one"),
        ("-Atcone", "-A -t -c one"),
        ("--comm=one --no-align", "-c one -A"),
        ("--command one", "-c one"),
        ("--csv --help=variables", "--csv --help=variables"),
        ("-vx=3 --set y=4 -v z", "-v x=3 -v y=4 -v z"),
        ("-P pager=off -1q", "-P pager=off -1 -q"),
        ("--no-such -l", "--no-such -l"),  # psql itself says what it does not know
        ("-f - -f x", "-f - -f x"),
    ],
)
def test_words_of_psql_are_read_as_psql_reads_them(words: str, argv: str) -> None:
    assert psql_argv(read([], "", words.split()), stop=False)[1:] == argv.split()


@pytest.mark.parametrize(
    ("words", "database", "user"),
    [
        ("-d other", "other", ""), ("other", "other", ""), ("-At other somebody -q", "other", "somebody"),
        ("-U me other", "other", "me"), ("--dbname=other --user me", "other", "me"), ("-dother -- -x", "other", "-x"),
    ],
)  # fmt: skip
def test_another_database_or_user_of_the_same_server_may_be_named(words: str, database: str, user: str) -> None:
    asked = read([], "", words.split())
    assert (asked.database, asked.user) == (database, user)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-h elsewhere", "another server"), ("--host=x", "another server"), ("-p 1", "another server"),
        ("-d host=x", "another server"), ("postgresql://x/y", "another server"), ("a b c", "no use for the word 'c'"),
        ("-At -c", "-c needs a value"), ("--file", "--file needs a value"),
    ],
)  # fmt: skip
def test_words_that_lead_elsewhere_or_nowhere_are_refused(words: str, said: str) -> None:
    with pytest.raises(Refused) as error:
        read([], "", words.split())
    assert said in str(error.value)
    assert error.value.code == 2


def test_an_empty_value_takes_a_variable_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "production")
    assert "PGHOST" not in environment({"PGHOST": ""})
    assert environment({"PGAPPNAME": "x"})["PGAPPNAME"] == "x"
    assert environment()["PGHOST"] == "production"
