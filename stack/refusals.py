"""What a server says when it ends or lets nobody in: why, and a cure that loses nothing."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stack import identity, places, ports
from stack.cures import cure
from stack.engine import Engine
from stack.process import StackError, look

APART = (
    "Stop that server, then type `invoke down` and `invoke up`; or give this stack ports of its own: `invoke down`,"
    " `invoke init --isolated`, `invoke up`."
)
"""What to do about a server that answers in the place of ours."""
SHOWN = 4
"""Kinds of sessions that a message names."""

Words = tuple[str, str]
"""Why, as a clause, and the cure, in sentences."""


@dataclass(frozen=True)
class Kind:
    """A refusal that waiting does not end, or seldom."""

    words: re.Pattern[str]
    told: Callable[[Engine, re.Match[str]], Words]
    of_a_session: bool = False
    """It was said to one session, so in a log it may have been said to anybody."""
    cause: str = "other"
    """full, which may end by itself; closed, or other."""

    @property
    def passing(self) -> bool:
        """True when it may end by itself."""
        return self.cause == "full"

    def explain(self, engine: Engine, said: str) -> Words:
        """Return why a server said words of this kind, and the cure, after a look at what is there."""
        found = self.words.search(said)
        assert found
        return self.told(engine, found)


def refusal(said: str, *, log: bool = False) -> Kind | None:
    """Return what kind of refusal a server's words are; None when waiting may help. `log`: all that it wrote."""
    return next((kind for kind in KINDS if not (log and kind.of_a_session) and kind.words.search(said)), None)


def explain(engine: Engine, said: str, *, log: bool = False) -> Words | None:
    """Return why a server said that, and the cure, after a look at what is there; None when nothing is known of it."""
    if not (kind := refusal(said, log=log)):
        return None
    if (endpoint := engine.endpoint()) and not endpoint.ours:
        why = kind.explain(engine, said)[0] if kind.passing else ""
        return why, "Mend DATABASE_URL, or the server that it names."
    if kind.of_a_session and (another := anothers(engine, said)):
        return another
    return kind.explain(engine, said)


def anothers(engine: Engine, said: str) -> Words | None:
    """Return who answers in the place of our own server, when that would not say such words; None when it would."""
    endpoint = engine.endpoint()
    if not endpoint or identity.would_say(said, endpoint, lambda query: inside(engine, query)) is not False:
        return None
    who = ports.holder(int(endpoint.port), endpoint.host)
    return f"another server than this stack's answers at {endpoint.host}:{endpoint.port}: {who}", APART


def told(engine: Engine, said: str, otherwise: str = "Type `invoke doctor`, which finds out why.") -> str:
    """Return the words of a client that was not let in with what is known of them, for the end of a message."""
    why, cure = explain(engine, said) or ("", otherwise)
    return f"{said.strip()}\n{why[:1].upper()}{why[1:]}{'. ' * bool(why)}{cure}".rstrip()


def known(engine: Engine, said: str, otherwise: str = "") -> str:
    """Return a client's words with what is known of them, why it was not let in or what a file needs, or another."""
    return told(engine, said, otherwise) if _NOT_IN.match(said) else f"{said}\n{cure(engine, said, otherwise)}".rstrip()


# What the user's own SQL says may hold the same words further on.
_NOT_IN = re.compile(r"(?:psql|pg_dump|pg_restore): error: connection to server")


# -- what the data lacks --------------------------------------------------------------------------------------


def place(engine: Engine) -> Path:
    """Return where the cluster is, or would be."""
    directories = engine.directories()
    return directories.get("pg") or directories.get("embedded") or engine.root / "data" / "pg"


def lost_text(engine: Engine) -> dict[str, str]:
    """Return the server's own text files that are missing, with what was in them when they were made."""
    there = engine.read(*engine.texts, places.VERSION, *places.VERSIONS)
    # The server may have put a link there: nothing but a number is copied out of the place that it leads to.
    version = places.made_by(there, *places.VERSIONS)
    texts = {**engine.texts, **({places.VERSION: version} if version else {})}
    return {name: text for name, text in texts.items() if places.lack(name, there)} if there else {}


