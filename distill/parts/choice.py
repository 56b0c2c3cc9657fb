"""Keys of methods that are one of a few words."""

from __future__ import annotations

from collections.abc import Iterable


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError where method.KEY is none of its words."""
    if value not in (known := tuple(choices)):
        raise ValueError(f"method.{key} is {value!r}: it is one of {', '.join(known)}.")
