"""Checks of the settings and of what the stack runs on."""

from __future__ import annotations

from stack.doctor.case import Case
from stack.engines.checks import Findings, check, ok, warning
from stack.verbs import init, stacks


@check(elsewhere=True)
def env_file(case: Case) -> Findings:
    """Every setting can be used, and each line of `.env` means the same to all who read it.

    The message shows the line and how to write it. `--fix` writes a `.env` where there is none (`invoke init`).
    """
    chosen = case.settings
    if chosen.env_file.name == ".env":
        yield ok(f"{chosen.env_file} can be used")
    else:
        write = "Type `invoke init` to have them all in a file."
        yield warning(
            "There is no .env, so every setting has its default.", write, lambda: init.init(case.root, isolated=False)
        )


@check(elsewhere=True)
def env_secrets(case: Case) -> Findings:
    """Only you can read `.env`, which may hold passwords.

    `chmod 600 .env`; `--fix` does it.
    """
    file = case.root / ".env"
    if not file.is_file():
        return
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        message = f"{file} can be read by other users of this machine (mode {mode:o}), and it may hold passwords."
        yield warning(message, f"Type `chmod 600 '{file}'`.", lambda: file.chmod(0o600))
    else:
        yield ok("nobody else can read .env")


@check("platform", elsewhere=True)
def address(case: Case) -> Findings:
    """The Compose files and layers can be read, and the database has an address on this machine.

    The message quotes Compose; mend the file that it names.
    """
    yield ok(case.endpoint.url() if case.endpoint else "the chosen layers have no database")


@check("env file", "platform", elsewhere=True)
def other_stacks(case: Case) -> Findings:
    """No stack of this machine has lost its checkout: it would go on without, also after a boot. Never a warning.

    `invoke stacks --prune` ends what is left of it, after asking.
    """
    told = stacks.orphans(stacks.found(case.root))
    yield ok(" ".join(told) if told else "every stack of this machine has its checkout")
