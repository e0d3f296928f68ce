"""A checkout that is no longer wanted: stopped, emptied, its name and ports given back."""

from __future__ import annotations

from stack.engines.base import Engine
from stack.ground import files, register
from stack.ground.talk import say
from stack.verbs import wipe


def retire(engine: Engine, *, yes: bool) -> None:
    """Stop the stack and delete its data, after asking, so that the folder can be deleted by whoever owns it.

    Raises Refused when a path is not safe to delete, or the user says no; nothing was touched then.
    """
    wipe.ask_and_wipe(engine, yes=yes)
    engine.stop()  # what runs without data yet
    register.forget(engine.root)
    place = files.typed(engine.root)
    remove = f"git worktree remove {place}" if (engine.root / ".git").is_file() else f"rm -rf {place}"
    say(f"This checkout has neither data nor anything that runs any more. From elsewhere, `{remove}` may follow.")
