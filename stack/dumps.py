"""What goes into a database from files, and out of it: seed, dump, load."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import IO

from stack import aside, feed, files, formats, single, whole
from stack.engine import Engine
from stack.feed import Unfit
from stack.process import Refused, StackError, environment, look, not_started
from stack.refusals import known, told
from stack.service import Command
from stack.snapshots import BACK
from stack.sources import CHUNK, opened, seeds
from stack.talk import confirm, counted, human, progress, say
from stack.whole import How


def seed(engine: Engine, *, yes: bool = False) -> list[Path]:
    """Apply the files of seed/ in name order, all of them or none, and return them.

    Nobody may enter the database meanwhile: it is a copy of it that they are applied to, and what is written to the
    other would be lost. Raises StackError with psql's words at the first file that fails; nothing is kept then.
    """
    there, others = seeds(engine.root / "seed")
    if others:
        say(f"Passed over in seed/, whose files end in .sql, .sql.gz, .zst, .xz, .bz2 or .zip: {', '.join(others)}.")
    if not there:
        say("There is nothing in seed/ to apply. Put files of SQL there, such as seed/010_schema.sql.")
        return []
    notes: list[str] = []
    with _place(engine, "seed", afresh=False, room=sum(file.stat().st_size for file in there), yes=yes) as place:
        for file in there:
            say(f"seed/{file.name}")
            with opened(str(file)) as source:
                source.name = f"seed/{file.name}"
                try:
                    notes += place.fill(whole.Ahead(engine, source, How(beside=file.parent)))
                except Unfit as error:
                    raise StackError(_not_seeded(engine, file, error.what)) from None
    for each in notes:
        say(each)
    say(f"Applied {counted(len(there), 'file')} of seed/.{place.back}")
    return there


def _not_seeded(engine: Engine, file: Path, why: str) -> str:
    kept = "nothing of seed/ was kept: the database is as it was"
    if engine.name == "external":
        kept = "nothing of it was kept; the files before it were applied"
    return f"seed/{file.name} failed, and {kept}. The reason:\n{why}\nMend the file, then type `invoke seed`."


def dump(engine: Engine, file: str) -> None:
    """Write the database to `file`, as SQL or as an archive by the ending of its name, with the server's own pg_dump.

    `-` is stdout, which gets an archive; nothing stands for a dated one in backups/. The file appears when it is
    complete and on the disk. Raises StackError when pg_dump fails, and Refused for a terminal, a directory, a place
    among the stack's data, and an ending that would not be true.
    """
    folder = engine.root / "backups"
    _refuse_among_data(engine.root, file)
    written = formats.format_of(file)
    with feed.session(engine) as name:
        command = engine.client("pg_dump", *written.options, name=name)
        before = written.pack(formats.preamble(_bare(engine, name))) if written.pack else b""
        where = {"-": "stdout", "": str(folder)}.get(file, file)

        def fill(output: IO[bytes]) -> None:
            output.write(before)
            output.flush()
            _dump_into(engine, output, command, where)

        try:
            if file and not files.write("/dev/stdout" if file == "-" else file, fill):
                if file != "-":
                    say(f"Wrote the database to {file}.")
                return
            made = Path(file) if file else files.add(folder, _dated(), fill)
        except IsADirectoryError:
            inside = files.typed(Path(file, "my.dump"))
            raise Refused(
                f"{file} is a directory, and a dump is a file. Nothing was done. Name one: `invoke dump {inside}`."
            ) from None
        except OSError as error:
            raise StackError(
                f"{where} cannot be written: {error.strerror}. Choose another place: invoke dump FILE"
            ) from None
    say(f"Wrote {made} ({human(made.stat().st_size)}). `invoke load {files.typed(made)}` brings it back.")


def _bare(engine: Engine, name: str) -> bytes:
    """Return an archive of the database without anything in it. Raises StackError when pg_dump fails."""
    argv, env = engine.client(*formats.BARE, name=name)
    done = subprocess.run(argv, check=False, env=environment(env), stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise StackError(f"Nothing was written: pg_dump failed. It said:\n{known(engine, why)}")
    return done.stdout


def _refuse_among_data(root: Path, file: str) -> None:
    data, target = Path(os.path.realpath(root / "data")), Path(os.path.realpath(file))
    if file and data in target.parents and (target.parent != data or target.name.startswith(".")):
        raise Refused(
            f"{file} is among the files that the stack keeps in {data}, which servers read and `invoke reset-data`"
            " deletes. Nothing was done. Choose another place: invoke dump FILE"
        )


def _dated() -> Iterator[str]:
    now = f"{datetime.now():%Y-%m-%d_%H%M%S}"
    yield f"{now}.dump"
    yield from (f"{now}-{n}.dump" for n in itertools.count(2))


def _dump_into(engine: Engine, output: IO[bytes], command: Command, where: str) -> None:
    """Run pg_dump into a file or whatever was opened. Raises StackError with what it said when it fails."""
    if output.isatty():
        raise Refused("A dump is binary and that is a terminal. Name a file, or redirect: invoke dump - > my.dump")
    said = b""
    ours = output.readable()  # a file of which nobody else knows yet, unlike a pipe or what the shell has opened
    with progress("Dumping") if ours else nullcontext(lambda _: None) as show:
        try:
            child = subprocess.Popen(
                command.argv, env=environment(command.env), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            raise not_started(command.argv[0], error) from None
        words: IO[bytes] = child.stderr  # type: ignore[assignment]
        try:
            while True:  # its stderr ends when it does
                if select.select([words], [], [], 0.2)[0]:
                    if not (piece := os.read(words.fileno(), CHUNK)):
                        break
                    said += piece
                show(os.fstat(output.fileno()).st_size)
        except BaseException:
            child.kill()
            raise
        finally:
            child.wait()
            words.close()
    if child.returncode == -signal.SIGPIPE:
        raise StackError("Nobody reads on, and what was read is no whole dump.")
    if child.returncode:
        ended = f"exit code {child.returncode}" if child.returncode > 0 else signal.strsignal(-child.returncode)
        why = said.decode(errors="replace").strip() or f"{ended}"
        why = why.replace("/dev/stdout", where)  # as Docker's client calls what it was given
        kept = "Nothing was written" if ours else "What was written is no whole dump"
        raise StackError(f"{kept}: pg_dump failed. It said:\n{known(engine, why)}")


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

    What it is, is told by its first bytes. Of a script with several databases, `database` is wanted; without `trust`
    one that would run or write things on this machine is refused. A database that is not empty is refused; `clean`
    replaces it, after asking. Raises StackError when it fails; the database is then as it was.
    """
    if not file:
        raise Refused("Which file? Type `invoke load FILE`, with a dump or a file of SQL, or - for stdin.")
    with opened(file, encoding) as source:
        if not source.head:
            raise Refused(f"{source.name} is empty: it is no dump and no SQL. Nothing was done.")
        ahead = whole.Ahead(engine, source, How(database, trust, None if file == "-" else Path(file).parent))
        found, major = _contents(engine)
        if int(source.server.partition(".")[0] or 0) > major:
            raise Refused(
                f"{source.name} was dumped from PostgreSQL {source.server}, and this server is {major}: a dump does not"
                " go back to an older one. Nothing was changed. Load it into a server of that version, or a newer one."
            )
        if found and not clean:
            raise Refused(
                f"The database is not empty: {counted(found, 'object')} (tables, views, sequences, large objects)."
                " Nothing was loaded. Add --clean to replace them in the same step, or begin with an empty database:"
                " `invoke reset-data`, `invoke up`."
            )
        if found:
            what = f"{counted(found, 'object')} (tables, views, sequences, large objects)"
            confirm(f"Delete {what} in the database, and load {file}?", yes=yes)
        by = f"load {'--clean ' * bool(found)}{files.typed(file)}"
        try:
            with _place(engine, by, afresh=bool(found), room=source.size, yes=yes) as place:
                notes = place.fill(ahead)
        except Unfit as error:
            raise StackError(
                f"{source.name} was not loaded, and the database is as it was. The reason:\n{error.what}"
            ) from None
    for each in notes:
        say(each)
    say(f"Loaded {source.name}.{place.back}")


