"""A psql script, given on as it is; the roles that its statements name are found line by line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from stack.feed import Readable
from stack.process import Refused

_NAME = r'(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)'
_ONE = re.compile(_NAME)
_NAMES = rf"(?:GROUP +)?{_NAME}(?: *, *{_NAME})*"
_ROLES = re.compile(
    rf"^ALTER .* OWNER TO ({_NAME});|^(?:ALTER DEFAULT PRIVILEGES .*)?GRANT .* TO ({_NAMES})[ ;]"
    rf"|REVOKE .* FROM ({_NAMES})[ ;]|^ALTER DEFAULT PRIVILEGES FOR ROLE ({_NAME}) |^CREATE POLICY .* TO ({_NAMES})[ ;]"
    rf"|^CREATE SCHEMA .*AUTHORIZATION ({_NAME});|^SET (?:SESSION AUTHORIZATION|ROLE) ({_NAME});",
    re.MULTILINE | re.IGNORECASE,
)
_LEAVES = re.compile(rb"^[ \t]*(\\c(?:onnect)?)(?=\s)", re.MULTILINE)
_NOBODY = {"public", "current_user", "session_user", "current_role", "none", "default"}


def roles_in(text: bytes) -> Iterator[str]:
    """Return the roles that statements name, each at the beginning of a line, as pg_dump writes them."""
    for found in _ROLES.finditer(text.decode(errors="replace")):
        for each in _ONE.findall(",".join(filter(None, found.groups()))):
            name = each[1:-1].replace('""', '"') if each.startswith('"') else each.lower()
            if name.lower() not in _NOBODY and name.lower() != "group" and not name.startswith("pg_"):
                yield name


class Script:
    """The file, and where its lines are."""

    def __init__(
        self, source: Readable, *, into: str, name: str, file: str, missing: Callable[[str], object] = bool
    ) -> None:
        self._source, self._into, self._name, self._file, self._missing = source, into, name, file, missing
        self.whole = True
        self._rest = b""
        self.notes: list[str] = []

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        chunk = self._source.read(size)
        text = self._rest + chunk
        self._rest = text[text.rfind(b"\n") + 1 :][-4096:]
        if found := _LEAVES.search(text):
            raise Refused(
                f"The file holds the line {found[1].decode(errors='replace')}, which leads to another database. Nothing"
                " of it was applied. Take that line out, or run the file as it is: `invoke psql -f FILE`."
            )
        for role in roles_in(text):
            self._missing(role)
        return chunk

    def where(self, line: int) -> str:
        """Return where a line of psql's is."""
        return f"{self._file}:{line}"
