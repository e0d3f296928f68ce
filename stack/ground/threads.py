"""Work that goes on beside: threads that bear Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from stack.ground.errors import StackError

Answer = TypeVar("Answer")
_INTERRUPTS = {signal.SIGINT, signal.SIGTERM}


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
