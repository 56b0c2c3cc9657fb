"""The order of a command line: flags may stand anywhere between overrides, for argparse they go first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

DRY_RUN = "--dry-run"


def flags_first(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """`argv` with the flags that `parser` knows, and their values, in front of everything else.

    argparse takes positional arguments in one piece and calls those after a flag in the middle unrecognised.
    """
    flags: list[str] = []
    rest: list[str] = []
    left = list(argv)
    while left:
        word = left.pop(0)
        action = parser._option_string_actions.get(word)
        if not word.startswith("-"):
            rest.append(word)
        elif action is None or action.nargs == 0:  # a switch, --flag=value, or nothing that is known
            flags.append(word)
        elif action.nargs == "?" and not (left and left[0] in (action.choices or ())):
            flags += [word, str(action.const)]
        else:
            flags += [word, *left[:1]]
            del left[:1]
    return [*flags, *rest]
