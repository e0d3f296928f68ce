"""Files run by psql and pg_restore as they would run them; whether all of it is there, the server says."""

from __future__ import annotations

import io
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from stack.engines.base import Engine
from stack.ground.errors import StackError
from stack.ground.run import PIPE, Command
from stack.ground.talk import progress
from stack.ground.threads import meanwhile
from stack.server import waits
from stack.sql.roles import roles_in
from stack.sql.script import Script
from stack.sql.sources import Source
from stack.verbs import made_roles
from stack.verbs.causes import known
from stack.verbs.feed import SHOWN, Piped, Readable, Reader, Tape, Unfit, how_it_ended, printed, read_by, words
from stack.verbs.filled import Aside

if TYPE_CHECKING:
    from typing_extensions import Self

PSQL = ("psql", "-qX", "-v", "ON_ERROR_STOP=1")
STOPPED, LOST = 3, 2
"""psql's exit codes when it ended at an error, and when its connection did."""
NAME = "stack-load-"
"""What our sessions in the database aside are called, before some digits."""
SESSION = "SET synchronous_commit = off;"
"""What a session is told again that a script begins anew."""
AS_PSQL = "`invoke psql -f FILE` runs it as it is, without all or nothing."
SWALLOWED = b"\n-- \"'`~|\\.x\n"
"""A comment behind a file's last line. Whoever takes it for something else has not been closed before: neither a COPY
nor a string can have it for its content."""
_SHOWN = re.compile(rf"\nLINE \d+: {re.escape(SWALLOWED.strip().decode())}\n *\^")
"""That comment, shown by an error of a statement that does not end."""
_ERROR = re.compile(r"psql:<stdin>:(\d+): (?:ERROR|FATAL|PANIC|error):")
_QUITS = re.compile(rb"(?:\A|\n)[ \t]*\\q(?:uit)?[ \t]*(?:\r?\n(?:\s|--[^\n]*(?:\n|\Z))*)?\Z")
CUT = "the file ends in the middle: the last line of a dump is missing."
IN_THE_MIDDLE = "the file ends in the middle: a COPY, a string, a comment or a condition in it is not closed."


class Ended(NamedTuple):
    """How psql came to its end."""

    code: int
    at_the_end: bool
    """Whether it read the file to its last byte, as commands."""
    proof: str
    """`whole` or `open`, as the server said after it: is no transaction left open? Empty when it was not asked."""
    errors: int
    said: str
    in_the_middle: bool
    """Whether what it complained about begins in the file and goes on into what we put behind it."""


class How(NamedTuple):
    """How a script is to be read; an archive has nothing of it."""

    pick: str = ""
    """The database whose content is wanted, of a script with several."""
    trust: bool = True
    """Whether commands in it may run and write things on the user's machine."""
    beside: Path | None = None
    """Where files that it names are looked for as well; else where it is itself."""


