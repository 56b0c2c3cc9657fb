"""Batches without images: noise for generators, and draws from images that a method has made itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from distill.batch import Batch
from distill.data.arrays import seeded
from distill.data.order import cut_up, part_of_epoch
from distill.runtime import sent

_STREAM = 0xD5  # tells these generators' keys from those of the sources that read images


class NoiseSource:
    """Latent noise in place of images, and labels drawn at random: a pure function of (seed, epoch, step).

    images [B,Z] are standard normal ([B,0] for latent=0), labels [B] uniform over the classes, index [B]
    counts from 0. No training image is needed or known here.
    """

    def __init__(
        self, *, latent: int, num_classes: int, batch_size: int, steps: int, seed: int, device: torch.device
    ) -> None:
        self.latent, self.num_classes, self.batch_size = latent, num_classes, batch_size
        self.steps, self.seed, self.device = steps, seed, device

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on."""
        for step in range(start, self.steps):
            generator = seeded(self.seed, epoch, step, _STREAM)
            noise = torch.randn(self.batch_size, self.latent, generator=generator)
            labels = torch.randint(self.num_classes, (self.batch_size,), generator=generator)
            yield Batch(
                inputs=sent(noise, self.device),
                labels=sent(labels, self.device),
                index=torch.arange(self.batch_size, device=self.device),
            )


class SyntheticSource:
    """Batches of images that were synthesised: `images()` gives [M,C,H,W], `labels()` [M], when an epoch
    starts.

    The order is a pure function of (seed, epoch); the last batch may be smaller, or larger by one image.
    """

    def __init__(
        self, images: Callable[[], Tensor], labels: Callable[[], Tensor], *, batch_size: int, seed: int
    ) -> None:
        self.images, self.labels, self.batch_size, self.seed = images, labels, batch_size, seed
        self.steps, self.end = cut_up(len(labels()), batch_size, "auto")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on."""
        images, labels = self.images(), self.labels()
        order = torch.randperm(len(labels), generator=seeded(self.seed, epoch, _STREAM)).to(labels.device)
        for step in range(start, self.steps):
            rows = order[part_of_epoch(self, step)]
            chosen = images[rows].contiguous(memory_format=torch.channels_last)
            yield Batch(inputs=chosen, labels=labels[rows], index=rows)
