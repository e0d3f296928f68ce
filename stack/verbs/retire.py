"""A checkout that is no longer wanted: stopped, emptied, its name and ports given back."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

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
    follows = f"From elsewhere, `{remove}` may follow."
    if others := _worktrees(engine.root):
        follows = f"Keep the folder: its .git is also that of {', '.join(map(str, others))}."
    say(f"This checkout has neither data nor anything that runs any more. {follows}")


def _worktrees(root: Path) -> list[Path]:
    """Return the worktrees whose commits are in a checkout's own `.git`, and go with it."""
    found = []
    with suppress(OSError, UnicodeDecodeError):
        for told in sorted((root / ".git" / "worktrees").glob("*/gitdir")):
            found.append((told.parent / told.read_text(encoding="utf-8").strip()).parent)
    return [each for each in found if each.is_dir()]
