"""ImageNet-shaped data: folders of images, decoded by worker processes while the device works."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import distill.parallel as parallel
from distill.batch import Batch, view_at
from distill.content.decode import DecodeOptions
from distill.data.ahead import Keys, Passes
from distill.data.arrays import (
    Normaliser,
    cropped,
    recipe,
    seeded,
)
from distill.data.class_batches import ClassBatches
from distill.data.dataset import Data
from distill.data.info import DataInfo
from distill.data.modality import View, Views
from distill.data.order import cut_up, order_of, part_of_epoch, size_of_step, steps_for, times_shown
from distill.data.timm_transforms import TimmTransforms
from distill.data.views import Images, Key, collate
from distill.data.waiting import WaitTimer
from distill.signals import leave_to_parent


@dataclass
class FolderSplit:
    """Paths of N images, their labels int64 [N], if they have any, and how they are read."""

    paths: list[str]
    labels: np.ndarray | None
    workers: int
    device: torch.device
    depth: list[str] | None = None  # paths of the N depth images that belong to them
    resize: int = 0  # pixels that images are brought to, of which crops are drawn; 0: random resized crops
    reading: DecodeOptions = DecodeOptions()  # how files become pixels
    timm_transforms: TimmTransforms | None = None  # None: images are cropped and flipped alone
    draft: bool = False  # large JPEGs are decoded smaller for training

    def __len__(self) -> int:
        return len(self.paths)


@dataclass
class FolderData(Data):
    """Like Data, with image files in place of arrays."""

    train: FolderSplit  # type: ignore[assignment]
    test: FolderSplit | None  # type: ignore[assignment]
    withheld: np.ndarray | None = None  # type: ignore[assignment]
    _passes: dict[Any, Passes] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def view_count(self) -> None:
        """Random resized crops are without number."""
        return None

    def source(self, batch_size: int, seed: int, **options: Any) -> FolderSource:  # type: ignore[override]
        return FolderSource(
            self.train,
            self.info,
            batch_size=batch_size,
            seed=seed,
            **{"flip": self.flip, "views": self.views, "erasing": self.erasing, **options},
        )

    def at_sizes(self, source: FolderSource, sizes: Iterable[int]) -> FolderSource:  # type: ignore[override]
        others = sorted(set(sizes) - {self.info.size})
        return source.replace(sizes=others) if others else source

    def plainly(
        self, split: FolderSplit, batch_size: int, side: str = "student", size: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        passes = self._kept(batch_size, side, size) if split is self.test else None
        return decoded_batches(split, self.info, batch_size, self.view(side), size, passes)

    def begin_evaluation(self, batch_size: int) -> None:
        """Let workers go to work on what `evaluation` of this size will be asked for next."""
        if self.test and self.test.workers:
            self._kept(batch_size, "student", None).begin("", lambda: in_order(len(self.evaluated), batch_size))

    def _kept(self, batch_size: int, side: str, size: int | None) -> Passes:
        """What evaluates again and again, whose workers stay."""
        which = batch_size, side, size
        if which not in self._passes:
            self._passes[which] = evaluation_passes(self.evaluated, self.info, size)
        return self._passes[which]


class FolderSource:
    """Batches of random resized crops and flips; an epoch is a pure function of (seed, epoch).

    Each image's crop and flip come from (seed, epoch, index), so neither resuming nor the number of workers
    changes a batch. `waits` is how long training has waited for data. Epochs that are read at once have own workers.

    crops: how many crops of each image, with the one flip; those after the first are views, see `arrays.cropped`.
    per_class: images of each class in a batch, see `ClassBatches`; 0: every image once an epoch, as it comes.
    drawn: batches of an epoch, each of batch_size images drawn with replacement; 0: every image once an epoch.
    mixup, cutmix, erasing: see `arrays.recipe`. repeats: how often an image of an epoch is shown in it.
    sizes: T of teachers that take larger or smaller images: views["teacher@T"] show the same crop and flip to them.

    Raises ValueError for a batch size below 1, for batches that `per_class` cannot fill, and while iterating for an
    image that cannot be decoded.
    """

    def __init__(
        self,
        split: FolderSplit,
        info: DataInfo,
        *,
        batch_size: int,
        seed: int,
        flip: bool = True,
        crops: int = 1,
        last_batch: str = "keep",
        per_class: int = 0,
        drawn: int = 0,
        views: Views | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        erasing: float = 0.0,
        repeats: int = 1,
        sizes: Sequence[int] = (),
    ) -> None:
        self.settings: dict[str, Any] = dict(
            split=split, info=info, batch_size=batch_size, seed=seed, flip=flip, crops=crops,
            last_batch=last_batch, per_class=per_class, drawn=drawn, views=views, mixup=mixup, cutmix=cutmix,
            erasing=erasing, repeats=repeats, sizes=sizes,
        )  # fmt: skip
        self.mixup, self.cutmix, self.erasing = mixup, cutmix, erasing
        self.sizes = tuple(sizes)
        self.repeats = times_shown(repeats, per_class, drawn)
        check_crops(crops, split)
        self.views, self.shown = views, crops
        self.split, self.info, self.batch_size, self.seed = split, info, batch_size, seed
        self.steps, self.end = cut_up(len(split), batch_size, "drop" if per_class else last_batch)
        if drawn:
            self.steps, self.end = drawn, drawn * batch_size
        self.drawn = bool(drawn and not per_class)
        self.classes = ClassBatches(labelled(split), batch_size, per_class, parallel.world()) if per_class else None
        self.normalise: Any = views.student if views else _normaliser(info, info.size, split.device)
        self.larger = [views.teacher if views else _normaliser(info, size, split.device) for size in self.sizes]
        self.waits = WaitTimer(split.device)
        self._part = 0, 1  # from which image of a batch on which are read: all
        self._passes = Passes(partial(loader, split, info, flip, crops=crops, sizes=self.sizes))

    def replace(self, **changes: Any) -> FolderSource:
        """The same source with other keyword arguments, such as last_batch="drop" or flip=False."""
        return type(self)(**{**self.settings, **changes})

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on, as they are in the whole epoch."""
        read = self._passes.batches((epoch, start, self._part), lambda: self._part_of_plan(epoch)[start:])
        loaded = device_batches(self.waits.during(read), self.split.device)
        for step, (pixels, labels, index, *more) in enumerate(loaded, start):
            images, views = cropped(pixels.chunk(self.shown, dim=3), self.normalise, self.views)
            for size, see, shown in zip(self.sizes, self.larger, more, strict=True):
                views[view_at(size)] = see(shown)
            known = None if self.split.labels is None else labels
            batch = Batch(inputs=images, labels=known, index=index, views=views)
            yield recipe(self, batch, epoch, step)

    def read_ahead(self, epoch: int) -> None:
        """Let workers go to work on an epoch before its batches are asked for, if there are any."""
        if self.split.workers:
            self._passes.begin((epoch, 0, self._part), lambda: self._part_of_plan(epoch))

    def of_part(self, number: int, count: int) -> Self | None:
        """This source with every `count`-th image of each batch from `number` on, the others of which are not read.

        None where a part cannot be had without the whole batch: of images that are mixed, whose boxes of noise are of
        one stream, or that a subclass makes batches of; and where a batch has fewer images than `count`.
        """
        whole = self.mixup or self.cutmix or self.erasing or type(self).epoch is not FolderSource.epoch
        if whole or min(self.whole_size(0), self.whole_size(self.steps - 1)) < count:
            return None
        own = copy(self)  # with the same workers
        own._part = number, count
        return own

    def whole_size(self, step: int) -> int:
        """Return how many images the batch of a step has, those included that `of_part` leaves out."""
        return size_of_step(self, step)

    def _part_of_plan(self, epoch: int) -> list[list[Key]]:
        """What is read of the epoch's batches."""
        number, count = self._part
        return [batch[number::count] for batch in self._plan(epoch)]

    def _plan(self, epoch: int) -> list[list[Key]]:
        """The epoch's batches of (position, seed of the view)."""
        generator = seeded(self.seed, epoch)
        order, each_once = order_of(self, generator)
        views = torch.randint(2**62, (len(order),), generator=generator)
        views = views[order] if each_once else views
        keys: list[Key] = list(zip(order.tolist(), views.tolist(), strict=True))
        return [keys[part_of_epoch(self, step)] for step in range(self.steps)]


