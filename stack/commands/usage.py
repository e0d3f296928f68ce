"""What is typed and cannot be done: the nearest that can be, and options of invoke's own that nothing here heeds."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from itertools import pairwise

from invoke.completion.complete import print_completion_script
from invoke.exceptions import Exit
from invoke.parser import ParserContext
from invoke.program import Program

from stack.ground.errors import Refused

WORDS = ("service", "file", "name")
"""The options whose value may stand without the option."""
ELSEWHERE = {"start": "up", "stop": "down", "ps": "status", "sql": "psql", "backup": "dump", "clean": "reset-data"}
"""What other programs call our commands."""
READS = {"status", "logs", "env", "snapshots", "diff", "forks", "stacks", "doctor", "admin-key"}
"""The commands that change nothing, so that they run under --dry too."""
INSTEAD = {"fix": "what --fix would mend", "write": "what --write would write", "prune": "what --prune would end"}
"""The options with which one of those changes something, and what it shows without."""
ENDS = {"psql", "logs", "guard"}
"""The commands in whose place another program may run, so that nothing runs after them."""
FORMATS = ("flat", "nested", "json")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a sentence that names what was probably meant; empty when nothing is like it."""
    from difflib import get_close_matches

    found = [ELSEWHERE[word]] if word in ELSEWHERE else get_close_matches(word, [*known], n=1)
    return f" Did you mean `{found[0]}`?" if found else ""


def refuse_valued_switches(words: Sequence[str], contexts: Iterable[ParserContext]) -> None:
    """Refuse `--keep=no`: invoke sets the switch, and takes the value for a word of its own."""
    values, switches = set[str](), set[str]()
    for context in contexts:
        for argument in context.args.values():
            names = (f"{'-' * min(len(name), 2)}{name.replace('_', '-')}" for name in argument.names)
            (values if argument.takes_value else switches).update(names)
        switches.update(context.inverse_flags)
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        if equals and name in switches - values and before not in values:
            raise Refused(
                f"{name} is a switch and takes no value, but {value!r} is given. Nothing was done. Type {name} alone,"
                " or leave it out."
            )


def refuse_unheard(tasks: Sequence[str], after: Sequence[str]) -> None:
    """Refuse what no command would hear of: words after `--` of all but two, commands after one that ends with psql.

    `restore -- NAME` would restore another snapshot than that.
    """
    if after and tasks[-1:] not in (["psql"], ["guard"]):
        raise Refused(
            f"What follows -- reaches no command: {shlex.join(after)}. Nothing was done. Type it without --; a name"
            " that begins with - as in --name=-x, a file as in ./-x."
        )
    for each, follows in pairwise(tasks):
        if each in ENDS:
            raise Refused(
                f"`{follows}` would never run: `invoke {each}` ends with what it shows. Nothing was done. Type"
                f" `invoke {follows}` by itself."
            )


def check_questions(program: Program) -> None:
    """Answer those questions to invoke itself that it hears only before a command; refuse those it trips over."""
    late = program.core_via_tasks.args
    if late.version.value:
        program.print_version()
        raise Exit
    if shell := late["print-completion-script"].value:
        print_completion_script(shell=shell, names=program.binary_names)
        raise Exit
    listed, depth, form = (program.args[name].value for name in ("list", "list-depth", "list-format"))
    if isinstance(listed, str):
        raise Refused(f"There is no group of commands {listed!r}. Type `invoke` for all commands, in groups.")
    if form not in FORMATS or (depth and form == "json"):
        why = "has no --list-depth" if form == "json" else "is no format"
        raise Refused(
            f"--list-format {form} {why}.{nearest(form, FORMATS) * (form != 'json')} Type `invoke --list`, or `invoke"
            " --list --list-format json` for programs."
        )
    asked = program.args.help.value
    if isinstance(asked, str) and asked not in program.parser.contexts:
        raise Refused(
            f"There is no command {asked!r}.{nearest(asked, program.parser.contexts)} Type `invoke --list` for all."
        )


def check_flags(program: Program) -> None:
    """Refuse the options of invoke's own that would be heeded by nothing, and on which somebody may rely."""
    late, given = program.core_via_tasks.args, program.args
    for name in ("collection", "search-root"):
        if late[name].value is not None:
            raise Refused(
                f"--{name} says where the commands are, so it stands before them: `invoke --{name} …`. Nothing was"
                " done. Leave it out for the commands of this checkout."
            )
    if given["command-timeout"].value is not None:
        raise Refused(
            "-T (--command-timeout) is invoke's own and ends none of these commands. Nothing was done. Type --timeout"
            " after up, restart or wait-healthy, or `timeout SECONDS invoke …` for any."
        )
    if given["prompt-for-sudo-password"].value:
        raise Refused(
            "--prompt-for-sudo-password is invoke's own: nothing here uses sudo, so no password is wanted. Nothing was"
            " done. Leave it out."
        )
    if given.config.value is not None:
        raise Refused(
            f"--config (-f before a command, or after one without a --file) is invoke's own, and {given.config.value}"
            " would not be heeded. Nothing was done. Leave it out: settings stand in `.env`; a file of SQL is `invoke"
            " psql -f FILE`, a Compose file is a layer: `invoke up --layers dev,NAME`."
        )


def check_values(tasks: Sequence[ParserContext]) -> None:
    """Refuse a number of seconds that is none."""
    for task in tasks:
        timeout = task.args.get("timeout")
        if timeout and timeout.value is not None and timeout.value < 0:
            raise Refused(f"--timeout {timeout.value} is no number of seconds. Type `invoke --help {task.name}`.")


def heed_dry(program: Program) -> None:
    """See to it that nothing changes under --dry: what can only show what it would do does so, the rest is refused.

    It may be set by a variable or a file of invoke's own too.
    """
    # invoke itself reads its variables later.
    if not program.config.run.dry and os.environ.get("INVOKE_RUN_DRY", "") in ("", "0"):
        return
    for task in program.tasks:
        changes = next((name for name in INSTEAD if name in task.args and task.args[name].value), "")
        if "dry-run" in task.args:
            task.args["dry-run"].value = True
        elif task.name not in READS or changes:
            raise _no_rehearsal(program, task.name or "", changes)


def _no_rehearsal(program: Program, name: str, option: str) -> Refused:
    what = (program.collection[name].__doc__ or "").splitlines()[0]
    said = "--dry" if program.args.dry.value else "run.dry, which INVOKE_RUN_DRY or a file of invoke's own has set,"
    if option:
        return Refused(f"Under {said} nothing was done. Type `invoke {name}`, which shows {INSTEAD[option]}.")
    return Refused(
        f"`invoke {name}` would do this: {what} It cannot only show it, and under {said} nothing is to change, so"
        f" nothing was done. To have it done, {'leave out --dry' if program.args.dry.value else 'unset that'}; `invoke"
        " status` and `invoke snapshots` show what is there."
    )
