"""A directory that is not the user's to read, read and written as a tar by root of a throw-away container."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import IO

from stack.engines.docker.mountable import THROWAWAY, bind
from stack.ground.errors import StackError
from stack.ground.run import NOWHERE, PIPE, start

_PACK = "exec tar -C /data -cf - ."
_UNPACK = "tar -C /data -xf - && { find /data -exec sync {} + 2>/dev/null || sync; }"


@contextmanager
def packed(directory: Path, image: str) -> Iterator[IO[bytes]]:
    """Give a directory as a tar, made by an image's programs. Raises StackError with their words."""
    with _started(directory, image, _PACK, write=False) as (program, said):
        assert program.stdout
        yield program.stdout
        while program.stdout.read(1 << 16):  # what a tar has behind its end
            pass
        _judge(program, said, f"{directory} could not be read")


@contextmanager
def unpacking(directory: Path, image: str) -> Iterator[IO[bytes]]:
    """Give what a tar is written to that is unpacked into a directory, and on the disk when this is left.

    Raises StackError with the programs' words.
    """
    with _started(directory, image, _UNPACK, write=True) as (program, said):
        assert program.stdin
        with suppress(BrokenPipeError):  # what it says tells more
            yield program.stdin
            program.stdin.close()
        _judge(program, said, f"{directory} could not be written")


@contextmanager
def _started(directory: Path, image: str, script: str, *, write: bool) -> Iterator[tuple[Popen[bytes], IO[bytes]]]:
    argv = ["docker", "run", *THROWAWAY]
    argv += ["--interactive"] if write else ["--log-driver", "none"]  # Docker would write all of it down once more
    argv += ["--mount", bind(directory) + ",readonly" * (not write), "--entrypoint", "sh", image, "-c", script]
    with tempfile.TemporaryFile() as said:
        program = start(argv, stdin=PIPE if write else NOWHERE, stdout=said if write else PIPE, stderr=said)
        with program:
            try:
                yield program, said
            except BaseException:
                program.kill()
                with suppress(BrokenPipeError):
                    if program.stdin:
                        program.stdin.close()
                raise


def _judge(program: Popen[bytes], said: IO[bytes], what: str) -> None:
    if program.wait():
        said.seek(0)
        why = " ".join(said.read().decode(errors="replace").split()).rstrip(".")
        raise StackError(f"{what}: {why or f'exit code {program.returncode}'}. Nothing was done.")
