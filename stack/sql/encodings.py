"""In what encoding a file of SQL is, and what is done so that psql and the server read it right."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from stack.ground.errors import Refused, StackError

UTF8 = "UTF8"
LONGEST_MARK = 4
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",  # before those of UTF-16, which it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    codecs.BOM_UTF8: "utf-8",
}
# PostgreSQL's names (its encnames.c, without what it overlooks in them) and Python's, for those that both know.
_PYTHONS = {
    "big5": "cp950", "euccn": "gb2312", "eucjis2004": "euc_jis_2004", "eucjp": "euc_jp", "euckr": "euc_kr",
    "gb18030": "gb18030", "gbk": "cp936", "johab": "johab", "koi8r": "koi8_r", "koi8u": "koi8_u",
    "latin1": "latin_1", **{f"latin{n}": f"iso8859_{n}" for n in range(2, 5)}, "latin5": "iso8859_9",
    "latin6": "iso8859_10", "latin7": "iso8859_13", "latin8": "iso8859_14", "latin9": "iso8859_15",
    "latin10": "iso8859_16", **{f"iso8859{n}": f"iso8859_{n}" for n in (5, 6, 7, 8)}, "shiftjis2004": "shift_jis_2004",
    "sjis": "cp932", "sqlascii": "ascii", "uhc": "cp949", "utf8": "utf-8", "win866": "cp866", "win874": "cp874",
    **{f"win{n}": f"cp{n}" for n in range(1250, 1259)}, "euctw": "", "muleinternal": "",
}  # fmt: skip
_ALIASES = {"unicode": "utf8", "mskanji": "sjis", "shiftjis": "sjis", "windows949": "uhc", "windows950": "big5",
            "windows936": "gbk", "koi8": "koi8r", "abc": "win1258", "tcvn": "win1258", "vscii": "win1258"}  # fmt: skip
_NOT_LIKE_ASCII = ("big5", "gb18030", "gbk", "johab", "shiftjis2004", "sjis", "uhc")
"""In these a character may hold the byte of a backslash or a quote, so they are turned into UTF-8."""
_SAID = re.compile(
    rb"^[ \t]*(?:set[ \t]+(?:session[ \t]+)?(?:client_encoding[ \t]*(?:=|to)|names)[ \t]*['\"]?|\\encoding[ \t]+['\"]?)"
    rb"([\w-]+)",
    re.IGNORECASE | re.MULTILINE,
)


def mark(head: bytes) -> tuple[str, int]:
    """Return the encoding, as Python calls it, that a byte order mark tells, and how long it is; else an empty one."""
    return next(((name, len(each)) for each, name in _MARKS.items() if head.startswith(each)), ("", 0))


def unmarked(head: bytes) -> str:
    """Return which UTF-16 or UTF-32 a text is in that begins so without a mark, as Python calls it; empty for none.

    What counts is where the zero bytes are: the words of SQL are ASCII.
    """
    for width, names in ((4, ("utf-32-le", "utf-32-be")), (2, ("utf-16-le", "utf-16-be"))):
        whole = head[: len(head) // width * width]
        zeros = [whole[at::width].count(0) for at in range(width)]
        few = len(whole) // width // 8
        for name, byte in zip(names, (0, width - 1), strict=True):
            others = [zeros[at] for at in range(width) if at != byte]
            if whole and min(others) > max(few, 8 * zeros[byte]):
                return name
    return ""


def stated(head: bytes) -> str:
    """Return the encoding that a text itself says it is in; empty when its beginning does not."""
    said = _SAID.search(head)
    return said[1].decode() if said else ""


def wanted(name: str) -> tuple[str, str]:
    """Return, for an encoding that a user names, what Python must decode, and what psql is to be told; one is empty.

    Raises Refused when nobody knows it.
    """
    try:
        python = codecs.lookup(name).name
    except LookupError:
        python = ""
    if python.startswith(("utf-16", "utf-32")):
        return python, ""
    known = _postgres(name) or next((each for each, its in _PYTHONS.items() if its and _same(its, python)), "")
    if not known:
        raise Refused(
            f"--encoding {name!r} is none that PostgreSQL knows. Nothing was done. Type LATIN1, WIN1252, UTF16 or"
            " another of those that are in its manual under Character Set Support."
        )
    return (_PYTHONS[known], "") if known in _NOT_LIKE_ASCII else ("", known.upper())


def _postgres(name: str) -> str:
    """Return PostgreSQL's own spelling of a name, as pg_char_to_encoding() takes it; empty when it takes it not."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    plain = _ALIASES.get(plain, re.sub(r"^windows", "win", plain))
    plain = {f"iso8859{n}": name for name, n in (("latin1", 1), ("latin2", 2), ("latin3", 3), ("latin4", 4),
             ("latin5", 9), ("latin6", 10), ("latin7", 13), ("latin8", 14), ("latin9", 15), ("latin10", 16))}.get(
        plain, plain
    )  # fmt: skip
    return plain if plain in _PYTHONS else ""


def _same(python: str, other: str) -> bool:
    return bool(other) and codecs.lookup(python).name == other


class Converted:
    """Text in one encoding as psql is to get it: in the one that it says it is in, else in UTF-8."""

    def __init__(self, read: Callable[[int], bytes], python: str, name: str) -> None:
        self._read, self._name = read, name
        self._python = python
        self._decoder = codecs.getincrementaldecoder(python)()
        self._text = self._decoded(1 << 16)
        said = stated(self._text.removeprefix("\ufeff").encode(errors="replace"))
        self.encoding = said or UTF8
        self._codec = _PYTHONS.get(_postgres(said), "") or "utf-8"
        self._text = self._text.removeprefix("\ufeff")

    def read(self, size: int) -> bytes:
        """Return the next bytes; empty at the end. Raises StackError when they are not in that encoding."""
        while not self._text:
            if not (text := self._decoded(size)):
                return b""
            self._text = text
        text, self._text = self._text, ""
        try:
            return text.encode(self._codec)
        except UnicodeEncodeError as error:
            raise StackError(
                f"{self._name} says that it is in {self.encoding}, which has no {error.object[error.start]!r}: it was"
                f" saved in {self._python} later. Nothing was changed. Take that line out of it."
            ) from None

    def _decoded(self, size: int) -> str:
        """Return the next characters; nothing only at the end."""
        try:
            while chunk := self._read(size):
                if text := self._decoder.decode(chunk):
                    return text
            return self._decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise StackError(
                f"{self._name} is not {self._python} throughout: {error.reason}. Nothing was changed. When it is in"
                " another encoding, name that: `invoke load --encoding LATIN1 FILE`."
            ) from None
