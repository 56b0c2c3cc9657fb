"""What the command of a run set: of a sweep, whose command all its runs share, this run's own values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

OF_A_RUN = ("schedule.", "dataset.", "method.", "student.", "teacher.", "precision=")  # what is recorded of each run


def given(command: str | None, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings of a command, KEY=VALUE each, that are this run's.

    A key that the command sweeps has the value of the recorded configuration. What that has otherwise, or not at all,
    is of another run of the command, as of the student whose teacher this one is, and is left out.
    """
    own = (_own(word, config) for word in settings_in(command))
    return tuple(word for word in own if word is not None)


def _own(word: str, config: Mapping[str, Any]) -> str | None:
    key, _, _ = word.partition("=")
    if not config or not word.startswith(OF_A_RUN):
        return word
    recorded, (sweeps, value) = _recorded(config, key), _parsed(word)
    if recorded is _MISSING:
        return None
    if sweeps:
        return f"{key}={_written(recorded)}"
    return None if _differ(value, recorded) else word


@cache
def settings_in(command: str | None) -> tuple[str, ...]:
    """The settings of a command as they stand there; none of one that cannot be read."""
    try:
        found = shlex.split(command or "")
    except ValueError:
        return ()
    return tuple(word.lstrip("+~") for word in found if "=" in word)


@cache
def _parsed(word: str) -> tuple[bool, Any]:
    """Whether an override stands for several values, and its value where it is one that can be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        found = OverridesParser.create().parse_override(word)
        return found.is_sweep_override(), None if found.is_sweep_override() else found.value()
    except HydraException:
        return False, None


def _differ(given: Any, recorded: Any) -> bool:
    """Whether two values of one kind are not the same; those of two kinds may be one, written in two ways."""
    if isinstance(given, list) and isinstance(recorded, list):
        pairs = zip(given, recorded, strict=False)
        return len(given) != len(recorded) or any(_differ(*pair) for pair in pairs)
    numbers = all(isinstance(one, int | float) for one in (given, recorded))
    return (numbers or isinstance(given, str) and isinstance(recorded, str)) and given != recorded


_MISSING = object()


def _recorded(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return found


def _written(value: Any) -> str:
    """A value as a command has it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
