"""Training images of some classes only, for tasks in sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from distill.batch import Batch
from distill.data.folder import FolderSplit
from distill.data.info import Split


class ClassSource:
    """The batches of a source of `classes` alone; `index` counts in the whole training set.

    Raises ValueError when no training image is of these classes.
    """

    def __init__(self, source: Any, classes: Sequence[int]) -> None:
        labels = torch.as_tensor(source.split.labels)
        wanted = torch.tensor(list(classes), device=labels.device)
        self.rows = torch.isin(labels, wanted).nonzero().flatten()
        if not len(self.rows):
            raise ValueError(
                f"no training image is of the classes {list(classes)}: see dataset.omit and fraction."
            )
        self.source = source.replace(split=part_of(source.split, self.rows))
        self.steps, self.waits = self.source.steps, getattr(self.source, "waits", None)
        self.rows = self.rows.to(
            self.source.split.device if isinstance(source.split, FolderSplit) else labels.device
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on."""
        for batch in self.source.epoch(epoch, start):
            batch.index = self.rows[batch.index]
            yield batch


class TaskStream:
    """One task an epoch: `steps` whole batches of its classes, shuffled anew whenever they have all been shown.

    tasks: the classes of each epoch (1-based). Short last batches are left out, but for a task that has no other. A
    pure function of (seed, epoch, step), as the source's own batches are.
    """

    def __init__(self, source: Any, tasks: Sequence[Sequence[int]], steps: int) -> None:
        self.parts, self.steps = [ClassSource(source, classes) for classes in tasks], steps
        self.whole = [max(len(part.rows) // source.batch_size, 1) for part in self.parts]
        self.passes = 1 + max(steps // whole for whole in self.whole)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of a task from step `start` on."""
        part, whole, step = self.parts[epoch - 1], self.whole[epoch - 1], start
        while step < self.steps:
            number, first = divmod(step, whole)
            left = min(whole - first, self.steps - step)
            yield from islice(part.epoch((epoch - 1) * self.passes + number + 1, first), left)
            step += left


def part_of(split: Any, rows: torch.Tensor) -> Any:
    """Return the rows [M] of a split in memory or of files."""
    if isinstance(split, Split):
        return Split(split.images[rows], None if split.labels is None else split.labels[rows])
    chosen = rows.cpu().tolist()
    depth = None if split.depth is None else [split.depth[i] for i in chosen]
    paths = [split.paths[i] for i in chosen]
    labels = None if split.labels is None else np.asarray(split.labels)[chosen]
    return replace(split, paths=paths, labels=labels, depth=depth)
