"""What comes into a database from files: seed, load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from stack.engines.base import Engine
from stack.ground import files
from stack.ground.errors import Refused, StackError
from stack.ground.run import look
from stack.ground.talk import confirm, counted, say
from stack.sql.sources import opened
from stack.verbs import aside, executables, single, whole
from stack.verbs.arriving import Arriving, arriving
from stack.verbs.causes import told
from stack.verbs.drop import BACK, HALF_BACK
from stack.verbs.feed import Unfit
from stack.verbs.filled import Aside, make_empty
from stack.verbs.restore import wait_for_convex
from stack.verbs.seeds import size, to_apply
from stack.verbs.whole import How

_COUNT = """
SELECT count(*) + (SELECT count(*) FROM pg_largeobject_metadata), current_setting('server_version_num')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
"""


def seed(engine: Engine, *, yes: bool = False, then: Callable[[Aside], object] | None = None) -> list[Path]:
    """Apply the files of seed/ in name order, all of them or none, and return them; `then` follows at once.

    Nobody may enter the database meanwhile: it is a copy of it that they are applied to, and what is written to the
    other would be lost. Raises StackError with psql's words at the first file that fails; nothing is kept then.
    """
    if not (there := to_apply(engine)):
        say("There is nothing in seed/ to apply. Put files of SQL there, such as seed/010_schema.sql.")
        return []
    with _place(engine, "seed", afresh=False, room=size(there), yes=yes, then=then) as place:
        notes = apply(engine, place.fill, there, into=place.name)
    for each in notes:
        say(each)
    say(f"Applied {counted(len(there), 'file')} of seed/.{place.back}")
    return there


def apply(
    engine: Engine,
    fill: Callable[[whole.Ahead], list[str]],
    there: list[Path],
    *,
    into: str = "",
    by: str = "seed",
) -> list[str]:
    """Bring files in by what fills the database `into`, and return what is to be said when they count.

    `by` is the command. Raises StackError.
    """
    notes: list[str] = []
    for file in there:
        say(f"seed/{file.name}")
        try:
            if executables.is_program(file):
                executables.run(engine, file, into)
            else:
                notes += _apply_sql(engine, fill, file)
        except Unfit as error:
            raise StackError(_not_seeded(engine, file, error.what, by)) from None
    return notes


def _apply_sql(engine: Engine, fill: Callable[[whole.Ahead], list[str]], file: Path) -> list[str]:
    with opened(str(file)) as source:
        if source.stack_file:
            raise Refused(
                f"seed/{file.name} has both stores in it, and a seed is of the database alone. Nothing was done."
                " Take it out of seed/, and type `invoke load` for it."
            )
        source.name = f"seed/{file.name}"
        with whole.Ahead(engine, source, How(beside=file.parent)) as ahead:
            return fill(ahead)


def _not_seeded(engine: Engine, file: Path, why: str, by: str) -> str:
    kept = "nothing of seed/ was kept: the database is as it was"
    if engine.name == "external":
        kept = "nothing of it was kept; the files before it were applied"
    return f"seed/{file.name} failed, and {kept}. The reason:\n{why}\nMend the file, then type `invoke {by}`."


def load(
    engine: Engine,
    file: str,
    *,
    clean: bool,
    yes: bool,
    encoding: str = "",
    database: str = "",
    trust: bool = False,
) -> None:
    """Bring a dump or a file of SQL, compressed or not, into the database: all or nothing. `-` is stdin.

    One with both stores in it brings Convex along, where there is one.

    What it is, is told by its first bytes. Of a script with several databases, `database` is wanted; without `trust`
    one that would run or write things on this machine is refused. A database that is not empty is refused; `clean`
    replaces it, after asking. Raises StackError when it fails; the database is then as it was.
    """
    if not file:
        raise Refused("Which file? Type `invoke load FILE`, with a dump or a file of SQL, or - for stdin.")
    with opened(file, encoding) as source:
        if not source.head:
            raise Refused(f"{source.name} is empty: it is no dump and no SQL. Nothing was done.")
        beside = None if file == "-" else Path(file).parent
        with whole.Ahead(engine, source, How(database, trust, beside)) as ahead:
            _load(engine, ahead, file, clean=clean, yes=yes)


def _load(engine: Engine, ahead: whole.Ahead, file: str, *, clean: bool, yes: bool) -> None:
    """Do what `load` does with a file that is open."""
    source = ahead.source
    found, major = _contents(engine)
    if int(source.server.partition(".")[0] or 0) > major:
        raise Refused(
            f"{source.name} was dumped from PostgreSQL {source.server}, and this server is {major}: a dump does not go"
            " back to an older one. Nothing was changed. Load it into a server of that version, or a newer one."
        )
    typed = file if file == "-" else files.typed(file)
    half = arriving(engine, source.stack_file, typed)
    home = half.home if half else None
    if there := found or home:
        _agree(engine, file, found, home, clean=clean, yes=yes)
    by = f"load {'--clean ' * bool(there)}{typed}"
    try:
        with (
            half.unpacked() if half else nullcontext(),
            _place(engine, by, afresh=bool(found), room=source.size, yes=yes, half=half) as place,
        ):
            notes = place.fill(ahead)
            if half:
                place.fill_beside(half)
    except Unfit as error:
        raise StackError(
            f"{source.name} was not loaded, and the database is as it was. The reason:\n{error.what}"
        ) from None
    for each in notes:
        say(each)
    if half and wait_for_convex(engine):
        half.tell()
    say(f"Loaded {source.name}{', the database and Convex' * bool(half)}.{place.back}")


def _agree(engine: Engine, file: str, found: int, home: Path | None, *, clean: bool, yes: bool) -> None:
    """Return when so many objects, and Convex's directory if there is one, may be replaced. Raises Refused."""
    objects = f"{counted(found, 'object')} (tables, views, sequences, large objects)"
    if found and not clean:
        empty = (
            "begin with an empty database: `invoke reset-data`, `invoke up`"
            if engine.data
            else ("name an empty database in DATABASE_URL")
        )
        raise Refused(
            f"The database is not empty: {objects}. Nothing was loaded. Add --clean to replace"
            f" {'them, and Convex with them,' if home else 'them'} in the same step, or {empty}."
        )
    if not clean:
        raise Refused(
            f"Convex has its data in {home}, and {file} brings its own; whether what is there is wanted, nobody here"
            " can tell. Nothing was loaded. Add --clean to replace it; `invoke undo` brings it back."
        )
    what = " and ".join([f"{objects} in the database"] * bool(found) + ["what Convex has"] * bool(home))
    confirm(f"Delete {what}, and load {file}?", yes=yes)


