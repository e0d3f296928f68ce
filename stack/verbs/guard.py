"""Runs a program of the user's with the stack's settings, behind a save point that it can be taken back to."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager

from stack.engines.base import Engine
from stack.ground.errors import Refused, printable
from stack.ground.run import do
from stack.ground.talk import say
from stack.verbs import env, snapshots
from stack.verbs.store import typed


def guard(work: AbstractContextManager[Engine], words: Sequence[str]) -> int:
    """Take a snapshot in `work`, then run a program with what `invoke env` prints in its environment.

    Returns its exit code, 128 and the number of the signal that ended it. Raises StackError when there is no snapshot:
    the program does not run then.
    """
    if not words:
        raise Refused("Which program? Type `invoke guard -- COMMAND`, as in `invoke guard -- npx prisma migrate dev`.")
    if not shutil.which(words[0]):
        raise Refused(f"There is no program {words[0]!r} on PATH, so nothing was done.")
    with work as engine:
        values = json.loads(env.env(engine, "json"))
        name = snapshots.take(engine, message=f"before {printable(shlex.join(words), one_line=True)}"[:200])
    # Here no lock is held: the program may well be another `invoke`.
    try:
        code = do(words, values, stdin=None)
    finally:
        say(f"`invoke restore {typed(name)}` brings back what was there before.")
    return code if code >= 0 else 128 - code
