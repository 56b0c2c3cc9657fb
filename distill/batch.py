"""One step's worth of data, and where it comes from.

Shape letters: B batch, K classes, C channels, H W map size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, Self

from torch import Tensor


def changed(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a dataclass, or a mapping, with `change` done to every tensor that it holds; None stays."""
    if record is None:
        return None
    if isinstance(record, dict):
        return {name: change(tensor) for name, tensor in record.items()}
    if isinstance(record, Tensor):
        return change(record)
    return replace(record, **{each.name: changed(getattr(record, each.name), change) for each in fields(record)})


@dataclass
class Mixed:
    """Labels of inputs that are mixed in pairs, each of its own label's and of another's."""

    probabilities: Tensor  # [B,K]
    others: Tensor  # [B] int64, the label with the smaller share; Batch.labels has the larger
    share: Tensor  # [], the part that shows Batch.labels


@dataclass
class Batch:
    """One step's worth of data, on the device."""

    inputs: Tensor  # [B,C,H,W] normalised, channels_last
    labels: Tensor  # [B] int64
    index: Tensor  # [B] int64, positions in the training set
    views: dict[str, Tensor] = field(default_factory=dict)  # other views of the same images, such as "teacher"
    targets: Mixed | None = None  # in place of labels, where inputs are mixed

    @property
    def truth(self) -> Tensor:
        """What a cross-entropy is taken with: labels [B], or mixed targets [B,K]."""
        return self.labels if self.targets is None else self.targets.probabilities

    def only(self, rows: Any) -> Self:
        """The samples that an index of the first dimension, such as a slice or a mask [B], takes out."""
        return changed(self, lambda tensor: tensor[rows] if tensor.dim() else tensor)


@dataclass
class CroppedBatch(Batch):
    """A batch of crops and flips of which there are finitely many, so that what a teacher says of them can be kept."""

    crop: Tensor | None = None  # [B] int64, which of them this is of image `index`


class Source(Protocol):
    """Where batches come from: an epoch is a pure function of (seed, epoch)."""

    steps: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on."""
