"""The dialect of `.env` on which Compose and python-dotenv agree.

They read it differently. Only lines that mean the same to both are accepted, so a password is never one thing to the
server and another to its clients.
"""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote

from stack.ground.errors import Refused

# One assignment of the common dialect. Quoted values may span lines, as in both readers; not in a file with
# Windows line ends, which only one of them turns into plain ones.
_ASSIGNMENT = re.compile(
    r"""
    [ \t]* (?:export[ \t]+)? [A-Za-z_][A-Za-z0-9_]* [ \t]*=
    (?: [ \t]* '(?: [^'\\$\r] | \\(?![\\']) | \$(?!\{) )*' [ \t]* (?:\#[^\r\n]*)?
      | [ \t]* "(?: [^"\\$\r] | \\[\\"n] )*" [ \t]* (?:\#[^\r\n]*)?
      | (?: [ \t]* (?!['"]) (?: (?<==) | (?!\#) ) [^\s$] (?: [^\s$] | [ \t](?!\#) )*? (?: [ ]+ \#[^\r\n]* )? )? [ \t]*
    )
    (?= \r?\n | \Z )
    """,
    re.VERBOSE,
)
_QUOTED = re.compile(r"""'[^']*'|["](?:[^"\\]|\\.)*["]""", re.DOTALL)
_BLANK = re.compile(r"[ \t]*(?:#[^\r\n]*)?(?=\r?\n|\Z)")
_KEY = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=")
# Characters that no person types into a setting on purpose, and that line-based readers split on.
_STRAY = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]|\r(?!\n)")


def _why(line: str) -> str:
    key = _KEY.match(line)
    if not key:
        return "it is not `NAME=value`. Write it so, or put # before it."
    rest = line[key.end() :]
    if _STRAY.search(line):
        return f"there is a control character in it. Type {key[1]} again by hand."
    if "${" in rest:
        return f"${{…}} is replaced by one reader and kept by the other. Give {key[1]} a value without ${{."
    cure = f"Write {key[1]}='…', in single quotes" + (
        ", with a value that has no single quote or backslash in it." if "'" in rest or "\\" in rest else "."
    )
    if "$" in rest:
        return f"$ starts a variable for Compose and nothing for others. {cure}"
    if rest.lstrip(" \t")[:1] in ("'", '"'):
        return f"the quotes do not end, text follows them, or a backslash is in them. {cure}"
    return f"a comment or white space in it is read in two ways. {cure}"


def read_env_file(path: Path) -> dict[str, str]:
    """Return the values of a dotenv file that means the same to Compose and to python-dotenv.

    Raises Refused that names each line on which the two would disagree; no value is shown.
    """
    from io import StringIO  # both are needed only where there is a file

    from dotenv import dotenv_values

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        place, former = quote(str(path)), quote(f"{path}.former")
        mine = f"`chmod u+r {place}` if it is yours, or " if isinstance(error, PermissionError) else ""
        raise Refused(
            f"{path} cannot be read: {error.strerror}.",
            cure=f"Type {mine}`mv {place} {former}`: without it every setting has its default, and `invoke init` writes"
            " a new one.",
        ) from None
    problems = refusals(text)
    if problems:
        lines = "\n".join(f"  {path}, line {number}: {reason}" for number, reason in problems)
        raise Refused(f"{path.name} means different things to Compose and to other programs:\n{lines}")
    return {key: value or "" for key, value in dotenv_values(stream=StringIO(text), interpolate=False).items()}


def refusals(text: str) -> list[tuple[int, str]]:
    """Return (line number, reason and cure) for each line outside the common dialect."""
    found = []
    position, number = 0, 1
    while position < len(text):
        match = _BLANK.match(text, position) or _ASSIGNMENT.match(text, position)
        if match and not _STRAY.search(match[0]):
            end = match.end()
        else:
            end = len(text) if (newline := text.find("\n", position)) < 0 else newline
            found.append((number, _why(text[position:end].rstrip("\r"))))
        end += text.startswith("\r\n", end) + 1
        number += text.count("\n", position, end)
        position = end
    return found


def value_spans(text: str) -> list[tuple[str, int, int]]:
    """Return the name and where the value of each assignment begins and ends, quotes included; of a comment, no name.

    The text must be of the common dialect.
    """
    found = []
    position = 0
    while position < len(text):
        match = _BLANK.match(text, position) or _ASSIGNMENT.match(text, position)
        if match and (key := _KEY.match(match[0])):
            rest = match[0][key.end() :]
            start = key.end() + len(rest) - len(rest.lstrip(" \t"))
            quoted = _QUOTED.match(match[0], start)
            value = quoted[0] if quoted else re.split(r"[ \t]+#", match[0][start:])[0].rstrip()
            found.append((key[1], match.start() + start, match.start() + start + len(value)))
        elif match:
            found.append(("", *match.span()))
        end = match.end() if match else position
        newline = text.find("\n", end)
        position = len(text) if newline < 0 else newline + 1
    return found


def line(name: str, value: str) -> str:
    """Return a line that means the same to every reader. Raises Refused when there is none."""
    if re.fullmatch(r"[\w.:/@%+-]*", value, re.ASCII):
        return f"{name}={value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    for line in (f"{name}='{value}'", f'{name}="{escaped}"'):
        if not refusals(line):
            return line
    raise Refused(f"{name} holds characters that no dotenv line can carry to every reader. Use --format shell or json.")


def assign(text: str, name: str, value: str) -> str:
    """Return a dotenv text in which `name` has the value: its lines are changed, or a commented one is used.

    What stands before the value and a comment behind it stay, and so do line ends.
    """
    spans = value_spans(text)
    commented = re.compile(rf"#[ \t]*{name}=.*")
    changes = [(start, end, value) for key, start, end in spans if key == name] or [
        (start, end, f"{name}={value}") for key, start, end in spans if not key and commented.match(text, start, end)
    ][:1]
    for start, end, new in reversed(changes):
        text = text[:start] + new + text[end:]
    line_end = "\r\n" if "\r\n" in text else "\n"
    return text if changes else f"{text.rstrip()}{line_end}{name}={value}{line_end}".lstrip()
