"""A copy of a directory that is not the user's to read, made as root of a throw-away container."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen

from stack.engines.docker.mountable import bind
from stack.ground.errors import StackError
from stack.ground.run import PIPE, start

# It waits until it is told to begin: its own start takes longer than most copies.
_COPY = """echo ready; read -r _ || exit
if cp --help 2>&1 | grep -q reflink; then set -- "$1" "$2" --reflink=auto; fi
cp -a $3 "/data/$1" "/data/$2" || exit; echo copied
find "/data/$2" -exec sync {} + 2>/dev/null || sync
du -sk "/data/$2" """


@contextmanager
def copying(source: Path, target: Path, image: str) -> Iterator[Copy]:
    """Give what copies `source` to `target` beside it. A copy that is not finished stays, for others to clear away."""
    name = source.parent
    argv = ["docker", "run", "--rm", "--interactive", "--pull", "never", "--network", "none", "--user", "0"]
    argv += ["--mount", bind(name), "--entrypoint", "sh", image, "-c", _COPY, "sh", source.name, target.name]
    with start(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE) as program:
        copy = Copy(program, source)
        try:
            copy.wait_for("ready")
            yield copy
        finally:
            copy.rest()  # without a word it ends


class Copy:
    """A container that is ready to copy."""

    def __init__(self, program: Popen[bytes], source: Path) -> None:
        assert program.stdin
        assert program.stdout
        assert program.stderr
        self._program = program
        self._in, self._out, self._err = program.stdin, program.stdout, program.stderr
        self._source = source

    def wait_for(self, word: str) -> None:
        """Wait until it says a word. Raises StackError with its own words when it ends before that."""
        if self._out.readline().decode().strip() != word:
            raise StackError(f"{self._source} could not be copied: {self.rest()[1]}.")

    def go(self) -> None:
        """Make the copy; return when every byte has been read. Raises StackError."""
        with suppress(BrokenPipeError):  # what it says tells more
            self._in.write(b"go\n")
            self._in.flush()
        self.wait_for("copied")

    def finish(self) -> int:
        """Wait until it is on the disk, and return the bytes in it. Raises StackError."""
        told, why = self.rest()
        if self._program.returncode or not told:
            raise StackError(f"The copy of {self._source} could not be written: {why}.")
        return int(told.split()[0]) * 1024

    def rest(self) -> tuple[str, str]:
        """Wait until it has ended, and return what else it has said on stdout and on stderr."""
        if not self._in.closed:
            with suppress(BrokenPipeError):
                self._in.close()
        told, why = ("" if each.closed else each.read().decode(errors="replace") for each in (self._out, self._err))
        self._program.wait()
        return told, " ".join(why.split()).rstrip(".")
