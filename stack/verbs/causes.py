"""What a server says when it ends or lets nobody in: why, and a cure that loses nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from stack.engines.base import Engine
from stack.ground import ports
from stack.ground.errors import StackError, Words
from stack.server import identity, pgdata
from stack.server.identity import APART
from stack.verbs.cures import cure
from stack.verbs.damage import broken, no_such_name, nobody_let_in, turned_away
from stack.verbs.people import full, inside, tell

# What the user's own SQL says may hold the same words further on.
_NOT_IN = re.compile(r"(?:psql|pg_dump|pg_restore): error: connection to server")


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


def told(engine: Engine, said: str, otherwise: str = "Type `invoke doctor`, which finds out why.") -> str:
    """Return the words of a client that was not let in with what is known of them, for the end of a message."""
    why, cure = explain(engine, said) or ("", otherwise)
    return f"{said.strip()}\n{why[:1].upper()}{why[1:]}{'. ' * bool(why)}{cure}".rstrip()


def known(engine: Engine, said: str, otherwise: str = "") -> str:
    """Return a client's words with what is known of them, why it was not let in or what a file needs, or another."""
    return told(engine, said, otherwise) if _NOT_IN.match(said) else f"{said}\n{cure(engine, said, otherwise)}".rstrip()


def _other_major(engine: Engine, said: re.Match[str]) -> Words:
    del engine
    return pgdata.other_major(said[1], said[2])


def _always(why: str, cure: str) -> Callable[[Engine, re.Match[str]], Words]:
    return lambda _engine, _said: (why, cure)


def _closed(_engine: Engine, said: re.Match[str]) -> Words:
    return (
        f"the database {said[1]!r} lets nobody in (ALLOW_CONNECTIONS is false)",
        "Nothing of it is lost. Type `invoke doctor --fix`, which lets sessions in again.",
    )


def anothers(engine: Engine, said: str) -> Words | None:
    """Return who answers in the place of our own server, when that would not say such words; None when it would."""
    endpoint = engine.endpoint()
    if not endpoint or identity.would_say(said, endpoint, lambda query: inside(engine, query)) is not False:
        return None
    who = ports.holder(int(endpoint.port), endpoint.host)
    return f"another server than this stack's answers at {endpoint.host}:{endpoint.port}: {who}", APART


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
        full,
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
        broken,
        of_a_session=True,
    ),
    Kind(re.compile(r'(role|database) ".*" does not exist'), no_such_name, of_a_session=True),
    Kind(
        re.compile(r'role "(.*)" is not permitted to log in'),
        _always(
            "its role may not log in (NOLOGIN)",
            "Nothing of the data is lost. Another superuser lets it in with `ALTER ROLE … LOGIN`; when there is none,"
            " that statement goes to `postgres --single` while the stack is down.",
        ),
        of_a_session=True,
    ),
    Kind(re.compile(r"no pg_hba\.conf entry"), nobody_let_in, of_a_session=True),
    Kind(re.compile(r"pg_hba\.conf rejects"), turned_away, of_a_session=True),
    Kind(
        re.compile(r"initialized by PostgreSQL version (\d+), which is not compatible with this version (\d+)"),
        _other_major,
    ),
    Kind(
        # The image's entrypoint, and initdb; on sshfs, 9p and the drives of Windows.
        re.compile(
            r"chown: (?:changing ownership of|cannot access) .*: (?:Operation not permitted|Permission denied)"
            r"|chmod: changing permissions of .*: (?:Operation not permitted|Permission denied)"
            r'|initdb: error: could not change permissions of directory ".*"'
            r'|data directory ".*" has (?:wrong ownership|invalid permissions)'
        ),
        _always(
            "the file system that data/ is on does not let a container own its files",
            "Move the checkout to a file system of this machine's own (in WSL2 to ~/, not /mnt/c). Or keep the data in"
            " Docker's volumes: set STACK_LAYERS=dev,volumes in `.env`, then type `invoke down` and `invoke up`.",
        ),
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
        broken,
    ),
]
