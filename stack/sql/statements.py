"""What becomes of each statement of a script that is to stay in one database."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from stack.sql import databases
from stack.sql.create_role import altered
from stack.sql.databases import MAINTENANCE, SYSTEM, Naming, Survey, naming, target
from stack.sql.frames import Event
from stack.sql.includes import Reading
from stack.sql.makers import RUN, Makers
from stack.sql.roles import members, named
from stack.sql.tokens import first_words, name_of, quoted, words_of
from stack.sql.variables import Values, expanded

_LOOKED_AT = {
    "create", "drop", "alter", "comment", "grant", "revoke", "security", "set", "reassign", "begin", "start", "commit",
    "end", "rollback", "abort",
}  # fmt: skip
_OF_ROLES = {"create", "alter", "drop"}
_SENDS = {"g", "gx", "gset", "gexec", "gdesc", "crosstabview", "watch"}
_UNFIT = {"rename", "tablespace", "is_template", "allow_connections"}


class Statements:
    """Gives each statement as psql is to run it, leaves it out, or holds it back to the end."""

    def __init__(
        self,
        *,
        into: str,
        name: str,
        session: str,
        mark: str,
        missing: Callable[[str], bool | None] | None,
        notes: list[str],
    ) -> None:
        self.held: list[tuple[Event, bytes]] = []
        """What is run behind all else: the databases that are made beside."""
        self._into, self._name, self._session, self._missing, self._notes = into, name, session, missing, notes
        self._makers = Makers(mark)
        self._survey = Survey()
        self._wanted = ""
        self._at = self._user = ""
        self._in_transaction = False
        self._cluster = False
        self._asked: dict[str, bool] = {}
        self._here: list[str] = []
        self._kept: list[str] = []
        self._beside: list[str] = []
        self._spaces: list[str] = []

    def decide(self, found: Survey, pick: str, file: str) -> None:
        """Choose the database whose content is wanted. Raises Refused when there are several."""
        found.content.pop(self._into, None)
        self._survey = found
        self._wanted = databases.choose(found, pick, file)
        others = [each for each in found.content if each and each not in (self._wanted, *MAINTENANCE)]
        if self._wanted and self._wanted != self._name:
            made = "would have made" if self._wanted in found.created else "leads to"
            self._notes.append(f"Its content went into {self._name}; the file {made} the database {self._wanted}.")
        if others:
            self._notes.append(f"Left out: {', '.join(others)}.")

    def finish(self) -> None:
        """Say what was not done as written."""
        tell = self._notes.append
        if self._beside:
            names, one = ", ".join(self._beside), len(self._beside) == 1
            tell(
                f"The database{'' if one else 's'} {names} {'was' if one else 'were'} made beside {self._name};"
                f" `snapshot` and `dump` know {self._name} alone."
            )
        if self._here:
            names, one = ", ".join(self._here), len(self._here) == 1
            tell(f"The role{'' if one else 's'} {names} {'is' if one else 'are'} here, and left as before.")
        if self._kept:
            tell(f"Not dropped: the role{'' if len(self._kept) == 1 else 's'} {', '.join(self._kept)}.")
        if self._spaces:
            tell(f"No tablespace was made ({', '.join(self._spaces)}): what is in it there is in the usual place here.")

    # -- where it is ----------------------------------------------------------------------------------------------

    def left_out(self, event: Event) -> bool:
        """Return whether a piece belongs to a database whose content is not wanted."""
        del event
        return bool(self._into) and self._at not in ("", self._wanted, self._name, self._into)

    def connect(self, event: Event, values: Values) -> bytes:
        r"""Return what stands for a `\connect`: the session anew, in the same database."""
        found = target(event, values)
        self._at = found.database or self._at
        if found.user and found.user != "postgres":
            self._user = found.user
        elif found.user:
            self._user = ""
        text = b"ROLLBACK; " * self._in_transaction + b"DISCARD ALL;"
        self._in_transaction = False
        if self._session:
            text += b" " + self._session.encode()
        if self._user and not self.left_out(event):
            self._ask(self._user)
            text += b" SET SESSION AUTHORIZATION " + quoted(self._user) + b";"
        return text + (b"\n" if event.piece.text.endswith(b"\n") else b" ")

    def leaves_out_command(self, event: Event, values: Values) -> bool:
        """Return whether a command, with the statement that it sends, is left out or held back."""
        if not self._into:
            return False
        statement = expanded(event.piece.statement, values)
        if event.name == "gexec" and (made := databases.MADE_BY_QUERY.search(statement)):
            name = name_of(made[1])
            if not self._is_ours(name) and name not in self._survey.content:
                self._hold(event, event.piece.before, name)
            return True
        return self.left_out(event) and event.name in _SENDS

    def around(self, event: Event, values: Values) -> tuple[bytes, bytes]:
        """Return what goes before a command with its statement, and what behind it."""
        if event.name != "gexec" or not self._missing:
            return b"", b""
        return self._makers.around(expanded(event.piece.statement, values), in_transaction=self._in_transaction)

    # -- statements -----------------------------------------------------------------------------------------------

    def take(self, event: Event, statement: bytes, reading: Reading) -> bytes:
        """Return a statement as psql is to run it; empty when it is left out. `statement` is it with its variables."""
        text = event.piece.text
        words = first_words(statement, 2)
        self._cluster |= databases.CLUSTER_DUMP in statement
        if not words or words[0] not in _LOOKED_AT:
            if not self._missing or not words or words[0] not in RUN or self.left_out(event):
                return b"" if self.left_out(event) else text
            block = words[0] == "do"
            return self._makers.marked(text, statement, block=block, in_transaction=self._in_transaction)
        self._makers.learn(statement)
        self._note_session(words)
        if not self._into:
            return text
        if found := naming(event.piece.statement, reading.values):
            return self._database(event, found)
        return self._other(event, statement, words)

    def _other(self, event: Event, statement: bytes, words: list[str]) -> bytes:
        """Return what becomes of a statement that names no database."""
        text = event.piece.text
        if words[1:] and words[1] in ("role", "user", "group") and words[0] in _OF_ROLES:
            if (given := self._role(text, statement, words[0])) is not None:
                return given
        elif _PUBLIC.match(statement):
            return _PUBLIC.sub(rb"\1 IF NOT EXISTS \2", text)
        elif self._cluster and _is_of_tablespace(statement):
            return self._tablespace(text, statement, words)
        if words[0] == "comment" and (given := self._comment_on_role(event, statement)) is not None:
            return given
        if self.left_out(event) and not (words[0] in ("grant", "revoke") and _is_membership(statement)):
            return b""
        self._notes += [SYSTEM] * (words == ["alter", "system"] and SYSTEM not in self._notes)
        return self._with_roles(text, statement, words[0])

    def _note_session(self, words: list[str]) -> None:
        """Remember what changes how the rest is read."""
        if words[0] in ("begin", "start"):
            self._in_transaction = True
        elif words[0] in ("commit", "end", "abort") or (words[0] == "rollback" and words[1:] != ["to"]):
            self._in_transaction = False

    def _with_roles(self, text: bytes, statement: bytes, verb: str) -> bytes:
        """Return a statement after the roles that it names were told."""
        if not self._missing:
            return text
        if self._cluster and verb in ("grant", "revoke") and _is_membership(statement):
            return b"" if set(members(statement)) & set(self._here) else text
        for role in named(statement):
            self._ask(role)
        return text

    def _ask(self, role: str) -> bool:
        """Tell of a role, once; return whether it was made for this script."""
        if role not in self._asked:
            self._asked[role] = bool(self._missing and not self._makers.may_make(role) and self._missing(role))
        return self._asked[role]

    # -- roles ----------------------------------------------------------------------------------------------------

    def _role(self, text: bytes, statement: bytes, verb: str) -> bytes | None:
        """Return what becomes of a statement about a role itself; None when it is one like others."""
        words = words_of(statement)
        low = [word.lower() for word in words]
        if not self._missing or len(words) < 3 or low[2] == b"mapping":
            return None
        at = 4 if low[2:4] == [b"if", b"exists"] else 2
        if verb == "drop":
            return self._drop_roles(text, words[at:])
        name = name_of(words[at]) if at < len(words) else ""
        if not name or name in ("all", "current_user", "session_user", "current_role"):
            return None
        if verb == "create":
            return self._create_role(statement, name)
        if b"database" in low and low[low.index(b"database") - 1] == b"in":
            return self._role_in_database(text, name_of(words[low.index(b"database") + 1]))
        return b"" if name in self._here else text

    def _create_role(self, statement: bytes, name: str) -> bytes:
        if self._ask(name):  # it was made bare an instant ago, with a mark by which it is found again
            for other in named(altered(statement, name)):
                self._ask(other)
            return altered(statement, name)
        self._here += [name] * (name not in self._here)
        return b""

    def _comment_on_role(self, event: Event, statement: bytes) -> bytes | None:
        """Hold it back, since whoever makes roles for this script may mark them by a comment; None for all others."""
        words = words_of(statement)
        if not self._missing or [word.lower() for word in words[1:3]] != [b"on", b"role"]:
            return None
        if self._asked.get(name_of(words[3])) or self._makers.may_make(name_of(words[3])):
            self.held.append((event, event.piece.text))
            return b""
        return b"" if name_of(words[3]) in self._here else event.piece.text

    def _drop_roles(self, text: bytes, words: list[bytes]) -> bytes:
        names = [name_of(word) for word in words if word not in (b",", b";")]
        if names and all(self._asked.get(name) for name in names):
            for name in names:
                del self._asked[name]
            return text
        self._kept += [name for name in names if name not in self._kept]
        return b""

    def _role_in_database(self, text: bytes, name: str) -> bytes:
        if not self._is_ours(name):
            return b""
        found = databases.after_in_database(text)
        return text if not found else text[: found[0]] + quoted(self._into) + text[found[1] :]

    # -- databases ------------------------------------------------------------------------------------------------

    def _is_ours(self, name: str) -> bool:
        return name in (self._wanted or self._name, self._name, self._into)

    def _database(self, event: Event, found: Naming) -> bytes:
        """Return what becomes of a statement about databases."""
        text = event.piece.text
        names = [name for name, _, _ in found.names]
        ours = [name for name in names if self._is_ours(name)]
        others = [name for name in names if name in self._survey.content or (self._cluster and name in MAINTENANCE)]
        if found.verb in ("create", "drop"):
            if not ours and not others and not (found.verb == "drop" and set(names) & MAINTENANCE):
                self._beside = [each for each in self._beside if each not in names]  # what is dropped again
                self._hold(event, text, names[0] if found.verb == "create" and names else "")
            return b""
        if ours:
            if found.verb == "alter" and _UNFIT & set(found.words[3:5]):
                return b""
            for name in ours if text == event.piece.statement else ():
                text = found.instead(text, name, self._into)
            return self._with_roles(text, text, found.verb)
        if others:
            return b""
        if set(names) & set(self._beside):
            self._hold(event, text, "")
            return b""
        return self._with_roles(text, text, found.verb)

    def _hold(self, event: Event, text: bytes, made: str) -> None:
        if made and made not in self._beside:
            self._beside.append(made)
        if self._missing:
            for role in databases.owner(text) if made else named(text):
                self._ask(role)
        self.held.append((event, text))

    def _tablespace(self, text: bytes, statement: bytes, words: list[str]) -> bytes:
        """Leave tablespaces out, which are folders on another machine."""
        said = [name_of(word) for word in words_of(statement)]
        if words[0] == "set":
            return b" SET default_tablespace = '';" if said[3:4] and said[3] in self._spaces else text
        if words[0] == "create" and said[2:] and said[2] not in self._spaces:
            self._spaces.append(said[2])
        return b""


def _is_membership(statement: bytes) -> bool:
    return b"on" not in [word.lower() for word in words_of(statement)]


def _is_of_tablespace(statement: bytes) -> bool:
    if b"tablespace" not in statement.lower():
        return False
    words = [word.lower() for word in words_of(statement)]
    return words[1] in (b"tablespace", b"default_tablespace") or (b"on", b"tablespace") in pairwise(words)


_PUBLIC = re.compile(rb'(?i)^(\s*create\s+schema)\s+("?public"?\s*;)')
