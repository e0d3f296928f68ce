"""What goes out of a database into a file: dump."""

from __future__ import annotations

import itertools
import os
import select
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import IO

from stack.engines.base import Engine
from stack.ground import files
from stack.ground.errors import Refused, StackError
from stack.ground.run import PIPE, Command, look, start
from stack.ground.talk import human, progress, say
from stack.sql import formats
from stack.sql.sources import CHUNK
from stack.verbs import feed
from stack.verbs.causes import known


def dump(engine: Engine, file: str, fork: str = "") -> None:
    """Write the database, or a fork, to `file`, as SQL or as an archive by the ending of its name.

    That is done with the server's own pg_dump.
    `-` is stdout, which gets an archive; nothing stands for a dated one in backups/. The file appears when it is
    complete and on the disk. Raises StackError when pg_dump fails, and Refused for a terminal, a directory, a place
    among the stack's data, and an ending that would not be true.
    """
    refuse_among_data(engine.root, file)
    form = formats.format_of(file)
    into = {"dbname": fork} if fork else {}
    with feed.session(engine) as name:
        command = engine.client("pg_dump", *options(engine, form), name=name, into=into)
        bare = engine.client(*formats.BARE, name=name, into=into)
        before = form.pack(formats.preamble(_written_by(engine, bare))) if form.pack else b""

        def fill(output: IO[bytes]) -> None:
            output.write(before)
            output.flush()
            _dump_into(engine, output, command, _where(engine, file))

        made = written(engine, file, fill, ".dump")
    if made and fork:
        say(
            f"Wrote {made} ({human(made.stat().st_size)}), what the fork {fork} has. `invoke load {files.typed(made)}`"
            " brings it into the database of this stack, not into the fork."
        )
    elif made:
        say(f"Wrote {made} ({human(made.stat().st_size)}). `invoke load {files.typed(made)}` brings it back.")
    elif file != "-":
        say(f"Wrote {f'the fork {fork}' if fork else 'the database'} to {file}.")


def _where(engine: Engine, file: str) -> str:
    return {"-": "stdout", "": str(engine.root / "backups")}.get(file, file)


def written(engine: Engine, file: str, fill: files.Fill, ending: str) -> Path | None:
    """Write a file, or a dated one without a name, and return its path; None for what is no file. Raises StackError."""
    try:
        if file and not files.write("/dev/stdout" if file == "-" else file, fill):
            return None
        return Path(file) if file else files.add(engine.root / "backups", _dated(ending), fill)
    except IsADirectoryError:
        inside = files.typed(Path(file, f"my{ending}"))
        raise Refused(
            f"{file} is a directory, and a dump is a file. Nothing was done. Name one: `invoke dump {inside}`."
        ) from None
    except OSError as error:
        raise StackError(
            f"{_where(engine, file)} cannot be written: {error.strerror}. Choose another place: invoke dump FILE"
        ) from None


def options(engine: Engine, form: formats.Format) -> tuple[str, ...]:
    """Return pg_dump's options for a format; gzip for an archive where it was built without zstd, as on some Macs."""
    zstd = "--compress=zstd"
    if zstd not in form.options or not engine.sees_files:
        return form.options
    # It says so before it looks for a server.
    program = engine.client("pg_dump").argv[0]
    if "does not support compression" not in look([program, zstd, "--host=/nowhere", "--dbname=none"]).stderr:
        return form.options
    if form.pack:
        raise Refused(f"{program} was built without zstd. Nothing was done. Name the file with .sql.gz at its end.")
    say(f"{program} was built without zstd, so this archive is compressed with gzip.")
    return tuple("--compress=gzip" if each == zstd else each for each in form.options)


def _written_by(engine: Engine, command: Command) -> bytes:
    """Return what a pg_dump writes that is told to leave out all that is in the database. Raises StackError."""
    pieces: list[bytes] = []
    feed.pumped(engine, command, pieces.append)
    return b"".join(pieces)


def refuse_among_data(root: Path, file: str) -> None:
    """Raise Refused for a place among the stack's data."""
    data, target = Path(os.path.realpath(root / "data")), Path(os.path.realpath(file))
    if file and data in target.parents and (target.parent != data or target.name.startswith(".")):
        raise Refused(
            f"{file} is among the files that the stack keeps in {data}, which servers read and `invoke reset-data`"
            " deletes. Nothing was done. Choose another place: invoke dump FILE"
        )


def _dated(ending: str) -> Iterator[str]:
    now = f"{datetime.now():%Y-%m-%d_%H%M%S}"
    yield f"{now}{ending}"
    yield from (f"{now}-{n}{ending}" for n in itertools.count(2))


def _dump_into(engine: Engine, output: IO[bytes], command: Command, where: str) -> None:
    """Run pg_dump into a file or whatever was opened. Raises StackError with what it said when it fails."""
    if output.isatty():
        raise Refused("A dump is binary and that is a terminal. Name a file, or redirect: invoke dump - > my.dump")
    said = b""
    ours = output.readable()  # a file of which nobody else knows yet, unlike a pipe or what the shell has opened
    with progress("Dumping") if ours else nullcontext(lambda _: None) as show:
        child = start(*command, stdout=output, stderr=PIPE)
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
