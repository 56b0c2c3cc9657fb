"""A data set in memory or in files: its splits, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.config import DataSpec, did_you_mean
from distill.content.readers import READERS
from distill.data.arrays import ArraySource, evaluation_batches, places
from distill.data.augment import Augment
from distill.data.info import DataInfo, Split
from distill.data.modality import View, Views

Adapt = Callable[[int, int], dict[str, Any]]
"""What a recipe makes of dataset's keys, given height and width of the images as they are stored (hyperrule)."""


@dataclass
class Data:
    """A data set on the device. `test` is what is evaluated: with dataset.holdout, the held-out part.

    withheld: labels [N] of training images that training is not to read (dataset.labels=false), for evaluation.
    """

    info: DataInfo
    train: Split
    test: Split | None
    pad: int = 4
    flip: bool = True
    views: Views | None = None
    pad_mode: str = "zeros"
    augment: Augment | None = None
    erasing: float = 0.0  # the probability that a box of an image is overwritten by noise
    resize: int = 0  # pixels that training images are brought to, of which crops of info.size are drawn; 0: as they are
    withheld: Tensor | None = None

    @property
    def view_count(self) -> int | None:
        """How many crops and flips of an image there are, which Batch.view numbers; None for views without number."""
        if self.augment or self.erasing:
            return None
        return 2 * places(self.resize or self.info.size, self.pad, self.info.size) ** 2

    def source(self, batch_size: int, seed: int, **options: Any) -> ArraySource:
        """Augmented training batches; options are those of ArraySource."""
        return ArraySource(
            self.train,
            self.info,
            batch_size=batch_size,
            seed=seed,
            **{
                "pad": self.pad,
                "pad_mode": self.pad_mode,
                "flip": self.flip,
                "resize": self.resize,
                "augment": self.augment,
                "erasing": self.erasing,
                "views": self.views,
                **options,
            },
        )

    def evaluation(
        self, batch_size: int, side: str = "student", size: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(normalised images [B,C,H,W], labels [B]) of all that is evaluated, as one side sees it.

        size: pixels that a net takes, for images that are read at any. Raises ValueError where no image has a label.
        """
        return self.plainly(self.evaluated, batch_size, side, size)

    def begin_evaluation(self, batch_size: int) -> None:
        """Let workers go to work on what `evaluation` will be asked for next: of what lies in memory, nothing."""

    @property
    def evaluated(self) -> Any:
        """The split that is evaluated. Raises ValueError where no image has a label."""
        if self.test is None:
            raise ValueError(f"no image of {self.info.name} has a label: there is nothing to evaluate on")
        return self.test

    @property
    def references(self) -> Any:
        """The training images with their labels, those that training does not read too; None where they have none."""
        if self.withheld is None:
            return None if self.train.labels is None else self.train
        return replace(self.train, labels=self.withheld)

    def plainly(
        self, split: Any, batch_size: int, side: str = "student", size: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(normalised images [B,C,H,W], labels [B]) of a split, not augmented, as one side sees it; `size` is for
        images of files alone: what lies in memory keeps its own, and nets bring it to theirs.
        """
        return evaluation_batches(split, self.info, batch_size, self.view(side))

    def at_sizes(self, source: Any, sizes: Iterable[int]) -> Any:
        """The source with views of its images at other sizes (`view_at`), where they are read at any: what lies in
        memory has one size, which nets bring to theirs.
        """
        return source

    def view(self, side: str) -> View | None:
        """What "student" or "teacher" sees in place of the images as they are."""
        return getattr(self.views, side) if self.views else None


def resize_of(spec: DataSpec) -> int:
    """dataset.resize where it is a number of pixels, else 0. Raises ValueError for what is no whole number above 0."""
    given = spec.resize
    if isinstance(given, bool):
        return 0
    if int(given) != given or given < 1:
        raise ValueError(f"dataset.resize is {given}: give the pixels that images are brought to, such as 160, or null")
    return int(given)


def check_kind(kind: str) -> None:
    """ValueError for a kind of data that nothing reads."""
    if kind not in READERS and kind != "folder":
        raise ValueError(f"dataset {kind!r} is not known: {did_you_mean(kind, [*READERS, 'folder'])}")


def check_classes(spec: DataSpec, class_names: list[str]) -> None:
    """ValueError when dataset.num_classes is given and is not what the files hold, and for a single class."""
    given = spec.num_classes
    if len(class_names) < 2:
        raise ValueError(f"{spec.name} has one class, {class_names[0]}, and nothing to tell apart: give it another")
    if given is not None and given != len(class_names):
        found = f"{spec.name} has {len(class_names)} classes"
        raise ValueError(f"dataset.num_classes is {given} but {found}: correct the key")


def data_info(spec: DataSpec, labels: np.ndarray, class_names: list[str], held_out: bool) -> DataInfo:
    """DataInfo of the kept training labels [N], which it leaves out where dataset.labels is false.

    Raises ValueError when mean or std have not one value a channel.
    """
    chans = int(spec.in_chans)
    mean, std = (tuple(float(v) for v in values) for values in (spec.mean, spec.std))
    if len(mean) != chans or len(std) != chans or min(std) <= 0:
        raise ValueError(
            f"dataset.mean {mean} and dataset.std {std} need {chans} values each (dataset.in_chans), "
            "those of std above 0"
        )
    return DataInfo(
        name=spec.name,
        num_classes=len(class_names) if spec.labels else 0,
        num_train=len(labels),
        in_chans=chans,
        size=int(spec.size),
        mean=mean,
        std=std,
        labels=torch.from_numpy(labels) if spec.labels else None,
        class_names=class_names if spec.labels else [],
        content=spec.content,
        evaluated_on="holdout" if held_out else "test",
    )
