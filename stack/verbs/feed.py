"""Client programs that are fed from files through pipes, with what they say kept."""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Protocol

from stack.engines.base import Engine
from stack.ground.errors import StackError
from stack.ground.run import NOWHERE, PIPE, Command, start
from stack.ground.threads import begin
from stack.server import waits
from stack.server.session import LoginFailed, connect
from stack.sql.sources import CHUNK, HEAD, Source
from stack.verbs.causes import known
from stack.verbs.psql import interruptible

if TYPE_CHECKING:
    from psycopg import Connection
    from typing_extensions import Self

SHOWN = 2000
"""Bytes of what a client said that a message shows."""
TAIL = 1 << 16
"""Bytes at the end of a file, and of what a client printed, that are kept."""
_HEADER = re.compile(rb"^-- PostgreSQL database (?:cluster )?dump\r?$", re.MULTILINE)


class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, empty at the end."""


@contextmanager
def session(engine: Engine) -> Iterator[str]:
    """Give a name for a session that ends when this process is interrupted, and tell on whom it waits."""
    with interruptible(engine) as name, waits.watched(lambda: _beside(engine), program=name):
        yield name


def _beside(engine: Engine) -> Connection[Any]:
    """Log in once more. Raises LoginFailed."""
    try:
        endpoint = engine.inside.running().endpoint if engine.inside else engine.endpoint()
    except StackError as error:
        raise LoginFailed(error.what) from None
    if not endpoint:
        raise LoginFailed("There is no database.")
    return connect(endpoint)


class Unfit(StackError):
    """Why a file could not be brought into a database, in the words of who tried."""


class Reader:
    """A file that tells how much of it was read, and whether it is a dump that ends where it should."""

    def __init__(self, source: Source, show: Callable[[int], object] = bool) -> None:
        self._source, self.show = source, show
        self.name, self.head, self.options = source.name, source.head, source.options
        self.tail = b""
        """The last bytes that were read."""
        self.ended = False
        """Whether all was read."""
        self._footer = False

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        self.show(self._source.done)
        chunk = self._source.read(size)
        self.ended = not chunk
        self._footer = self._footer or b" dump complete" in self.tail[-HEAD:] + chunk
        self.tail = (self.tail + chunk)[-TAIL:]
        return chunk

    @property
    def lacks_its_end(self) -> bool:
        """Whether it is a dump of pg_dump's as SQL, was read to its end, and that is not where pg_dump ended."""
        return self.ended and not self._footer and bool(_HEADER.search(self.head))


class Piped:
    """A client program that is fed through a pipe; what it says on stderr is kept, and the last that it prints."""

    def __init__(self, command: Command, output: int = NOWHERE) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving
        env = {**command.env, "LANGUAGE": "C"}
        try:
            self._child = start(command.argv, env, stdin=PIPE, stdout=output, stderr=self._said)
        except BaseException:
            self._said.close()
            raise
        self._input: IO[bytes] = self._child.stdin  # type: ignore[assignment]
        self.output: IO[bytes] = self._child.stdout  # type: ignore[assignment]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()  # it has ended, unless something else has gone wrong
        self._child.wait()
        self.close()
        if self.output:
            self.output.close()
        self._said.close()

    def feed(self, source: Readable) -> bool:
        """Give it all of `source`, as far as it takes it; return False when it has ended before, and says why."""
        while chunk := source.read(CHUNK):
            try:
                self._input.write(chunk)
                self._input.flush()
            except BrokenPipeError:
                return False
        return True

    def close(self) -> None:
        """Let it know that there is no more."""
        with suppress(BrokenPipeError):
            self._input.close()

    def give(self, text: bytes) -> None:
        """Give it some bytes, if it takes them."""
        with suppress(BrokenPipeError):
            self._input.write(text)
            self._input.flush()

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()

    def end(self) -> int:
        """Close its input, wait for it, and return its exit code."""
        self.close()
        return self._child.wait()

    def said(self) -> IO[bytes]:
        """Return what it has said, from the beginning."""
        self._said.seek(0)
        return self._said


def pumped(engine: Engine, command: Command, take: Callable[[bytes], object]) -> None:
    """Run pg_dump, and hand on what it writes, piece by piece. Raises StackError with its words when it fails."""
    with tempfile.TemporaryFile() as said, start(*command, stdout=PIPE, stderr=said) as child:
        assert child.stdout
        try:
            while chunk := child.stdout.read(CHUNK):
                take(chunk)
        except BaseException:
            child.kill()
            raise
        if child.wait():
            said.seek(0)
            why = said.read().decode(errors="replace").strip() or how_it_ended(child.returncode)
            raise StackError(f"Nothing was written: pg_dump failed. It said:\n{known(engine, why)}")


def printed(psql: Piped) -> Callable[[], bytes]:
    """Read what a program prints while it runs; what is returned waits for its end, and returns the last bytes."""
    tail: list[bytes] = [b""]

    def work() -> None:
        while chunk := psql.output.read1(CHUNK):  # type: ignore[attr-defined]
            tail[0] = (tail[0] + chunk)[-TAIL:]

    thread = begin(work)

    def answer() -> bytes:
        thread.join()
        return tail[0]

    return answer


class Tape:
    """A file of which the beginning is read more than once, by those who only want to know what is in it."""

    def __init__(self, source: Readable, enough: int = 0) -> None:
        self._source = source
        self._enough = enough
        """The bytes in which they find all that they want to know, where that is known."""
        self._kept: list[bytes] = []
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes, and keep them."""
        if self._at == len(self._kept):
            if self._enough and sum(map(len, self._kept)) >= self._enough:
                return b""
            self._kept.append(self._source.read(size))
        self._at += 1
        return self._kept[self._at - 1]

    def rewind(self) -> None:
        """Begin again."""
        self._at = 0

    def rest(self) -> Readable:
        """Return all of it from its beginning, of which nothing is kept."""
        return _Rest(self._kept, self._source)


class _Rest:
    def __init__(self, kept: list[bytes], source: Readable) -> None:
        self._kept, self._source = kept, source

    def read(self, size: int) -> bytes:
        return self._kept.pop(0) if self._kept else self._source.read(size)


def read_by(command: Command, source: Tape) -> bytes:
    """Return what a program prints that reads `source` as far as it has to. Raises Unfit with its words."""
    with Piped(command, PIPE) as child:
        failed: list[StackError] = []

        def work() -> None:
            try:
                child.feed(source)
            except StackError as error:
                failed.append(error)
                child.kill()  # at the end of half a tar it would wait for ever
            child.close()

        thread = begin(work)
        answer = child.output.read()
        thread.join()
        if failed:
            raise failed[0]
        if code := child.end():
            raise Unfit(words(child, code))
        return answer


def words(child: Piped, code: int) -> str:
    """Return what a program said that ended with an exit code, or else how it ended."""
    said = child.said().read(SHOWN).decode(errors="replace").strip()
    return said or how_it_ended(code)


def how_it_ended(code: int) -> str:
    """Return an exit code in words."""
    number = -code if code < 0 else code - 128
    name = signal.strsignal(number) if code < 0 or 128 < code < 192 else None
    return f"it was ended by a signal ({name})" if name else f"exit code {code}"
