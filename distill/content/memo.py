"""A folder of a million images is listed, and its index read, once a command, and not by each of those who ask."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")


class _Memory:
    held: dict[Hashable, Any] | None = None  # None: nothing is kept, each question is answered anew


@contextmanager
def files_unchanged(*, fresh: bool = False) -> Iterator[None]:
    """A block in which files are taken for what they were when they were first asked about: the start of a run.

    fresh: in a block around it, forget what that knows, as the next run of a sweep has to.
    """
    before = _Memory.held
    _Memory.held = {} if fresh or before is None else before
    try:
        yield
    finally:
        _Memory.held = before


def memoised(key: Hashable, make: Callable[[], _T]) -> _T:
    """What `make()` gives, or gave for an equal key within this block. Raises what it raises."""
    return kept_in(_Memory.held, key, make)


def kept_in(held: dict[Any, Any] | None, key: Hashable, make: Callable[[], _T]) -> _T:
    """What is held under a key, made where it is not yet; with nothing to hold it in, what `make()` gives each time."""
    if held is None:
        return make()
    if key not in held:
        held[key] = make()
    found: _T = held[key]
    return found
