"""Every check in its order, what --fix mends, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stack.doctor import on_checkout, on_data, on_database, on_services
from stack.doctor.case import Case
from stack.engines.checks import Check, Finding, checks_in, failed, in_order, skipped
from stack.engines.docker.checks import Health
from stack.ground import lock
from stack.ground.errors import StackError, printable
from stack.ground.talk import draw, give, say
from stack.server.session import LoginFailed

ROUNDS = 3
"""How often `--fix` looks again: behind a wrong password there may be a missing database."""


def doctor(root: Path, *, fix: bool, as_json: bool) -> int:
    """Print what every check finds, mend what can be mended safely if `fix`, and return 1 if any check failed."""
    case, findings = _examine(root)
    tried: set[str] = set()
    for _ in range(ROUNDS if fix else 0):
        todo = {finding.message for finding in findings if finding.fix}
        if not todo - tried:
            break
        tried |= todo
        before = {finding.check for finding in findings if not finding.well} | {f.check for f in findings if f.fixed}
        _mend(root, findings)
        case, after = _examine(root)
        findings = [replace(each, fixed=each.state == "ok" and each.check in before) for each in after]
    if as_json:
        give(json.dumps({"engine": _engine_name(case), "findings": [_row(each) for each in findings]}, indent=2))
    else:
        _print(findings)
    return int(any(finding.state == "failed" for finding in findings))


def _examine(root: Path) -> tuple[Case, list[Finding]]:
    case, findings = Case(root), list[Finding]()
    for each in every(case):
        findings += [replace(finding, check=each.name) for finding in _run(each, findings)]
    return case, findings


ROOMS = (on_checkout, on_data, on_services, on_database)


def every(case: Case) -> list[Check]:
    """Return every check of a checkout, those of its engine among them, in their order."""
    try:
        its, ours = case.engine.checks(), case.ours
    except StackError:  # which the first check says
        its, ours = [], True
    others = (each for room in ROOMS[1:] for each in checks_in(room, case))
    found = [*checks_in(on_checkout, case), *its, *others]
    return in_order([each for each in found if ours or each.elsewhere])


def told() -> list[Check]:
    """Return every check that the README tells of; those of Docker stand for what other engines have as well."""
    others = (each for room in ROOMS[1:] for each in checks_in(room))
    return in_order([*checks_in(on_checkout), *checks_in(Health), *others])


def _run(each: Check, before: list[Finding]) -> list[Finding]:
    for other in before:
        if other.check in each.needs and other.state in ("failed", "skipped"):
            return [skipped(f"{other.check!r} failed" if other.state == "failed" else other.message)]
    try:
        return list(each.look())
    except StackError as error:
        return [failed(error.what, error.cure)]
    except (LoginFailed, OSError) as error:
        return [failed(f"This could not be looked at: {error}", "Type `invoke status`.")]


def _mend(root: Path, findings: list[Finding]) -> None:
    try:
        with lock.exclusive(root):
            for finding in findings:
                if finding.fix:
                    _try(finding.fix)
    except StackError as error:
        say(str(error))


def _try(fix: Callable[[], object]) -> None:
    try:
        fix()
    except (StackError, OSError) as error:
        say(f"This could not be mended: {error}")


def _engine_name(case: Case) -> str:
    try:
        return case.engine.name
    except StackError:
        return ""


def _row(finding: Finding) -> dict[str, Any]:
    names = ("check", "state", "message", "cure", "fixed")
    return {name: _line(value) if isinstance(value := getattr(finding, name), str) else value for name in names}


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    colours = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
    lines = []
    for each in findings:
        state = "fixed" if each.fixed else each.state
        stop = "." if each.cure and each.message.rstrip()[-1:].isalnum() else ""
        line = Text(f"{state:8} {each.check:17} {_line(f'{each.message.rstrip()}{stop} {each.cure}')}")
        line.stylize(colours[each.state], 0, 8)
        lines.append(line)
    draw(*lines, plain_width=100_000, soft_wrap=True)


def table() -> str:
    """Return the README's table of all checks."""
    rows = (f"| {each.name} | {each.texts[0]} | {each.texts[1]} |" for each in told())
    return "\n".join(("| check | what it wants to see | if not |", "|---|---|---|", *rows))
