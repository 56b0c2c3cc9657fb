"""Batches that workers may begin before they are asked for: an epoch's first while the one before is measured."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from torch.utils.data import DataLoader

Keys = list[list[Any]]  # batches of what names an item


class Passes:
    """Passes over batches by one loader, whose workers stay for the next.

    make: makes a loader of batches, which workers that stay (True) find filled anew for each pass. One that begins
    while another goes on has a loader of its own: workers that stay serve one at a time.
    """

    def __init__(self, make: Callable[[Keys, bool], DataLoader[Any]]) -> None:
        self._make, self._keys, self._busy = make, Keys(), False
        self._loader: DataLoader[Any] | None = None
        self._begun: tuple[Hashable, Iterator[Any]] | None = None

    def begin(self, name: Hashable, keys: Callable[[], Keys]) -> None:
        """Let the workers go to work on a pass, which `batches` will ask for by its name."""
        if not self._busy and (self._begun is None or self._begun[0] != name):
            self._begun = name, self._start(keys())

    def batches(self, name: Hashable, keys: Callable[[], Keys]) -> Iterator[Any]:
        """The batches of a pass: those that were begun by this name, or what `keys` tells."""
        if self._busy:
            return iter(self._make(keys(), False))
        begun, self._begun, self._busy = self._begun, None, True
        return self._until_over(begun[1] if begun and begun[0] == name else self._start(keys()))

    def _start(self, keys: Keys) -> Iterator[Any]:
        self._keys[:] = keys
        self._loader = self._loader or self._make(self._keys, True)
        return iter(self._loader)

    def _until_over(self, loaded: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from loaded
        finally:
            self._busy = False
