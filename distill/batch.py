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
    labels: Tensor | None  # [B] int64; None: the images have none
    index: Tensor  # [B] int64, positions in the training set
    views: dict[str, Tensor] = field(default_factory=dict)  # other views of the same images, such as "teacher"
    targets: Mixed | None = None  # in place of labels, where inputs are mixed

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.inputs)

    @property
    def classes(self) -> Tensor:
        """The label of each image [B] int64. Raises ValueError where the images have none."""
        if self.labels is None:
            raise ValueError(
                "the method reads labels, and the images have none: name them in about.taps of its YAML, so that "
                "this is said before anything is trained, or leave dataset.labels=null"
            )
        return self.labels

    @property
    def truth(self) -> Tensor:
        """What a cross-entropy is taken with: labels [B], or mixed targets [B,K]. Raises ValueError as `classes`."""
        return self.classes if self.targets is None else self.targets.probabilities

    def only(self, rows: Any) -> Self:
        """The samples that an index of the first dimension, such as a slice or a mask [B], takes out."""
        return changed(self, lambda tensor: tensor[rows] if tensor.dim() else tensor)


@dataclass
class CroppedBatch(Batch):
    """A batch of crops and flips of which there are finitely many, so that what a teacher says of them can be kept."""

    crop: Tensor | None = None  # [B] int64, which of them this is of image `index`


def view_at(size: int) -> str:
    """The view of a batch that shows its images to teachers of images of so many pixels, where there is one."""
    return f"teacher@{size}"


class Source(Protocol):
    """Where batches come from: an epoch is a pure function of (seed, epoch)."""

    steps: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on."""
