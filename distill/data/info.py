"""What a data set is: its description, and images that lie on the device."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class DataInfo:
    """What methods may know about the data; `labels` are those of the training images that are kept.

    Of images without labels `labels` is None, num_classes 0 and class_names empty.
    """

    name: str
    num_classes: int
    num_train: int
    in_chans: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: Tensor | None = field(compare=False, repr=False)  # [N] int64, on the CPU
    class_names: list[str] = field(repr=False)
    view: str | None = None  # of dataset.views; in_chans, mean and std are the view's
    teacher: DataInfo | None = field(default=None, compare=False, repr=False)  # where views are given
    content: str = ""  # what its files hold, where that is not what the name says
    evaluated_on: str = "test"  # or "holdout": a part of the training images, the test set being left alone
    border: int = 0  # pixels of zeros around images as they are stored, which bring them to `size`

    @property
    def classes(self) -> Tensor:
        """The label of each training image [N] int64. Raises ValueError where they have none."""
        if self.labels is None:
            raise ValueError(f"{self.name} is used without labels (dataset.labels=false), and the method reads them")
        return self.labels

    @property
    def for_teacher(self) -> DataInfo:
        """The data as teachers see it."""
        return self.teacher or self


@dataclass
class Split:
    """Images uint8 [N,H,W,C] and labels int64 [N], if they have any, both on the device."""

    images: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.images)
