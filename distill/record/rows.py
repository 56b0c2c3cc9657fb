"""A row of metrics.jsonl as loggers show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flatten_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a/b": 1}, without nulls and the kind; numbers of a step's row are named step/*."""
    prefix = "step/" if row.get("kind") == "step" else ""
    return {
        name if name in ("phase", "epoch", "step") else prefix + name: value
        for name, value in _leaves(row)
        if value is not None and name != "kind"
    }


def _leaves(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{below}", leaf) for below, leaf in _leaves(value))
        else:
            yield name, value
