"""Another program's dotenv file: what is ours in it changes, and nothing else."""

import io

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from stack.ground.dotenv import amend, bindings
from stack.ground.errors import Refused

URL = {"URL": "new"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "URL=new\n"),
        ("A=1\nURL=old\nB=2\n", "A=1\nURL=new\nB=2\n"),
        ("# mine\n\nA=1", "# mine\n\nA=1\nURL=new\n"),
        ("A=1\n\n\n", "A=1\n\n\nURL=new\n"),
        ("A=1\r\nURL=old\r\nB=2\r\n", "A=1\r\nURL=new\r\nB=2\r\n"),
        ("A=1\r\n", "A=1\r\nURL=new\r\n"),
        ("\ufeffA=1\n", "\ufeffA=1\nURL=new\n"),
        ("export URL=old\n", "export URL=new\n"),
        ("  export\tURL =  old\n", "  export\tURL =  new\n"),
        ("URL=old # why\n", "URL=new # why\n"),
        ("URL='o # l\"d'# why\n", "URL=new # why\n"),
        ('URL="o\\"ld"\n', "URL=new\n"),
        ("URL=\n", "URL=new\n"),
        ("URL= # fill in\n", "URL= new # fill in\n"),
        ("URL\nA=1\n", "URL=new\nA=1\n"),
        ("URL=one\nURL=two\n", "URL=new\nURL=new\n"),
        ("# URL=old\n", "# URL=old\nURL=new\n"),
        ('A="\nURL=old\n"\n', 'A="\nURL=old\n"\nURL=new\n'),  # a part of a value
        ('URL="-----BEGIN\nold\n-----END"\nB=2\n', "URL=new\nB=2\n"),
        ("URL_TOO=old\nMY_URL=old\n", "URL_TOO=old\nMY_URL=old\nURL=new\n"),
        ("A=pa$word\nB=${URL}\nno assignment\n", "A=pa$word\nB=${URL}\nno assignment\nURL=new\n"),
        ("URL='new'\n", "URL='new'\n"),  # as it should be
        ("URL=old", "URL=new"),
        ("'URL'=old\n", "'URL'=new\n"),
        ("A=1\n  # end", "A=1\n  # end\nURL=new\n"),
    ],
)
def test_only_the_value_changes(before: str, after: str) -> None:
    assert amend(before, URL, "f") == after
    assert amend(after, URL, "f") == after


@pytest.mark.parametrize("value", ["convex|01ab", "two words", "it's", "a$b", "a#b", "a\\b", "é", ""])
def test_a_value_is_quoted_for_every_reader(value: str) -> None:
    for before in ("", "V=old # why\n", 'V="o\nld"'):
        new = amend(before, {"V": value}, "f")
        assert dotenv_values(stream=io.StringIO(new), interpolate=False)["V"] == value


def test_a_value_that_is_one_thing_to_one_reader_is_written_anew() -> None:
    assert amend('V="pa$word"\n', {"V": "pa$word"}, "f") == "V='pa$word'\n"


@pytest.mark.parametrize("before", ["A='it\nB=2\n", 'A="it\nB=2\n'])
def test_a_quote_that_does_not_end_swallows_nothing(before: str) -> None:
    with pytest.raises(Refused, match="line 1"):
        amend(before, {"V": "it's", "W": "two words"}, "f")
    assert amend(before, URL, "f") == f"{before}URL=new\n"  # no quote in it that would end that one


TEXT = st.text(st.sampled_from("AB=#'\"\\ \t\r\n$|ex"), max_size=40)


@given(TEXT, st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8))
def test_whatever_the_file_is_the_other_names_keep_their_values(before: str, value: str) -> None:
    try:
        after = amend(before, {"A": value}, "f")
    except Refused:
        return
    assert "".join(each.original.string for each in bindings(after)) == after
    old, new = (dotenv_values(stream=io.StringIO(text), interpolate=False) for text in (before, after))
    assert new.pop("A") == value
    old.pop("A", None)
    assert old == new
