"""A copy of a directory that is not the user's to read, made as root of a throw-away container."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stack.engines.copies import Copy
from stack.engines.docker.mountable import OURS, bind
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
cp -a $4 "$1" "/data/$2" && touch "/data/$2" || exit; echo copied
find "/data/$2" -exec sync {} + 2>/dev/null || sync
du -sk "/data/$2" """


_ALONE = (
    "Mend that, then type the command again; with `--only pg` a snapshot is of the database alone, as `invoke dump"
    " my.dump` is."
)


@contextmanager
def copying(source: Path, target: Path, image: str, beside: str) -> Iterator[Copy]:
    """Give what copies `source` to `target`, `beside` a container that is to stand still meanwhile.

    A copy that is not finished stays, for others to clear away.
    """
    options = ["--network", "none", *(["--pid", f"container:{beside}"] if beside else [])]
    words = ["-c", _COPY, "sh", str(seen(source, target)), target.name, beside]
    with in_container(source, target, [*options, image], words, _ALONE) as copy:
        yield copy


def seen(source: Path, target: Path) -> Path:
    """Return what such a container calls the source: beside the target, or mounted for itself."""
    return Path("/data" if source.parent == target.parent else "/from", source.name)


@contextmanager
def in_container(source: Path, target: Path, run: Sequence[str], shell: Sequence[str], cure: str) -> Iterator[Copy]:
    """Give a container whose shell copies; it sees the target's folder as /data, and the source as `seen` says.

    `run` holds options of Docker's, then the image; `shell` those of the shell.
    """
    argv = ["docker", "run", *OURS, "--interactive", "--mount", bind(target.parent)]
    if source.parent != target.parent:
        argv += ["--mount", f"{bind(source.parent, '/from')},readonly"]
    program = start([*argv, "--entrypoint", "sh", *run, *shell], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    copy = Copy(program, source, cure)
    try:
        yield copy
    finally:
        if copy.done:  # Docker takes a while to remove the container
            begin(program.wait)
        else:
            copy.rest()  # without a word it ends
