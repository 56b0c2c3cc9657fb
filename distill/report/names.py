"""What configurations are called, shortly and so that no two of a list share a name."""

from __future__ import annotations

from collections.abc import Sequence

from distill.report.summary import ALONE, Row, settings

STUDENT_ALONE = "student alone"
_WEIGHTS = ("kd", "ce", "weight")


def row_names(rows: Sequence[Row]) -> dict[int, str]:
    """A name for each row (by id): its method, and what tells it from others of that method.

    That is what their commands set otherwise, else their loss weights, else their hash.
    """
    found = {}
    for row in rows:
        alike = [one for one in rows if one.one.method == row.one.method]
        differences = _differences(row, alike)
        called = STUDENT_ALONE if row.one.method == ALONE else row.one.method
        found[id(row)] = f"{called} ({', '.join(differences)})" if differences else called
    return found


def _differences(row: Row, alike: Sequence[Row]) -> list[str]:
    if len(alike) == 1:
        return []
    commands = {id(one): settings(one) for one in alike}
    if len({frozenset(words) for words in commands.values()}) == len(alike):
        shared = set.intersection(*map(set, commands.values()))
        own = [word for word in commands[id(row)] if word not in shared]
        return [word.removeprefix("method.") for word in own] or ["as in its YAML"]
    differ = [key for key in _WEIGHTS if len({getattr(one.one, key) for one in alike}) > 1]
    differences = [f"{key} {getattr(row.one, key):g}" for key in differ if getattr(row.one, key) is not None]
    same = [one for one in alike if all(getattr(one.one, key) == getattr(row.one, key) for key in differ)]
    return differences + ([row.one.hash[:6]] if len(same) > 1 else [])