def check_crops(crops: int, split: FolderSplit) -> None:
    """Raise ValueError where several crops of an image are to be seen, and its looks change beside them."""
    if crops > 1 and split.timm_transforms:
        raise ValueError(
            "further crops of an image have its flip and nothing more: leave dataset.auto_augment, color_jitter "
            "and interpolation null, or take a method with one view, such as method=kd"
        )


def decoded_batches(
    split: FolderSplit,
    info: DataInfo,
    batch_size: int,
    view: View | None = None,
    size: int | None = None,
    passes: Passes | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Like `arrays.evaluation_batches`, of image files, which are read at any size (default: the data's).

    passes: what reads them again and again; default: a loader for once.
    """
    normalise = view or _normaliser(info, size or info.size, split.device)
    keys = partial(in_order, len(split), batch_size)
    read = passes.batches("", keys) if passes else iter(loader(split, info, False, keys(), size=size))
    for images, labels, _ in device_batches(read, split.device):
        yield normalise(images), labels


def evaluation_passes(split: FolderSplit, info: DataInfo, size: int | None) -> Passes:
    """What reads a split's images at their centres, each time that it is evaluated."""
    return Passes(partial(loader, split, info, False, size=size))


def in_order(count: int, batch_size: int) -> Keys:
    """Batches of all images in the set's order, each at its centre."""
    starts = range(0, steps_for(count, batch_size, drop_last=False) * batch_size, batch_size)
    return [[(i, None) for i in range(start, min(start + batch_size, count))] for start in starts]


def _normaliser(info: DataInfo, size: int, device: torch.device) -> Normaliser:
    return Normaliser(info, (size, size, info.in_chans), device)


def labelled(split: FolderSplit) -> np.ndarray:
    """The labels [N] of a split. Raises ValueError where it has none."""
    if split.labels is None:
        raise ValueError("the method draws its batches by labels, and the images have none: leave dataset.labels=null")
    return split.labels


def loader(
    split: FolderSplit,
    info: DataInfo,
    flip: bool,
    keys: Keys,
    persistent: bool = False,
    *,
    crops: int = 1,
    size: int | None = None,
    sizes: Sequence[int] = (),
) -> DataLoader:
    """A loader of the images that `keys`, a list of batches, names; size: in place of that of the data."""
    warnings.filterwarnings("ignore", "This DataLoader will create")  # who asks for many workers has his reasons
    ahead: dict[str, Any] = {"prefetch_factor": 4, "persistent_workers": persistent} if split.workers else {}
    return DataLoader(
        Images(
            split.paths, split.labels, size or info.size, split.reading, flip, split.depth, crops, split.resize,
            split.timm_transforms, sizes, split.draft,
        ),  # fmt: skip
        batch_sampler=keys,
        num_workers=split.workers,
        collate_fn=collate,
        pin_memory=split.device.type == "cuda",
        worker_init_fn=leave_to_parent,
        generator=torch.Generator(),  # the global one is left to the model: the loader would draw from it
        **ahead,
    )


def device_batches(batches: Iterator[Any], device: torch.device) -> Iterator[list[Tensor]]:
    """The loader's batches on the device; a GPU copies them from pinned memory while the host goes on.

    ValueError names an image that could not be decoded.
    """
    for batch in batches:
        if isinstance(batch, str):
            raise ValueError(batch)
        yield [part.to(device, non_blocking=True) for part in batch]
