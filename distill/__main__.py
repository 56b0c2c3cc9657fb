"""`python -m distill` and the console script: the first word picks a verb; any other command line is a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import distill.terminal as terminal
from distill.end import end
from distill.errors import Stopped
from distill.signals import StopSignals, report_stop


def main(argv: Sequence[str] | None = None) -> int:
    """Do what `argv` (default: the program's own) says, and return the exit code, one of distill.errors."""
    if argv is None:
        terminal.last()
    try:
        with StopSignals(at_once=True):  # what is imported takes long enough to be stopped in it
            return _carried_out(argv)
    except (Stopped, KeyboardInterrupt) as stop:
        return report_stop(stop)


def _carried_out(argv: Sequence[str] | None) -> int:
    from distill.cli import verbs

    words = sys.argv[1:] if argv is None else list(argv)
    if words and (verbs.is_verb(words[0]) or not verbs.is_setting(words[0])):
        return verbs.run(*words)
    from distill.cli.main import main as train  # Hydra, which no verb but search needs

    return train(argv)


def run_and_end() -> NoReturn:
    """The whole program, which ends the process."""
    try:
        code: Any = main()
    except SystemExit as leaving:
        code = leaving.code
        if not isinstance(code, int):  # none, or words to be shown
            raise
    end(code)


if __name__ == "__main__":
    run_and_end()
