"""What psql's lexer looks for, as regular expressions that go from one byte of interest to the next."""

from __future__ import annotations

import re

# Strings as they are while standard_conforming_strings is on.
_STRING = rb"""(?<![eE])'[^']*'|(?<=[eE])(?<![A-Za-z0-9_$\x80-\xff][eE])'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'"""
_SIGNS = rb"""|"[^"]*"|-(?=[^-])|/(?=[^*])"""
# Statements of which nothing is to be known, one behind the other; what is rare in them is left to the slow way.
_BODY = rb"""[^'"\\$;/:-]*(?:(?:""" + _STRING + _SIGNS + rb"""|::)[^'"\\$;/:-]*)*;"""
PLAIN_STATEMENTS = re.compile(rb"(?:\s*(?:--[^\n]*\n\s*)*(?i:INSERT\s|UPDATE\s|DELETE\s)" + _BODY + rb")+", re.DOTALL)
_RUN = rb"""[^'"\\$();/-]*"""
_ROW = rb"|\(" + _RUN + rb"(?:(?:" + _STRING + _SIGNS + rb")" + _RUN + rb")*\)"
QUIET = re.compile(_RUN + rb"(?:(?:" + _STRING + _SIGNS + _ROW + rb")" + _RUN + rb")*", re.DOTALL)
TOKEN = re.compile(rb"""--|/\*|['"$\\();]""")
DOLLAR = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$")
WORD = re.compile(rb"[A-Za-z0-9_$\x80-\xff]")
ESCAPES = re.compile(rb"(?<![A-Za-z0-9_$\x80-\xff])[eE]\Z")
ESCAPED = re.compile(rb"[^'\\]*(?:(?:\\.|'')[^'\\]*)*", re.DOTALL)
COMMENT = re.compile(rb"/\*|\*/")
NOTHING = re.compile(rb"[ \t\r\f\v]*(?:--[^\n]*)?\n?")
NAME = re.compile(rb"\\([^\s\\]*)")
WHOLE_LINE = {b"copy", b"!", b"ef", b"ev", b"sf", b"sf+", b"sv", b"sv+", b"h", b"help"}
PIPE = re.compile(rb"\\(?:g|gx|o|out|w|write)[ \t]*(?:\([^)\n]*\)[ \t]*)?\|")
ARGUMENT = re.compile(rb"""'(?:[^'\\\n]|\\[^\n])*'?|"[^"\n]*"?|`[^`\n]*`?|[^'"`\\]+""")
MARKER = re.compile(rb"\\\.\r?\n")
OPEN = {b"": "", b"--": "", b"'": "a string", b"E": "a string", b'"': "a quoted name", b"/*": "a comment"}
"""What may be open at the end of a script; all others are dollar-quoted strings."""
