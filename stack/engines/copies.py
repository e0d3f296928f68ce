"""A whole cluster copied for another checkout: what each engine can do, and the programs that both do it with."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from subprocess import Popen
from typing import Protocol

from stack.engines.backend import Copying
from stack.ground.errors import Refused, StackError
from stack.ground.run import Rights, look
from stack.server.address import Endpoint

# It waits until it is told to begin, and ends when whoever has started it does. What belongs to one server alone does
# not stay: its lock files and log, and its replication slots, for which it would keep its log for ever. What is large
# is put on the disk while the rest is still read, which takes a quarter off the whole; in the end all at once, then
# file by file for those file systems that know no more.
FILL = r"""to=$1 owner=$2; shift 2
echo ready; read -r _ || exit
exec 3<&0
"$@" >&2 3<&- & job=$!
{ read -r _ <&3; kill $job; } >/dev/null 2>&1 & guard=$!
while kill -0 $job; do find "$to" -type f -size +1024k -exec sync -d {} +; sleep 0.05; done >/dev/null 2>&1 3<&- &
early=$!
wait $job; status=$?
kill $guard $early 2>/dev/null
[ $status = 0 ] || exit $status
echo copied
find "$to/pg_replslot" -mindepth 1 -delete
find "$to" -maxdepth 1 \( -name postmaster.pid -o -name '.s.PGSQL.*' -o -name 'server.log*' \) -delete
[ -z "$owner" ] || chown -R "$owner" "$to"
touch "$to"
sync -f "$to" 2>/dev/null
find "$to" -exec sync {} + 2>/dev/null || sync
du -sk "$to" """
# A server changes pg_control as soon as it begins: a copy of what changed meanwhile would be none.
COPY = r"""from=$1 to=$2 reflink=
if find "$from/pg_tblspc" -type l | grep -q .; then echo "it has a tablespace outside of its directory" >&2; exit 1; fi
if cp --help 2>&1 | grep -q reflink; then reflink=--reflink=auto; fi
before=$(cksum <"$from/global/pg_control") || exit
cp -a $reflink "$from/." "$to/" & trap "kill $!" TERM
wait $! || exit
[ "$before" = "$(cksum <"$from/global/pg_control")" ] || { echo "a server has begun to work on it" >&2; exit 1; }"""


MEND = "Mend that, then type the command again. Or first `invoke down` in {}: what is stopped is copied as files."
"""What to do about a copy of a server that runs, in a checkout."""
LOOK = "Look at it with `invoke doctor` in {}, then type the command again."
"""The same of files that nobody is at work on."""


class Copies(Protocol):
    """The cluster of one checkout, as another one needs it."""

    def backup(self, target: Path) -> AbstractContextManager[Copying]:
        """Begin to make ready to copy the cluster, whose server runs and goes on, to a directory that is empty."""

    def copy(self, target: Path, kept: Path | None = None) -> AbstractContextManager[Copying]:
        """Do the same while no server is at work on it. Raises StackError when one is.

        `kept`: a cluster beside it, that no server is ever started on.
        """

    def alone(self, cluster: Path, sql: str, database: str = "template1") -> list[str]:
        """Run SQL in a cluster that nobody serves, and return the first column. Raises StackError when it fails.

        Two line ends end each statement.
        """

    def made_of(self) -> str:
        """Return what a start makes a new cluster of; empty when nobody can tell, or not by its settings alone."""

    def major(self) -> int:
        """Return the major version of the server that would be started; 0 when nobody can tell."""


class Copy:
    """A program that is ready to copy: it says so, begins when it is told, and says when all is read and written."""

    def __init__(self, program: Popen[bytes], source: Path, cure: str) -> None:
        assert program.stdin
        assert program.stdout
        assert program.stderr
        self._program = program
        self._in, self._out, self._err = program.stdin, program.stdout, program.stderr
        self.source = source
        self._cure = cure
        self.done = False

    def ready(self) -> None:
        """Wait until it can begin. Raises StackError."""
        self._wait_for("ready")

    def _wait_for(self, word: str) -> None:
        """Wait until it says a word. Raises StackError with its own words when it ends before that."""
        if self._out.readline().decode().strip() != word:
            why = self.rest()[1]
            raise StackError(f"{self.source} could not be copied: {why}. Nothing was done.", cure=self._cure)

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
            why = self.rest()[1]
            raise StackError(
                f"The copy of {self.source} could not be written: {why}. Nothing was done.", cure=self._cure
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


def backing_up(server: Endpoint, target: str) -> list[str]:
    """Return the command line that copies a cluster out of its server; what is written is put on the disk by FILL."""
    where = ["-h", server.host, "-p", str(server.port), "-U", server.user, "-D", target]
    return ["pg_basebackup", *where, "-X", "stream", "-c", "fast", "--no-sync", "--no-manifest", "-w"]


def single(directory: str, database: str, *, linux: bool) -> list[str]:
    """Return the command line of a server without sessions, which reads SQL from stdin.

    Where it can, it sees in one call to it that all is on the disk: that has been done file by file.
    """
    options = ["-c", "recovery_init_sync_method=syncfs"] if linux else []
    return ["postgres", "--single", "-j", *options, "-D", directory, database]


def alone(
    cluster: Path, argv: Sequence[str], sql: str, env: Mapping[str, str] | None = None, rights: Rights | None = None
) -> list[str]:
    """Let such a server run SQL, and return the values that it prints. Raises StackError when it has failed."""
    with tempfile.TemporaryFile() as file:
        file.write(sql.encode())
        file.seek(0)
        told = look(argv, env, timeout=3600, stdin=file, rights=rights)
    errors = re.findall(r"^.*(?:FATAL|ERROR|PANIC):.*$", told.stderr, re.MULTILINE)
    if told.returncode or errors:
        words = "\n".join(errors) or told.stderr.strip()
        raise StackError(f"The copy in {cluster} cannot be used, so it is given up. PostgreSQL said:\n{words}\n")
    return re.findall(r'^\s*1: [^"]*"(.*)"\t\(typeid', told.stdout, re.MULTILINE)


def in_use(cluster: Path, who: str, root: Path) -> Refused:
    """Return what to say of a cluster that somebody is at work on, and that was to be copied as files."""
    return Refused(
        f"{cluster} is in use by {who}, and what a server changes cannot be copied as files. Nothing was done.",
        cure=f"Type `invoke down` in {root}, then the command again: what is stopped is copied as files.",
    )


def script(target: str, owner: str, argv: Sequence[str]) -> list[str]:
    """Return the words after `sh` that have a program fill a directory, for its owner."""
    return ["-c", FILL, "sh", target, owner, *argv]
