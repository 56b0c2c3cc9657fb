"""Image files that are decoded once for all the loops that come to them one after the other, as packed runs do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from distill.batch import Batch
from distill.data.folder import FolderSource

FOLLOWED = 1000  # requests after which a reader that nobody came to is given up


@dataclass
class _Reader:
    """A pass over an epoch: the batch that it read last, at (epoch, step)."""

    batches: Iterator[Batch]
    at: tuple[int, int]
    batch: Batch
    asked: int


class SharedFolder(FolderSource):
    """As `arrays.SharedSource`, of image files. Loops that are not in step read for themselves.

    prepare: what is done to a batch before the first of them gets it; anew where another was prepared since.
    """

    def __init__(self, *args: Any, prepare: Callable[[Batch], Batch] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._prepare = prepare
        self._prepared: tuple[Batch, Batch] | None = None  # the last one, as it was read and as it is given
        self._readers: list[_Reader] = []
        self._asked = 0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on; loops in step get the same tensors."""
        for step in range(start, self.steps):
            batch = self._shared(epoch, step)
            yield replace(batch, views=dict(batch.views))

    def _shared(self, epoch: int, step: int) -> Batch:
        self._asked += 1
        self._readers = [one for one in self._readers if self._asked - one.asked < FOLLOWED]
        reader = next((one for one in self._readers if one.at == (epoch, step)), None) or self._read(epoch, step)
        reader.asked = self._asked
        if not self._prepare:
            return reader.batch
        if self._prepared is None or self._prepared[0] is not reader.batch:
            self._prepared = reader.batch, self._prepare(reader.batch)
        return self._prepared[1]

    def _read(self, epoch: int, step: int) -> _Reader:
        """The reader that comes to this step, with its batch."""
        reader = next((one for one in self._readers if one.at == (epoch, step - 1)), None)
        batches = reader.batches if reader else super().epoch(epoch, step)
        batch = next(batches)
        if step == self.steps - 1:
            next(batches, None)  # its workers are free
        if reader is None:
            reader = next((one for one in self._readers if one.at == (epoch - 1, self.steps - 1)), None)
        if reader is None:
            reader = _Reader(batches, (epoch, step), batch, self._asked)
            self._readers.append(reader)
        reader.batches, reader.at, reader.batch = batches, (epoch, step), batch
        return reader
