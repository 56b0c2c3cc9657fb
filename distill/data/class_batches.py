"""Batches of so many images of each of so many classes, for methods that contrast classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ClassBatches:
    """Batches of `batch_size` / m different classes with m different images of each, drawn anew for each batch.

    The sampler of MCL (Yang et al., AAAI 2022, dataset/class_sampler.py): an image may come several times in an epoch,
    or not at all. processes: how many take every processes-th image of a batch; each gets whole classes.
    Raises ValueError where the data has no such batch, and where its classes cannot be shared out.
    """

    def __init__(self, labels: Any, batch_size: int, m: int, processes: int = 1) -> None:
        labels = torch.as_tensor(labels)
        self.processes = processes
        self.by_class = labels.argsort(stable=True)
        counts = labels.bincount()
        self.first = (counts.cumsum(0) - counts)[counts >= m]
        self.counts, self.m, self.classes = counts[counts >= m], m, batch_size // m
        if batch_size % m or len(self.counts) < self.classes:
            raise ValueError(
                f"batches of {batch_size} images, {m} of each class, cannot be: {len(self.counts)} classes have "
                f"{m} images; give schedule.batch_size a multiple of {m}, at most {m * len(self.counts)}."
            )

        if self.classes % processes:
            raise ValueError(
                f"batches of {batch_size} images, {m} of each class, cannot be shared by {processes} processes: "
                f"give schedule.batch_size a multiple of {m * processes}."
            )

    def order(self, steps: int, generator: torch.Generator) -> Tensor:
        """Images [steps * batch_size], a batch after the other, a class side by side in what a process gets."""
        chosen = torch.rand(steps, len(self.counts), generator=generator).argsort(1)[:, : self.classes].flatten()
        counts, found = self.counts[chosen], torch.empty(len(chosen), 0, dtype=torch.int64)
        for k in range(self.m):  # the r-th of those that are not drawn yet
            place = (torch.rand(len(chosen), generator=generator, dtype=torch.float64) * (counts - k)).long()
            for earlier in found.sort(1).values.unbind(1):
                place += place >= earlier
            found = torch.cat([found, place[:, None]], dim=1)
        images = self.by_class[self.first[chosen][:, None] + found]
        return images.view(-1, self.processes, self.m).transpose(1, 2).flatten()