class Ahead:
    """A file that is about to be loaded; what an archive is to be asked is asked while its place is being made."""

    def __init__(self, engine: Engine, source: Source, how: How = How()) -> None:  # noqa: B008 - it never changes
        self.how = how
        self.own = "\n".join(source.statements(':"DBNAME"'))
        """The statements that give a database the settings and grants that an archive's own had."""
        self.source, self.reader = source, Reader(source)
        self.tape = Tape(self.reader, source.listed_to)
        archive = source.is_archive and engine.name != "external"
        nothing = Contents([], makes_public=False)
        self.contents = meanwhile(lambda: archive_contents(engine.client, self.tape) if archive else nothing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the answer, whoever has a use for it: the file may be closed only then."""
        with suppress(StackError):
            self.contents()


def fill(place: Aside, ahead: Ahead) -> list[str]:
    """Bring a file into a database aside, and return what is to be said when that is in its place.

    Raises StackError with the client's first words.
    """
    name = NAME + secrets.token_hex(8)
    with waits.watched(place.cluster.beside, program=name), progress("Loading", ahead.source.size) as show:
        notes: list[str] = []
        ahead.reader.show = show
        if ahead.source.is_archive:
            why = _restore(place, ahead, name)
            notes = [] if why else settle(place.engine, ahead.own, place.missing, name=name, into=place.login)
        else:
            why, notes = _run(place, ahead, name)
    if place.stuck:
        why = (
            f"{why}\nThis waited for the database that is being replaced, which is held until that is done:"
            f" {' '.join(place.stuck.split())[:200]}\n{AS_PSQL}"
        )
    if why:
        raise Unfit(known(place.engine, why))
    return notes


def _run(place: Aside, ahead: Ahead, name: str) -> tuple[str, list[str]]:
    reader = ahead.reader
    script = Script(
        reader, into=place.name, name=place.cluster.database, missing=place.missing, session=SESSION,
        mark=made_roles.mark(place.name), inline=not place.engine.sees_files,
        restricts=restricts(place.cluster.version), **ahead.how._asdict(),
    )  # fmt: skip
    token = f"stack{secrets.token_hex(12)}"
    ended = run_psql(command(place, token, name, reader.options), script, token)
    place.read |= script.reads
    return judged(ended, reader, script), script.notes


def restricts(version: str) -> bool:
    r"""Return whether the psql of a server's version has `\restrict`, as 17.6 was the first of its line to have."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2]) >= (17, 6)


def command(place: Aside, token: str, name: str, options: tuple[str, ...] = ()) -> Command:
    """Return the command line of a psql that asks the server after the file, in the same session, what has become."""
    # What a file does with \o, or with the form of a table, changes neither.
    proof = ("-c", "\\o", "-c", f"SELECT {_proof(token, place.name)}")
    return place.engine.client(*PSQL, *options, "-f", "-", *proof, stdin=True, name=name, into=place.login)


def _proof(token: str, name: str) -> str:
    open_, here = "pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL", "pg_catalog.current_database()"
    what = f"CASE WHEN {open_} THEN 'open' WHEN {here} = '{name}' THEN 'whole' ELSE 'elsewhere' END"
    return f"pg_catalog.concat('{token}', {what})"


def run_psql(command: Command, script: Script, token: str) -> Ended:
    """Let psql run a script, and return how that ended."""
    with Piped(command, PIPE) as psql:
        answer = printed(psql)
        lines = Lines(script)
        psql.feed(lines)
        psql.give(SWALLOWED + f"\\echo {token}end\n".encode())
        code = psql.end()
        out = answer().decode(errors="replace")
        count, said, last = errors(psql.said(), lines.number)
    found, at_the_end = re.search(f"{token}(whole|open|elsewhere)", out), f"{token}end" in out
    return Ended(code, at_the_end, found[1] if found else "", count, said, last > lines.number and not at_the_end)


class Lines:
    """What is given to psql, with its lines counted."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.number = 1

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        chunk = self._source.read(size)
        self.number += chunk.count(b"\n")
        return chunk


def errors(said: IO[bytes], lines: int) -> tuple[int, str, int]:
    """Return how many errors psql told of a file of so many lines, its words on the first, and the line of the last."""
    count, first, last = 0, list[str](), 0
    for raw in said:
        line = raw.decode(errors="replace")
        if found := _ERROR.match(line):
            count, last = count + 1, int(found[1])
            line = f"psql:<stdin>:{min(last, lines)}: {line[found.end(1) + 2 :]}"
        if count <= 1 and len(first) < 20:
            first.append(line[:1000])
    return count, "".join(first).strip(), last


def judged(ended: Ended, reader: Reader, script: Script) -> str:
    """Return what went wrong, with the file's name and line; empty when the whole file is there."""
    said = _SHOWN.sub("", ended.said)
    said = re.sub(r"psql:<stdin>:(\d+): ", lambda found: f"{script.where(int(found[1]))}: ", said)
    if "reached EOF without finding" in said:
        return f"{IN_THE_MIDDLE} psql said: {said}"
    if ended.in_the_middle and reader.ended:
        return CUT if reader.lacks_its_end else IN_THE_MIDDLE
    if ended.errors and ended.code not in (STOPPED, LOST):
        also = f", the first of {ended.errors}" if ended.errors > 1 else ""
        return (
            f"{said}\npsql went on past an error{also}, as it does when a file sets ON_ERROR_STOP off, and when an \\if"
            f" is neither true nor false. Mend it, or take that line out. {AS_PSQL}"
        )
    if ended.code or not ended.proof:
        return said or f"psql ended, and said nothing: {how_it_ended(ended.code)}"
    return _not_all(ended, reader, script)


def _not_all(ended: Ended, reader: Reader, script: Script) -> str:
    """Return what is missing, though psql has not complained; empty when nothing is."""
    if reader.lacks_its_end:
        return CUT
    if ended.proof == "open":
        return (
            "the file leaves a transaction open at its end (BEGIN without COMMIT, or AUTOCOMMIT off), so psql would"
            " keep nothing of that. Put a COMMIT at its end."
        )
    if ended.proof == "elsewhere":
        return f"the file ends in another database than it began in. {AS_PSQL}"
    if script.inside:
        return f"{IN_THE_MIDDLE} What is open there is {script.inside}."
    if not script.whole or (not ended.at_the_end and not _QUITS.search(reader.tail)):
        return (
            "psql left the file before its end, at the line \\q, and what follows was not run. Take that line out, or"
            f" what follows. {AS_PSQL}"
        )
    return ""


def _restore(place: Aside, ahead: Ahead, name: str) -> str:
    contents = ahead.contents()
    for role in contents.roles:
        place.missing(role)
    if contents.makes_public:
        place.drop_public()
    command = place.engine.client("pg_restore", "--single-transaction", stdin=True, name=name, into=place.login)
    with Piped(command) as restore:
        restore.feed(ahead.tape.rest())
        code = restore.end()
        return words(restore, code) if code else ""


def settle(engine: Engine, own: str, missing: Callable[[str], object] = bool, **client: Any) -> list[str]:
    """Run what is about the database itself, each statement by itself; return what to say of those that fail."""
    for role in roles_in(io.BytesIO(own.encode(errors="surrogateescape"))):
        missing(role)
    if not own:
        return []
    with Piped(engine.client("psql", "-qX", "-v", "ON_ERROR_STOP=0", "-f", "-", stdin=True, **client)) as psql:
        psql.give(own.encode(errors="surrogateescape"))
        psql.end()
        said = psql.said().read(SHOWN).decode(errors="replace").strip()
    return [f"Not all settings and grants of the database itself came along. psql said:\n{said}"] if said else []


class Contents(NamedTuple):
    """What an archive says in its table of contents."""

    roles: list[str]
    """Those that it names."""
    makes_public: bool
    """Whether it makes the schema `public`, which a new database has already."""


def archive_contents(client: Callable[..., Command], tape: Tape) -> Contents:
    """Return what an archive is made of, reading no more of it than its table of contents."""
    schema = read_by(client("pg_restore", "--schema-only", "-f", "-", stdin=True), tape)
    tape.rewind()
    listed = read_by(client("pg_restore", "--list", "-f", "-", stdin=True), tape)
    tape.rewind()
    # The owners of large objects stand in no schema.
    large = re.findall(
        r"^\d+; \d+ \d+ BLOB(?: METADATA)? - \d+(?:\.\.\d+)? (.+)$", listed.decode(errors="replace"), re.M
    )
    roles = list(dict.fromkeys([*sorted(roles_in(io.BytesIO(schema))), *large]))
    return Contents(roles, bool(re.search(rb"^CREATE SCHEMA public;$", schema, re.MULTILINE)))
