"""The ways a program is started: look (captured), do (shown), become (this process turns into it), relay, start.

Children inherit the terminal itself instead of a copy of it, so Ctrl-C, resizing and the split between
stdout and stderr are theirs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, TypedDict

from stack.ground.errors import StackError, forget_stdout, not_started, stdout_failed


class Command(NamedTuple):
    """A program to start, and what to change in its environment (an empty value: take it out).

    Passwords are never in `argv`.
    """

    argv: list[str]
    env: dict[str, str]


class Rights(TypedDict, total=False):
    """As whom a program is started; empty: as this user. Only root can choose."""

    user: int
    group: int
    extra_groups: list[int]


def look(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    timeout: float = 60,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    rights: Rights | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program and capture what it says; its exit code is the caller's to judge.

    Raises StackError when the program is not installed, or says nothing for `timeout` seconds; OSError when this
    machine does not let it be started with these rights.
    """
    try:
        return subprocess.run(
            argv,
            check=False,
            env=environment(env),
            stdin=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            **(rights or {}),
        )
    except OSError as error:
        if rights:
            raise
        raise not_started(argv[0], error) from None
    except subprocess.TimeoutExpired:
        raise StackError(
            f"`{' '.join(argv[:3])}` gave no answer for {timeout:g} s. The program that it talks to is"
            " overloaded or stuck. Look at it, then type the command again."
        ) from None


def look_raw(argv: Sequence[str], *, timeout: float = 60) -> bytes:
    """Run a program and return the bytes that it prints; nothing when it fails, or is not there."""
    try:
        return subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout).stdout
    except (OSError, subprocess.SubprocessError):
        return b""


def do(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = None,
    inside: Path | None = None,
) -> int:
    """Run a program in front of the user and return its exit code; with stdin None it reads what the user types.

    It works in the directory `inside`. On Ctrl-C the program, which got the same signal, is given the time it needs to
    end by itself.
    """
    child = start(argv, env, stdin=stdin, stdout=stdout, inside=inside)
    try:
        return child.wait()
    except BaseException:
        child.wait()
        raise


def start(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    stdin: IO[bytes] | int | None = subprocess.DEVNULL,
    stdout: IO[bytes] | IO[str] | int | None = None,
    stderr: IO[bytes] | IO[str] | int | None = None,
    rights: Rights | None = None,
    inside: Path | None = None,
    outlives: Path | None = None,
    inherits: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program that works beside this one, and return it; the caller sees to its end.

    One that outlives this process and its terminal is given the directory that it works in: neither Ctrl-C nor the end
    of the terminal reaches it, and it says nothing here. One that `inherits` has our open files, as `<(…)` is one.
    Raises StackError when it cannot be started, OSError when it is this machine that does not give it these rights.
    """
    if outlives:
        stdout = stderr = subprocess.DEVNULL
    try:
        return subprocess.Popen(
            argv, env=environment(env), stdin=stdin, stdout=stdout, stderr=stderr, cwd=outlives or inside,
            start_new_session=bool(outlives), close_fds=not inherits, **(rights or {}),
        )  # fmt: skip
    except OSError as error:
        if rights:
            raise
        raise not_started(argv[0], error) from None


PIPE, NOWHERE = subprocess.PIPE, subprocess.DEVNULL


def become(argv: Sequence[str], env: Mapping[str, str] | None = None) -> NoReturn:
    """Turn into another program: its streams, its signals, its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(argv[0], list(argv), environment(env))
    except OSError as error:
        raise not_started(argv[0], error) from None


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with changes; an empty value takes a variable out."""
    changes = changes or {}
    kept = {name: value for name, value in os.environ.items() if name not in changes}
    return {**kept, **{name: value for name, value in changes.items() if value}}


def relay(argv: Sequence[str]) -> int:
    """Run a program whose output goes to a file or a pipe, and return its exit code.

    What only a terminal understands is left out: Compose 2.26 begins each line of a log by erasing the line.
    """
    with start(argv, stdout=PIPE) as child:
        assert child.stdout
        for line in child.stdout:
            try:
                sys.stdout.buffer.write(line.replace(b"\x1b[2K", b""))
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                child.terminate()
                forget_stdout()
            except OSError as error:
                child.terminate()
                raise stdout_failed(error) from None
    return child.returncode
