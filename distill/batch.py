"""One step's worth of data, and where it comes from.

Shape letters: B batch, K classes, C channels, H W map size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor


@dataclass
class Batch:
    """One step's worth of data, on the device."""

    images: Tensor  # [B,C,H,W] normalised, channels_last
    labels: Tensor  # [B] int64
    index: Tensor  # [B] int64, positions in the training set
    views: dict[str, Tensor] = field(default_factory=dict)  # other views of the same images, such as "teacher"
    targets: Tensor | None = None  # [B,K] labels as probabilities, where images are mixed
    others: Tensor | None = None  # [B] int64, of mixed images the label with the smaller share; `labels` has the larger
    share: Tensor | None = None  # [], of mixed images the part that shows `labels`
    view: Tensor | None = None  # [B] int64, which of the finitely many crops and flips of image `index` this is
    epoch: int = 1  # 1-based
    step: int = 0  # 0-based, in the epoch
    weight: float = 1.0  # its share of the whole batch, where several processes take a part each
    held: bool = False  # whether its tensors lie where those of every batch of its shape do (graphs)
    logits: Tensor | None = None  # [B,K] the student's, left here by Method.loss for the running accuracy

    @property
    def truth(self) -> Tensor:
        """What a cross-entropy is taken with: labels [B], or mixed targets [B,K]."""
        return self.labels if self.targets is None else self.targets

    def only(self, rows: Any) -> Batch:
        """The samples that an index of the first dimension, such as a slice or a mask [B], takes out."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            index=self.index[rows],
            views={name: view[rows] for name, view in self.views.items()},
            targets=None if self.targets is None else self.targets[rows],
            others=None if self.others is None else self.others[rows],
            view=None if self.view is None else self.view[rows],
        )


class Source(Protocol):
    """Where batches come from: an epoch is a pure function of (seed, epoch)."""

    steps: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on."""