def lacks(engine: Engine, lost: Iterable[str]) -> str:
    """Return what is wrong with each of some files of the cluster, as a clause."""
    there = engine.read(*lost)
    return " and ".join(places.lack(name, there) for name in sorted(lost))


def write_lost_text(engine: Engine) -> None:
    """Write them anew; what is there is kept, rubbish in the place of a version under another name."""
    for name, text in lost_text(engine).items():
        engine.append(name, text, instead=name == places.VERSION)


def _broken(engine: Engine, said: re.Match[str]) -> Words:
    """Tell of a file that is missing or damaged, or that the first start never came to its end."""
    directory, held = place(engine), engine.contents()
    if held and not held.size:
        return (
            f"{directory} is gone or empty: its files were deleted beneath it",
            "What was in it is lost, unless you have a dump or a copy (`git clean -xfd` deletes whatever git ignores,"
            " and data/ with it). To begin anew, type `invoke down`, then `invoke up`.",
        )
    if held and not held.files and not held.complete:
        return "its first start was interrupted before it could let anybody in", places.start_over(directory, held)
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
    return why, places.start_over(directory, held)


def _nobody_let_in(engine: Engine, _said: re.Match[str]) -> Words:
    directory, held = place(engine), engine.contents()
    line = f"Type `invoke doctor --fix`, which gives pg_hba.conf the line `{places.ADMIT}`."
    if held and not held.files and not held.complete:
        return "its first start was interrupted before it could let anybody in", places.start_over(directory, held)
    if held and not held.files:
        return (
            "its pg_hba.conf lets nobody in from here, as when its first start was interrupted",
            f"{line} Or begin anew: {places.start_over(directory, held)}",
        )
    holds = f"{directory} holds {held}" if held else f"{directory} is there"
    return "its pg_hba.conf lets nobody in from here", f"{holds}, and nothing of that is lost. {line}"


def _wrong_password(engine: Engine, said: re.Match[str]) -> Words:
    """Tell of a password that was not taken; a server says so of a user too whom it does not have."""
    endpoint = engine.endpoint()
    if endpoint and _has_no(engine, endpoint.user):
        return (
            f"the data was initialised with another user: it has no {endpoint.user!r}",
            "POSTGRES_USER counts only when the data is made. Put the former one back.",
        )
    if not endpoint or identity.would_say(said[0], endpoint, lambda query: inside(engine, query)) is None:
        return (
            "the server at its address does not take the password of the settings, and nobody gets in from inside to"
            " see whether that is this stack's own",
            "POSTGRES_PASSWORD counts only when the data is made. Put the former one back; or type `invoke doctor`,"
            " which looks who answers there.",
        )
    return (
        "the data was initialised with another password",
        "POSTGRES_PASSWORD counts only when the data is made. Put the former password back, or type"
        " `invoke doctor --fix`, which gives the database the new one.",
    )


def _has_no(engine: Engine, user: str) -> bool:
    """Return whether our own server says from inside that it does not have a user."""
    try:
        tell(engine, user, "SELECT 1;")
    except StackError as error:
        return f'role "{user}" does not exist' in str(error)
    return False


def _turned_away(engine: Engine, _said: re.Match[str]) -> Words:
    return (
        "a line of its pg_hba.conf turns this machine away",
        f"Take the line with `reject` out of {place(engine) / 'pg_hba.conf'}, or put `{places.ADMIT}` above it; then"
        " type `invoke restart postgres`.",
    )


