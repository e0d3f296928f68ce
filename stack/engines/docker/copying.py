"""A copy of a directory that is not the user's to read, made as root of a throw-away container."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen

from stack.engines.docker.mountable import THROWAWAY, bind
from stack.ground.errors import StackError
from stack.ground.run import PIPE, start
from stack.ground.threads import begin

# It waits until it is told to begin: its own start takes longer than most copies. In the process namespace of a
# container that is about to stand still it first sees to it that every thread of that does. Its copy gets the time of
# now, by which one that is not finished is known for that of a living command.
_COPY = r"""echo ready; read -r _ || exit
if cp --help 2>&1 | grep -q reflink; then set -- "$1" "$2" "$3" --reflink=auto; fi
n=0; while [ "$3" ] && grep -h ^State: /proc/1/task/*/status | grep -qv "T (stopped)"; do
    n=$((n + 1)); [ $n -lt 2000 ] || { echo "it does not stand still" >&2; exit 1; }; sleep 0.005
done
cp -a $4 "/data/$1" "/data/$2" && touch "/data/$2" || exit; echo copied
find "/data/$2" -exec sync {} + 2>/dev/null || sync
du -sk "/data/$2" """


_ALONE = "Mend that, then type the command again; with `--only pg` it is of the database alone."


@contextmanager
def copying(source: Path, target: Path, image: str, beside: str) -> Iterator[Copy]:
    """Give what copies `source` to `target` next to it, `beside` a container that is to stand still meanwhile.

    A copy that is not finished stays, for others to clear away.
    """
    argv = ["docker", "run", *THROWAWAY, "--interactive"]
    argv += ["--pid", f"container:{beside}"] if beside else []
    argv += ["--mount", bind(source.parent), "--entrypoint", "sh", image, "-c", _COPY, "sh"]
    program = start([*argv, source.name, target.name, beside], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    copy = Copy(program, source)
    try:
        yield copy
    finally:
        if copy.done:  # Docker takes a while to remove the container
            begin(program.wait)
        else:
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
        self.done = False

    def ready(self) -> None:
        """Wait until it can begin. Raises StackError."""
        self._wait_for("ready")

    def _wait_for(self, word: str) -> None:
        """Wait until it says a word. Raises StackError with its own words when it ends before that."""
        if self._out.readline().decode().strip() != word:
            raise StackError(f"{self._source} could not be copied: {self.rest()[1]}. Nothing was done.", cure=_ALONE)

    def go(self) -> None:
        """Make the copy; return when every byte has been read. Raises StackError."""
        with suppress(BrokenPipeError):  # what it says tells more
            self._in.write(b"go\n")
            self._in.flush()
        self._wait_for("copied")

    def finish(self) -> int:
        """Wait until it is on the disk, and return the bytes in it. Raises StackError."""
        told = self._out.readline()
        if not told:
            raise StackError(
                f"The copy of {self._source} could not be written: {self.rest()[1]}. Nothing was done.", cure=_ALONE
            )
        self.done = True
        return int(told.split()[0]) * 1024

    def rest(self) -> tuple[str, str]:
        """Wait until it has ended, and return what else it has said on stdout and on stderr."""
        if not self._in.closed:
            with suppress(BrokenPipeError):
                self._in.close()
        told, why = ("" if each.closed else each.read().decode(errors="replace") for each in (self._out, self._err))
        self._program.wait()
        return told, " ".join(why.split()).rstrip(".")