class Place:
    """Where files are brought into the database: in a transaction, on a server that is run elsewhere; else aside."""

    def __init__(self, engine: Engine, beside: Aside | None, *, empty: bool) -> None:
        self._engine, self._aside, self._empty = engine, beside, empty

    def fill(self, ahead: whole.Ahead) -> list[str]:
        """Bring a file in, and return what is to be said when it counts. Raises Unfit."""
        if self._aside:
            return whole.fill(self._aside, ahead)
        single.fill(self._engine, ahead.reader, ahead.source, ahead.how, empty=self._empty)
        return whole.settle(self._engine, ahead.own)

    def fill_beside(self, half: Arriving) -> None:
        """Bring in what of Convex goes with it and is in the server. Raises StackError."""
        if self._aside:
            half.fill_tables(self._aside.cluster)

    @property
    def name(self) -> str:
        """The database aside; empty where there is none."""
        return self._aside.name if self._aside else ""

    @property
    def back(self) -> str:
        """How it is undone, for the end of a message."""
        if not self._aside:
            return ""
        return f" {BACK}" if self._aside.kept else f" {HALF_BACK}" if self._aside.half_kept else ""


@contextmanager
def _place(
    engine: Engine,
    by: str,
    *,
    afresh: bool,
    room: int,
    yes: bool = False,
    half: Arriving | None = None,
    then: Callable[[Aside], object] | None = None,
) -> Iterator[Place]:
    """Give the place to bring files to; what is done there counts when this is left without an error."""
    if engine.name == "external":
        yield Place(engine, None, empty=afresh)
        return
    make = make_empty if afresh else None
    with aside.exchanged(engine, by, make=make, room=room, yes=yes, half=half, then=then) as beside:
        yield Place(engine, beside, empty=afresh)


def _contents(engine: Engine) -> tuple[int, int]:
    """Return the number of tables, views, sequences and large objects, and the server's major version."""
    result = look(*engine.client("psql", "-XAtqc", _COUNT))
    if result.returncode:
        raise StackError(f"The database does not answer:\n{told(engine, result.stderr)}")
    found, version = map(int, result.stdout.split("|"))
    return found, version // 10000
