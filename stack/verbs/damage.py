"""What a cluster's directory lacks, and what is still in it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stack.engines.base import Engine, need
from stack.ground.errors import Words
from stack.server import pgdata


def lost_text(engine: Engine) -> dict[str, str]:
    """Return the server's own text files that are missing, with what was in them when they were made."""
    data = need(engine.data, engine)
    there = data.read(*data.texts, pgdata.VERSION, *pgdata.VERSIONS)
    # The server may have put a link there: nothing but a number is copied out of the place that it leads to.
    version = pgdata.made_by(there, *pgdata.VERSIONS)
    texts = {**data.texts, **({pgdata.VERSION: version} if version else {})}
    return {name: text for name, text in texts.items() if pgdata.lack(name, there)} if there else {}


def write_lost_text(engine: Engine) -> None:
    """Write them anew; what is there is kept, rubbish in the place of a version under another name."""
    for name, text in lost_text(engine).items():
        need(engine.data, engine).append(name, text, instead=name == pgdata.VERSION)


def broken(engine: Engine, said: re.Match[str]) -> Words:
    """Tell of a file that is missing or damaged, or that the first start never came to its end."""
    data = need(engine.data, engine)
    directory, held = data.place(), data.contents()
    if held and not held.size:
        return (
            f"{directory} is gone or empty: its files were deleted beneath it",
            "What was in it is lost, unless you have a dump or a copy (`git clean -xfd` deletes whatever git ignores,"
            " and data/ with it). To begin anew, type `invoke down`, then `invoke up`.",
        )
    if held and not held.files and not held.complete:
        return "its first start was interrupted before it could let anybody in", pgdata.start_over(directory, held)
    if lost := sorted(lost_text(engine)):
        holds = f"{directory} holds {held}" if held else f"{directory} is there"
        return (
            f"the server does not find what it needs: {lacks(engine, lost)}",
            f"{holds}, and nothing of that is lost. Type `invoke doctor --fix`, which writes that as it was when the"
            " data was made (what you had changed in it is gone), then `invoke up`.",
        )
    if "could not load" in said[0]:
        return (
            "a line of its pg_hba.conf cannot be read",
            f"Mend the line that the server names, in {directory / 'pg_hba.conf'}; then type `invoke up`. Nothing of"
            " the data is lost.",
        )
    why = "a file of its data is missing or damaged, as the words of the server say"
    if "incompatible" in said[0]:
        why = "its files do not fit this server, as its words say"
    if held and not held.files:
        why += "; that, or its first start was interrupted"
    return why, pgdata.start_over(directory, held)


def nobody_let_in(engine: Engine, _said: re.Match[str]) -> Words:
    """Tell of rules by which nobody is let in."""
    data = need(engine.data, engine)
    directory, held = data.place(), data.contents()
    line = f"Type `invoke doctor --fix`, which gives pg_hba.conf the line `{pgdata.ADMIT}`."
    if held and not held.files and not held.complete:
        return "its first start was interrupted before it could let anybody in", pgdata.start_over(directory, held)
    if held and not held.files:
        return (
            "its pg_hba.conf lets nobody in from here, as when its first start was interrupted",
            f"{line} Or begin anew: {pgdata.start_over(directory, held)}",
        )
    holds = f"{directory} holds {held}" if held else f"{directory} is there"
    return "its pg_hba.conf lets nobody in from here", f"{holds}, and nothing of that is lost. {line}"


def turned_away(engine: Engine, _said: re.Match[str]) -> Words:
    """Tell of a rule that turns this machine away."""
    data = need(engine.data, engine)
    return (
        "a line of its pg_hba.conf turns this machine away",
        f"Take the line with `reject` out of {data.place() / 'pg_hba.conf'}, or put `{pgdata.ADMIT}` above it; then"
        " type `invoke restart postgres`.",
    )


def no_such_name(engine: Engine, _said: re.Match[str]) -> Words:
    """Tell of a user or a database that the data has not."""
    data = need(engine.data, engine)
    held = data.contents()
    anew = f" Or begin anew: {pgdata.start_over(data.place(), held)}" if held and held.size and not held.files else ""
    return (
        "the data was initialised with another user or database, or its first start was interrupted in the middle",
        "POSTGRES_USER and POSTGRES_DB count only when the data is made. Put the former names back, or type"
        f" `invoke doctor --fix`, which creates a missing database.{anew}",
    )


def lacks(engine: Engine, lost: Iterable[str]) -> str:
    """Return what is wrong with each of some files of the cluster, as a clause."""
    there = need(engine.data, engine).read(*lost)
    return " and ".join(pgdata.lack(name, there) for name in sorted(lost))
