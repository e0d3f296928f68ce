"""What goes out of both stores into one file, at one moment: dump --all."""

from __future__ import annotations

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
from stack.verbs import dump as database
from stack.verbs import exchange, feed, halves, spares

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

ALONE = "The file has the database alone: there is no Convex here."


class Moment(NamedTuple):
    """What both stores were, for as long as the session lasts."""

    session: Connection[Any]
    snapshot: str
    """By which pg_dump knows the state of the database."""
    copied: halves.Copied


def dump(engine: Engine, file: str, *, everything: bool) -> None:
    """Write both stores to `file` with `everything`, or for the ending .stack; else the database, as `dump.dump` does.

    Raises as that does.
    """
    if not formats.is_stack_file(file, everything=everything):
        database.dump(engine, file)
        return
    database.refuse_among_data(engine.root, file)
    with feed.session(engine) as name:
        options = database.options(engine, formats.ARCHIVE)
        both = Both(engine, lambda *more: engine.client("pg_dump", *options, *more, name=name))
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
            with writer.part(stackfile.DATABASE) as part, progress("Dumping") as show:

                def take(chunk: bytes) -> None:
                    part.write(chunk)
                    show(part.size)

                feed.pumped(self._engine, self._command(*[f"--snapshot={moment.snapshot}"] if moment else []), take)
            head = archives.header(part.head)
            facts: dict[str, Any] = {
                "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "database": head.database,
                "postgres": head.server,
            }
            if moment:
                moment.session.close()
                facts["convex"] = self._convex(writer, moment.copied)
            writer.finish(facts)

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
            try:
                session = stack.enter_context(cluster.within(cluster.database))
            except LoginFailed as error:
                raise StackError(f"The database does not let us in:\n{error}") from None
            with halves.standing_still(engine, copied):
                session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                ((snapshot,),) = session.execute("SELECT pg_export_snapshot()").fetchall()
            return Moment(session, snapshot, copied)

    def _clear(self, half: Path) -> None:
        halves.give_up(half)
        spares.in_background(self._engine)  # it deletes that
