"""What the command of a run set: of a sweep, whose command all its runs share, this run's own values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any


def given(command: str | None, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings of a command, KEY=VALUE each; a key that it sweeps has the value of the recorded configuration, and
    is left out where that is not recorded, as is a choice of a group's file.
    """
    found = []
    for word in settings_in(command):
        key, _, value = word.partition("=")
        if not _sweeps(word):
            found.append(word)
        elif (own := _recorded(config, key)) is not _MISSING and ("." in key or not isinstance(own, Mapping)):
            found.append(f"{key}={_written(own)}")
    return tuple(found)


@cache
def settings_in(command: str | None) -> tuple[str, ...]:
    """The settings of a command as they stand there; none of one that cannot be read."""
    try:
        found = shlex.split(command or "")
    except ValueError:
        return ()
    return tuple(word.lstrip("+~") for word in found if "=" in word)


@cache
def _sweeps(word: str) -> bool:
    """Whether an override stands for several values."""
    if not any(mark in word for mark in ",("):
        return False
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return bool(OverridesParser.create().parse_override(word).is_sweep_override())
    except HydraException:
        return False


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
