"""Training images of some classes only, for tasks in sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
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


def part_of(split: Any, rows: torch.Tensor) -> Any:
    """Return the rows [M] of a split in memory or of files."""
    if isinstance(split, Split):
        return Split(split.images[rows], split.labels[rows])
    chosen = rows.cpu().tolist()
    depth = None if split.depth is None else [split.depth[i] for i in chosen]
    paths = [split.paths[i] for i in chosen]
    return replace(split, paths=paths, labels=np.asarray(split.labels)[chosen], depth=depth)
