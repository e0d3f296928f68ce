"""The list of an archive, and the statements about the database itself, made to speak of another one."""

import io

import pytest

from stack.sql.archives import Archive, Entry, is_tar_of_pg_dump, listed


def of(database: str, *statements: str) -> Archive:
    entries = [Entry("DATABASE PROPERTIES", database, "\n".join(statements) + "\n\n", "")]
    return Archive(database, "17.1", entries, complete=True)


@pytest.mark.parametrize(
    ("database", "statement"),
    [
        ("shop", "ALTER DATABASE {} SET a TO 'x; y';"),
        ('"My; ""Db"""', "ALTER DATABASE {} CONNECTION LIMIT = 5;"),
        ("shop", r"""ALTER ROLE "shop" IN DATABASE {} SET a TO E'\\''';"""),
        ("shop", "GRANT CREATE,CONNECT ON DATABASE {} TO shop;"),
        ("shop", "COMMENT ON DATABASE {} IS 'COMMENT ON DATABASE shop IS;\n''x';"),
        ("shop", "SECURITY LABEL FOR dummy ON DATABASE {} IS 'ON DATABASE shop';"),
    ],
)
def test_a_statement_speaks_of_another_database_and_of_nothing_else(database: str, statement: str) -> None:
    name = database.removeprefix('"').removesuffix('"').replace('""', '"')
    found = of(name, statement.format(database), statement.format(database)).statements(':"DBNAME"')
    assert found == [statement.format(':"DBNAME"')] * 2
    other = statement.format("shopping")
    assert of(name, other).statements(':"DBNAME"') == [other]


def test_a_limit_that_is_a_mark_does_not_come_along() -> None:
    limits = [f"ALTER DATABASE shop CONNECTION LIMIT = {n};" for n in (0x57AC57AC, -2, 0, 100)]
    assert [each.split()[-1] for each in of("shop", *limits).statements("new")] == ["0;", "100;"]


@pytest.mark.parametrize("size", range(0, 110, 5))
def test_a_list_that_is_cut_off_is_not_complete(size: int) -> None:
    beginning = b"PGDMP\1\x10\0\4\x08\1\0" + bytes(35) + b"\0\4\0\0\0shop" + (b"\0\4\0\0\0" + b"17.1") * 2
    beginning += b"\0\2\0\0\0" + bytes(60)
    found = listed(io.BytesIO(beginning[:size]).read)
    assert not found.complete
    assert found.database == ("shop" if size > 55 else "")


def test_a_tar_whose_first_file_is_no_list_is_none_of_pg_dump() -> None:
    assert not is_tar_of_pg_dump(b"toc.dat" + bytes(250) + b"ustar" + bytes(250) + b"hello")
    assert is_tar_of_pg_dump(b"toc.dat" + bytes(250) + b"ustar" + bytes(250) + b"PGDMP")