class Place:
    """Where files are brought into the database: in a transaction, on a server that is run elsewhere; else aside."""

    def __init__(self, engine: Engine, beside: aside.Aside | None, *, empty: bool) -> None:
        self._engine, self._aside, self._empty = engine, beside, empty

    def fill(self, ahead: whole.Ahead) -> list[str]:
        """Bring a file in, and return what is to be said when it counts. Raises Unfit."""
        if self._aside:
            return whole.fill(self._aside, ahead)
        single.fill(self._engine, ahead.reader, ahead.source, ahead.how, empty=self._empty)
        return whole.settle(self._engine, ahead.own)

    @property
    def back(self) -> str:
        """How it is undone, for the end of a message."""
        return f" {BACK}" if self._aside and self._aside.kept else ""


@contextmanager
def _place(engine: Engine, by: str, *, afresh: bool, room: int, yes: bool = False) -> Iterator[Place]:
    """Give the place to bring files to; what is done there counts when this is left without an error."""
    if engine.name == "external":
        yield Place(engine, None, empty=afresh)
        return
    with aside.exchanged(engine, by, afresh=afresh, room=room, yes=yes) as beside:
        yield Place(engine, beside, empty=afresh)


_COUNT = """
SELECT count(*) + (SELECT count(*) FROM pg_largeobject_metadata), current_setting('server_version_num')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
"""


def _contents(engine: Engine) -> tuple[int, int]:
    """Return the number of tables, views, sequences and large objects, and the server's major version."""
    result = look(*engine.client("psql", "-XAtqc", _COUNT))
    if result.returncode:
        raise StackError(f"The database does not answer:\n{told(engine, result.stderr)}")
    found, version = map(int, result.stdout.split("|"))
    return found, version // 10000
