"""The three ways a program is started: look (captured), do (shown), become (this process turns into it).

Children inherit the terminal itself instead of a copy of it, so Ctrl-C, resizing and the split between
stdout and stderr are theirs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, NoReturn, TypedDict, TypeVar

from invoke.exceptions import Exit

Answer = TypeVar("Answer")


def printable(text: str, *, one_line: bool = False) -> str:
    """Return words that a terminal only shows: control characters, and what is not seen, are spelled out.

    Lines and tabs stay, unless it is to be `one_line`.
    """
    stays, text = "" if one_line else "\n\t", text.replace("\r\n", "\n")
    return "".join(
        each if each.isprintable() or each in stays else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )


class StackError(Exit):
    """A failure that a person can act on: what happened, why, what to type next. No traceback."""

    def __init__(self, message: str, code: int = 1, *, cure: str = "") -> None:
        message = printable(message)
        super().__init__(f"{message}{'' if message.endswith(chr(10)) else ' '}{printable(cure)}".rstrip(), code)
        self.what, self.cure = message, cure

    def __str__(self) -> str:
        return str(self.message)


class Refused(StackError):
    """Wrong usage, or a safety check said no: nothing was touched. Exit code 2."""

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message, 2, cure=cure)


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


def begin(work: Callable[[], object]) -> threading.Thread:
    """Start a thread and return it. Ctrl-C waits until that is done, since Python's own start does not bear it."""

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)  # for the programs that are started from there
        work()

    thread = threading.Thread(target=run, daemon=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread


@contextmanager
def beside(work: Callable[[threading.Event], object], patience: float | None = None) -> Iterator[None]:
    """Do some work in a thread until this is left, which the event tells it; wait `patience` seconds for its end."""
    done, threads = threading.Event(), list[threading.Thread]()
    try:
        threads.append(begin(lambda: work(done)))
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(patience)


_INTERRUPTS = {signal.SIGINT, signal.SIGTERM}


def meanwhile(question: Callable[[], Answer]) -> Callable[[], Answer]:
    """Begin to ask beside what follows; what is returned waits for the answer, or raises the StackError it ended in."""
    answers: list[Answer] = []
    errors: list[StackError] = []

    def ask() -> None:
        try:
            answers.append(question())
        except StackError as error:
            errors.append(error)

    thread = begin(ask)

    def answer() -> Answer:
        thread.join()
        if errors:
            raise errors[0]
        return answers[0]

    return answer


def do(argv: Sequence[str]) -> int:
    """Run a program in front of the user and return its exit code.

    On Ctrl-C the program, which got the same signal, is given the time it needs to end by itself.
    """
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise not_started(argv[0], error) from None
    try:
        return child.wait()
    except BaseException:
        child.wait()
        raise


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
    try:
        started = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    except OSError as error:
        raise not_started(argv[0], error) from None
    with started as child:
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


def forget_stdout() -> None:
    """Go on without a reader: `invoke status | head -1` is no failure."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def stdout_failed(error: OSError) -> StackError:
    """Return what to say when data cannot be written to stdout, to which nothing is written any more."""
    forget_stdout()
    return StackError(f"stdout cannot be written: {error.strerror}. Make room, or send it elsewhere.")


def not_started(program: str, error: OSError) -> StackError:
    """Return what to say when a program does not start: it is not there, or the machine does not take it."""
    if isinstance(error, FileNotFoundError):
        return StackError(not_installed(program))
    return StackError(
        f"`{program}` could not be started: {error.strerror}. Look at that program, or install it anew; then type the"
        " command again."
    )


def not_installed(program: str) -> str:
    """Return what to say when a program is not on PATH."""
    return (
        f"`{program}` was not found on PATH. The stack runs in Docker containers, so it needs Docker Engine with"
        " Compose 2.24 or newer. Install it (https://docs.docker.com/get-docker/), then type the command again."
        if program == "docker"
        else f"`{program}` was not found on PATH. Install it, then type the command again."
    )
