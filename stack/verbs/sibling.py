"""The checkout that a second one is to have its data from: found, and which of its settings come along."""

from __future__ import annotations

import os
from pathlib import Path

from stack.engines.base import Engine
from stack.engines.choose import ENGINES, with_data
from stack.ground import disk, dotenv, files, settings
from stack.ground.catalog import IMAGES
from stack.ground.errors import Refused, StackError
from stack.ground.layers import layer_files
from stack.ground.run import look
from stack.ground.volume import LAYER
from stack.verbs.halves import newer

WITH_DATA = ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "CONVEX_INSTANCE_NAME", "CONVEX_INSTANCE_SECRET")
"""The settings that the data was made with: another value would not fit it."""
UNLESS_SET = ("STACK_ENGINE", "STACK_LAYERS", "STACK_SPARE", "STACK_SNAPSHOT", "POSTGRES_BIN_DIR", *IMAGES)
"""Those that come along where this checkout says nothing of its own."""
AGAIN = "invoke init --isolated --data"


def find(root: Path, given: str) -> Path:
    """Return the checkout whose data is wanted: the one that is named, else the main worktree of git's.

    Raises Refused when there is none, or it is this one.
    """
    folder = Path(given).expanduser().resolve() if given else _main_worktree(root)
    if not folder or disk.same(folder, root):
        which = f"{given} is this checkout itself" if given else "This is no worktree of another checkout"
        raise Refused(
            f"{which}, so there is no data to bring along. Nothing was done.",
            cure=f"Name the other one: `{AGAIN} --from DIR`; or leave out --data and begin empty.",
        )
    if not (folder / "docker-compose.yml").is_file() or not (folder / "stack").is_dir():
        raise Refused(
            f"{folder} is no checkout of this repository. Nothing was done.",
            cure=f"Name the one whose data is wanted: `{AGAIN} --from DIR`.",
        )
    return folder


def _main_worktree(root: Path) -> Path | None:
    """Return the same folder in the main worktree of git's; None where there is no git, or that is bare."""
    try:
        listed = look(["git", "-C", str(root), "worktree", "list", "--porcelain", "-z"])
        if listed.returncode:  # before git 2.36
            listed = look(["git", "-C", str(root), "worktree", "list", "--porcelain"])
        within = look(["git", "-C", str(root), "rev-parse", "--show-prefix"]).stdout.rstrip("\n")
    except StackError:
        return None
    lines = listed.stdout.replace("\0", "\n").split("\n\n")[0].split("\n")
    if listed.returncode or "bare" in lines:
        return None
    return Path(lines[0].removeprefix("worktree "), within)


def with_its_data(theirs: Engine) -> Engine:
    """Return the engine whose data the other checkout has: a STACK_ENGINE in the shell is about this one."""
    has = with_data(theirs.root)
    elsewhere = settings.load(theirs.root, {}).engine == "external"
    if theirs.name in has or elsewhere or len(has) != 1 or LAYER in theirs.settings.layers:
        return theirs
    return ENGINES[has[0]](theirs.settings, theirs.root)


def engine_for(root: Path, theirs: Engine) -> Engine:
    """Return the engine that is to run the copy. Raises Refused when the data of the other is of no use to this one."""
    mine = settings.load(root)
    wanted = theirs.name if mine.engine == "auto" else mine.engine
    unset = "Type `unset STACK_ENGINE`, since that of the shell wins over `.env`; then the command again"
    in_shell = bool(os.environ.get("STACK_ENGINE"))  # there it would be that of a dump too
    if not theirs.copies or wanted == "external":
        raise Refused(
            f"{root if mine.engine == 'external' else theirs.root} uses a server that is run elsewhere (the external"
            " engine), and that is not copied from here. Nothing was done.",
            cure=f"{unset}." if in_shell else by_dump(theirs),
        )
    there = f"Set STACK_ENGINE={theirs.name} in {root / '.env'}"
    if wanted != theirs.name:
        raise Refused(
            f"{theirs.root} has its data with the engine {theirs.name}, and this checkout is set to {wanted}. Nothing"
            " was done.",
            cure=f"{unset if in_shell else there}; or bring it over as a dump: {by_dump(theirs)}",
        )
    return ENGINES[wanted](mine, root)


def refuse_if_other_version(mine: Engine, theirs: Engine, made_by: str) -> None:
    """Raise Refused when the programs of this checkout are not of the version that made the other's data."""
    major = mine.copies.major() if mine.copies else 0
    if major and made_by and made_by != str(major):
        raise Refused(
            f"The data of {theirs.root} was made by PostgreSQL {made_by}, and this checkout starts {major}. Nothing was"
            " copied.",
            cure=by_dump(theirs),
        )
    if mine.convex and theirs.convex and theirs.convex.directory():
        (image, built), (other, others) = mine.convex.image(), theirs.convex.image()
        if image != other and newer(others, built):
            raise Refused(
                f"The Convex of {theirs.root} is newer ({other}) than that of this checkout ({image}), and Convex's"
                " migrations go forward only. Nothing was copied.",
                cure=f"Set CONVEX_BACKEND_IMAGE and CONVEX_DASHBOARD_IMAGE in {mine.root / '.env'} to those there, then"
                " type the command again.",
            )


def by_dump(theirs: Engine) -> str:
    """Return the way that always works, from one engine and version to another."""
    dumped = files.typed(theirs.root / "moving.dump")
    return (
        f"Type `invoke dump {dumped}` in {theirs.root}; then here `invoke init --isolated`, `invoke up` and"
        f" `invoke load {dumped}`."
    )


def along(root: Path, sibling: Path) -> dict[str, str]:
    """Return the settings that come along to a checkout's `.env`, as they are to be written there."""
    theirs, mine = (dotenv.read_env_file(each / ".env") if (each / ".env").exists() else {} for each in (sibling, root))
    found = {
        name: theirs.get(name) or settings.DEFAULTS[name]
        for name in WITH_DATA
        if (theirs.get(name) or settings.DEFAULTS[name]) != (mine.get(name) or settings.DEFAULTS[name])
    }
    found |= {name: theirs[name] for name in UNLESS_SET if theirs.get(name) and not mine.get(name)}
    if layers := found.get("STACK_LAYERS"):
        names = tuple(layers.replace(",", " ").split())
        here = {file.name for file in layer_files(root, names, there=True)}
        found["STACK_LAYERS"] = ",".join(name for name in names if f"docker-compose.{name}.yml" in here)
    return {name: dotenv.line(name, value).partition("=")[2] for name, value in found.items()}
