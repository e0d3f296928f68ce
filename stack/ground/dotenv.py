"""The dialect of `.env` on which Compose and python-dotenv agree.

They read it differently. Only lines that mean the same to both are accepted, so a password is never one thing to the
server and another to its clients.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from stack.ground.errors import Refused

if TYPE_CHECKING:
    from dotenv.parser import Binding

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
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|["](?:[^"\\]|\\.)*["]""", re.DOTALL)
_BLANK = re.compile(r"[ \t]*(?:#[^\r\n]*)?(?=\r?\n|\Z)")
_KEY = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=")
# The beginning of an assignment as python-dotenv alone takes it: the sign and white space behind it.
_ANY_KEY = re.compile(r"\s*(?:export[^\S\r\n]+)?(?:'[^']+'|[^=#\s]+)[^\S\r\n]*(=[^\S\r\n]*)?")
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

    What stands before the value and a comment behind it stay, and so do line ends. A comment that touched the quotes
    of the former value is moved off, or it would be part of the new one.
    """
    spans = value_spans(text)
    commented = re.compile(rf"#[ \t]*{name}=.*")
    changes = [(start, end, value) for key, start, end in spans if key == name] or [
        (start, end, f"{name}={value}") for key, start, end in spans if not key and commented.match(text, start, end)
    ][:1]
    for start, end, new in reversed(changes):
        text = text[:start] + new + " " * text.startswith("#", end) + text[end:]
    line_end = "\r\n" if "\r\n" in text else "\n"
    return text if changes else f"{text.rstrip()}{line_end}{name}={value}{line_end}".lstrip()


def bindings(text: str) -> list[Binding]:
    """Return what python-dotenv reads in a file of any dialect, piece by piece; the pieces are the whole text."""
    from io import StringIO

    from dotenv.parser import parse_stream

    return list(parse_stream(StringIO(text)))


def amend(text: str, values: Mapping[str, str], file: str) -> str:
    """Return the text of another program's `file` in which the names have the values; the rest stays, to the byte.

    It may be of any dialect. Each line of a name is changed that does not have the value yet, in a way that every
    reader understands; a name that is not there comes last. Raises Refused when another value would change with it.
    """
    there = bindings(text)
    pieces = ["\ufeff" * text.startswith("\ufeff")]
    for each in there:
        value = values.get(each.key or "")
        if value is not None and (each.value != value or refusals(each.original.string)):
            pieces.append(_with_value(each, value))
        else:
            pieces.append(each.original.string)
    new = "".join(pieces)
    line_end = "\r\n" if "\r\n" in text else "\n"
    added = [line(name, value) + line_end for name, value in values.items() if name not in {each.key for each in there}]
    if added and there and not new.endswith(("\n", "\r")):
        new += line_end
    new += "".join(added)
    if (
        _others(new, values) != _others(text, values)
        or not values.items() <= {each.key: each.value for each in bindings(new)}.items()
    ):
        lines = ", ".join(f"line {line_of(each)}" for each in there if each.error)
        raise Refused(
            f"{file} has a quote that does not end ({lines}), so what comes after it would be taken for a part of that"
            " value. Nothing was written. Mend that line, then type the command again."
        )
    return new


def line_of(binding: Binding) -> int:
    """Return the number of the line on which an assignment begins."""
    string = binding.original.string
    return binding.original.line + string[: len(string) - len(string.lstrip())].count("\n")


def _others(text: str, values: Mapping[str, str]) -> list[tuple[str | None, str | None]]:
    return [(each.key, each.value) for each in bindings(text) if each.error or (each.key and each.key not in values)]


def _with_value(binding: Binding, value: str) -> str:
    """Return an assignment with another value; what stands before it and a comment behind it stay."""
    string, new = binding.original.string, line(binding.key or "", value).partition("=")[2]
    head = _ANY_KEY.match(string)
    assert head, string  # python-dotenv has found a key there
    rest = string[head.end() :]
    if quoted := _QUOTED.match(rest):
        former = quoted[0]
    elif not head[1] or (head[1] != "=" and rest.startswith("#")):
        former = ""
    else:
        former = re.sub(r"\s+#.*", "", rest.splitlines()[0] if rest else "").rstrip()
    tail = rest[len(former) :]
    return f"{head[0]}{'' if head[1] else '='}{new}{' ' * tail.startswith('#')}{tail}"