def _no_such_name(engine: Engine, _said: re.Match[str]) -> Words:
    held = engine.contents()
    anew = f" Or begin anew: {places.start_over(place(engine), held)}" if held and held.size and not held.files else ""
    return (
        "the data was initialised with another user or database, or its first start was interrupted in the middle",
        "POSTGRES_USER and POSTGRES_DB count only when the data is made. Put the former names back, or type"
        f" `invoke doctor --fix`, which creates a missing database.{anew}",
    )


def _other_major(engine: Engine, said: re.Match[str]) -> Words:
    del engine
    return places.other_major(said[1], said[2])


def _always(why: str, cure: str) -> Callable[[Engine, re.Match[str]], Words]:
    return lambda _engine, _said: (why, cure)


# -- who is in ------------------------------------------------------------------------------------------------


def _full(engine: Engine, said: re.Match[str]) -> Words:
    """Tell that all connections are taken, of the server or of one database or role."""
    people = _people(engine)
    number = _limit(engine) or (f"{sum(people.values())}" if people else "")
    which = f"all {number} connections of the server".replace("  ", " ")
    cure = (
        "Close that program, or type `invoke restart postgres`, which ends every session; then type the command again."
    )
    if limited := re.search(r'for (database|role) "(.*)"', said[0]):
        which = f"all connections that the {limited[1]} {limited[2]!r} is allowed"
        cure = (
            f"Close that program, or end it with `invoke restart postgres`. The limit is the {limited[1]}'s own: a"
            f" superuser changes it with `ALTER {limited[1].upper()} … CONNECTION LIMIT -1`."
        )
    return f"{which} are taken{holders(engine, people)}", cure


def holders(engine: Engine, people: Counter[str] | None = None) -> str:
    """Return who has the connections, to be put behind a clause."""
    people = _people(engine) if people is None else people
    rows = [f"{count} by {who}" for who, count in people.most_common(SHOWN)]
    more = len(people) - SHOWN
    named = ", ".join([*rows, *([f"{more} more kinds"] if more > 0 else [])])
    endpoint = engine.endpoint()
    programs = ports.clients(int(endpoint.port)) if endpoint and endpoint.ours else Counter[str]()
    here = ", ".join(f"{count} of {name}" for name, count in programs.most_common(SHOWN))
    return f"{': ' * bool(named)}{named}{'; on this machine they are ' * bool(here)}{here}"


def _people(engine: Engine) -> Counter[str]:
    """Return whose sessions there are: by the server's word if it lets its superuser in, else by their titles."""
    rows = inside(engine, _WHO)
    if rows is not None:
        return Counter({_person(*row[:4]): row[4] for row in json.loads(rows)})
    found: Counter[str] = Counter()
    try:
        titles = engine.titles()
    except StackError:
        return found
    for title in titles:
        # One that is just coming in is about to be turned away, as ours was that asks.
        if (session := _SESSION.search(title)) and session[4] not in ("initializing", "authentication", "startup"):
            found[_person(session[1], session[2], "", session[4])] += 1
    return found


_WHO = """
SELECT coalesce(json_agg(json_build_array(usename, datname, application_name, state, number)), '[]') FROM (
    SELECT usename, datname, application_name, state, count(*) AS number FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() GROUP BY 1, 2, 3, 4) AS sessions
"""
# "postgres: USER DATABASE HOST(PORT) STATE", with "CLUSTER: " before the user where cluster_name is set.
_SESSION = re.compile(r"postgres: (?:\S+: )?(.+) (\S+) (\[local\]|\S+\(\d+\)) (.+)$")


def _person(user: str | None, database: str | None, program: str | None, state: str | None) -> str:
    who = f"{program} (user {user}" if program else f"the user {user} ("
    return f"{who}{', ' * bool(program)}database {database}, {state or 'at work'})"


def _limit(engine: Engine) -> str:
    return (inside(engine, "SHOW max_connections") or "").strip()


