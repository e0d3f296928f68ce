"""What goes out of both stores into one file, at one moment: dump --all."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from stack.engines.base import Engine, need
from stack.ground import files
from stack.ground.errors import Refused, StackError
from stack.ground.lock import exclusive
from stack.ground.run import Command
from stack.ground.talk import human, progress, say
from stack.server.session import LoginFailed
from stack.sql import archives, formats, stackfile
from stack.verbs import convex_tables, exchange, feed, forks, halves, spares
from stack.verbs import dump as database

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

ALONE = "The file has the database alone: there is no Convex here."


class Moment(NamedTuple):
    """What both stores were, for as long as the sessions last."""

    database: Held
    tables: Held | None
    """Convex's, where they are in the server."""
    copied: halves.Copied


class Held(NamedTuple):
    """What a database was, for as long as the session lasts."""

    session: Connection[Any]
    snapshot: str
    """By which pg_dump knows it."""


def hold(session: Connection[Any]) -> Held:
    """Let a session hold what its database is now."""
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    ((snapshot,),) = session.execute("SELECT pg_export_snapshot()").fetchall()
    return Held(session, snapshot)


def dump(engine: Engine, file: str, *, everything: bool, of: str = "") -> None:
    """Write both stores to `file` with `everything`, or for the ending .stack; else the database, as `dump.dump` does.

    `of` names a fork in the place of the user's database. Raises as that does.
    """
    fork, stores = forks.beside(engine, of), formats.is_stack_file(file, everything=everything)
    if fork and stores:
        raise Refused(
            "A fork has no Convex beside it, and such a file holds both. Nothing was done. Leave out --all, and give"
            f" the file another ending: `invoke dump my.dump --database={shlex.quote(fork)}`."
        )
    forks.check(engine, fork)
    if not stores:
        database.dump(engine, file, fork)
        return
    database.refuse_among_data(engine.root, file)
    with feed.session(engine) as name:
        options = database.options(engine, formats.ARCHIVE)
        both = Both(engine, lambda *more, **into: engine.client("pg_dump", *options, *more, name=name, into=into))
        made = database.written(engine, file, both.fill, ".stack")
    if made:
        say(
            f"Wrote {made} ({human(made.stat().st_size)}): the database{both.told}. `invoke load {files.typed(made)}`"
            f" brings {both.parts} back."
        )
    else:
        say(f"Wrote to {'stdout' if file == '-' else file}: the database{both.told}.")


class Both:
    """A file with both stores, about to be written."""

    def __init__(self, engine: Engine, command: Callable[..., Command]) -> None:
        self._engine, self._command = engine, command
        self.told = ""
        """What is in it, for the end of a message."""
        self.parts = "it"

    def fill(self, output: IO[bytes]) -> None:
        """Write it. A file of which nobody else knows yet is written in place; all else when it is whole."""
        if output.isatty():
            raise Refused(
                "A dump is binary and that is a terminal. Name a file, or redirect: invoke dump --all - > my.stack"
            )
        if output.readable():
            self._write(output)
            return
        with tempfile.TemporaryFile() as spool:
            try:
                self._write(spool)
                spool.seek(0)
            except OSError as error:
                raise StackError(
                    f"The file cannot be kept in {tempfile.gettempdir()} until it is whole: {error.strerror}. Nothing"
                    " was written. Make room there, or set TMPDIR to a directory that has it."
                ) from None
            shutil.copyfileobj(spool, output, 1 << 20)

    def _write(self, output: IO[bytes]) -> None:
        with ExitStack() as stack:
            moment = self._moment(stack)
            writer = stackfile.Writer(output)
            head = archives.header(self._archive(writer, stackfile.DATABASE, moment and moment.database).head)
            facts: dict[str, Any] = {
                "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "database": head.database,
                "postgres": head.server,
            }
            if moment:
                moment.database.session.close()
                if moment.tables:
                    own = convex_tables.home(self._engine)
                    self._archive(writer, stackfile.TABLES, moment.tables, dbname=own)
                    moment.tables.session.close()
                facts["convex"] = self._convex(writer, moment.copied)
            writer.finish(facts)

    def _archive(self, writer: stackfile.Writer, name: str, held: Held | None, **into: str) -> stackfile.Part:
        """Write a part that is an archive, of what a database was if that is held; return what was written."""
        with writer.part(name) as part, progress("Dumping") as show:

            def take(chunk: bytes) -> None:
                part.write(chunk)
                show(part.size)

            options = [f"--snapshot={held.snapshot}"] if held else []
            feed.pumped(self._engine, self._command(*options, **into), take)
        return part

    def _convex(self, writer: stackfile.Writer, copied: halves.Copied) -> dict[str, Any]:
        """Write Convex's part, and return what the manifest tells of it."""
        convex = need(self._engine.convex, self._engine)
        assert copied.half
        with convex.packed(copied.half) as packed:
            writer.convex(packed, str(self._engine.root / "data" / "convex"))
        self.told, self.parts = f" and Convex ({human(copied.size)}){copied.stood}", "both"
        told = stackfile.Convex(copied.image, copied.built, convex.instance(), copied.size)
        return told._asdict()

    def _moment(self, stack: ExitStack) -> Moment | None:
        """Copy Convex's directory aside, and hold the state that the database has at that moment; None without Convex.

        Convex stands still no longer than its copy takes; pg_dump then reads the state that is held, and ends no
        session.
        """
        engine = self._engine
        if not engine.convex:
            say(ALONE)
            return None
        with (
            exclusive(engine.root),  # nobody else is to freeze, stop or exchange it meanwhile
            exchange.at_work(engine) as cluster,
            halves.copier(engine, wanted=True, what="the file") as copied,
        ):
            if not copied.half:
                if not engine.convex.elsewhere():
                    say(ALONE)
                return None
            stack.callback(self._clear, copied.half)
            own = convex_tables.home(engine)
            try:
                sessions = [stack.enter_context(cluster.within(each)) for each in (cluster.database, own) if each]
            except LoginFailed as error:
                raise StackError(f"The database does not let us in:\n{error}") from None
            with halves.standing_still(engine, copied):
                held = list(map(hold, sessions))
            if own:
                copied.size += cluster.size(own)
            return Moment(held[0], held[1] if own else None, copied)

    def _clear(self, half: Path) -> None:
        halves.give_up(half)
        spares.in_background(self._engine)  # it deletes that