def inside(engine: Engine, query: str) -> str | None:
    """Return what a superuser is told through the socket, on which no password is asked; None when nobody gets in."""
    endpoint = engine.endpoint()
    for user in dict.fromkeys((endpoint.user if endpoint else "postgres", "postgres")):
        with suppress(StackError):
            return tell(engine, user, query)
    return None


def tell(engine: Engine, user: str, statements: str) -> str:
    """Run statements through that socket, and return what they print. Raises StackError when the server refuses."""
    with tempfile.TemporaryFile() as source:
        source.write(statements.encode())
        source.seek(0)
        result = look(*engine.trusted(user, "template1"), stdin=source)
    if result.returncode:
        raise StackError(f"The server refused: {result.stderr.strip()}")
    return result.stdout.strip()


def _closed(_engine: Engine, said: re.Match[str]) -> Words:
    return (
        f"the database {said[1]!r} lets nobody in (ALLOW_CONNECTIONS is false)",
        "Nothing of it is lost. Type `invoke doctor --fix`, which lets sessions in again.",
    )


# An authentication failure has no SQLSTATE on the client's side (it comes before the session does), so its words must
# do. The first that fits counts.
KINDS = [
    Kind(
        re.compile(r"password authentication failed"),
        _wrong_password,
        of_a_session=True,
    ),
    Kind(
        re.compile(
            r"sorry, too many clients already|remaining connection slots are reserved[^\n]*"
            r'|too many connections for (?:database|role) "[^\n]*"'
        ),
        _full,
        of_a_session=True,
        cause="full",
    ),
    Kind(
        re.compile(r'database "(.*)" is not currently accepting connections'),
        _closed,
        of_a_session=True,
        cause="closed",
    ),
    Kind(
        re.compile(r'database subdirectory "base/\d+" is missing|"base/\d+" is not a valid data directory'),
        _broken,
        of_a_session=True,
    ),
    Kind(re.compile(r'(role|database) ".*" does not exist'), _no_such_name, of_a_session=True),
    Kind(
        re.compile(r'role "(.*)" is not permitted to log in'),
        _always(
            "its role may not log in (NOLOGIN)",
            "Nothing of the data is lost. Another superuser lets it in with `ALTER ROLE … LOGIN`; when there is none,"
            " that statement goes to `postgres --single` while the stack is down.",
        ),
        of_a_session=True,
    ),
    Kind(re.compile(r"no pg_hba\.conf entry"), _nobody_let_in, of_a_session=True),
    Kind(re.compile(r"pg_hba\.conf rejects"), _turned_away, of_a_session=True),
    Kind(
        re.compile(r"initialized by PostgreSQL version (\d+), which is not compatible with this version (\d+)"),
        _other_major,
    ),
    Kind(
        re.compile(r"Error: in 18\+, these Docker images"),  # docker-library/postgres#1259
        _always(
            "the image is PostgreSQL 18 or newer, which keeps its data elsewhere",
            "The stack is made for PostgreSQL 17: set POSTGRES_IMAGE back to it.",
        ),
    ),
    Kind(
        re.compile(r'could not open file "(?:global|base)/.*": Permission denied'),
        _always(
            "its files were given to another user while it ran",
            "Type `invoke restart postgres`: a container takes its files back when it starts.",
        ),
    ),
    Kind(
        re.compile(
            r'directory ".*" exists but is not empty'  # initdb, where PG_VERSION is missing
            r"|could not access the server configuration file|could not load .*pg_hba\.conf"
            r'|is not a valid data directory|required WAL directory ".*" does not exist'
            r"|could not locate a valid checkpoint record|incorrect checksum in control file"
            r"|database files are incompatible with server"  # whose hint is to make a new one
            r"|(?:could not|cannot) (?:open|read|access|stat) (?:file|directory) "
            r'"(?:[^"\n]*/)?(?:global|base|pg_[a-z]+)(?:/[^"\n]*)?": (?:No such file|read \d+ of)',
            re.IGNORECASE,  # it may stand in the DETAIL
        ),
        _broken,
    ),
]
