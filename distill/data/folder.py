"""ImageNet-shaped data: folders of images, decoded by worker processes while the device works."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from distill import parallel
from distill.batch import Batch, seen_at
from distill.config import DataSpec
from distill.content.decode import Reading, reading_of
from distill.content.index import indexed, train_indexed
from distill.content.listing import listed
from distill.data.arrays import (
    Normaliser,
    cropped,
    cut_up,
    order_of,
    part_of_epoch,
    recipe,
    seeded,
    steps_for,
    times_shown,
)
from distill.data.class_batches import ClassBatches
from distill.data.dataset import Adapt, Data, check_classes, data_info, resize_of
from distill.data.depth import depth_of, with_whole_depth
from distill.data.info import DataInfo
from distill.data.looks import Looks, looks_of
from distill.data.modality import View, Views, views_of
from distill.data.select import of_classes, select, split_holdout
from distill.data.used_images import UsedImages, describe
from distill.data.views import Images, Key, collate, shape_of
from distill.data.waiting import Waits


@dataclass
class FolderSplit:
    """Paths of N images, their labels int64 [N], if they have any, and how they are read."""

    paths: list[str]
    labels: np.ndarray | None
    workers: int
    device: torch.device
    depth: list[str] | None = None  # paths of the N depth images that belong to them
    resize: int = 0  # pixels that images are brought to, of which crops are drawn; 0: random resized crops
    reading: Reading = Reading()  # how files become pixels
    looks: Looks | None = None  # by which of timm's transforms they are seen; None: cropped and flipped alone
    draft: bool = False  # large JPEGs are decoded smaller for training

    def __len__(self) -> int:
        return len(self.paths)


@dataclass
class FolderData(Data):
    """Like Data, with image files in place of arrays."""

    train: FolderSplit  # type: ignore[assignment]
    test: FolderSplit | None  # type: ignore[assignment]
    withheld: np.ndarray | None = None  # type: ignore[assignment]

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
        return decoded_batches(split, self.info, batch_size, self.view(side), size)


class FolderSource:
    """Batches of random resized crops and flips; an epoch is a pure function of (seed, epoch).

    Each image's crop and flip come from (seed, epoch, index), so neither resuming nor the number of workers
    changes a batch. `waits` is how long training has waited for data. One epoch at a time.

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
        if crops > 1 and split.looks:
            raise ValueError(
                "further crops of an image have its flip and nothing more: leave dataset.auto_augment, color_jitter "
                "and interpolation null, or take a method with one view, such as method=kd"
            )
        self.views, self.shown = views, crops
        self.split, self.info, self.batch_size, self.seed = split, info, batch_size, seed
        self.steps, self.end = cut_up(len(split), batch_size, "drop" if per_class else last_batch)
        if drawn:
            self.steps, self.end = drawn, drawn * batch_size
        self.drawn = bool(drawn and not per_class)
        self.classes = ClassBatches(labelled(split), batch_size, per_class, parallel.world()) if per_class else None
        self.normalise: Callable[[Tensor], Tensor] = (
            views.student if views else _normaliser(info, info.size, split.device)
        )
        self.larger = [views.teacher if views else _normaliser(info, size, split.device) for size in self.sizes]
        self.waits = Waits(split.device)
        self._keys: list[list[Key]] = []  # the loader's batch sampler: refilled for every epoch
        self._loader = loader(
            split, info, flip, self._keys, crops=crops, sizes=self.sizes, persistent=split.workers > 0
        )

    def replace(self, **changes: Any) -> FolderSource:
        """The same source with other keyword arguments, such as last_batch="drop" or flip=False."""
        return type(self)(**{**self.settings, **changes})

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on, as they are in the whole epoch."""
        self._keys[:] = self._plan(epoch)[start:]
        loaded = arrivals(self.waits.during(self._loader), self.split.device)
        for step, (pixels, labels, index, *more) in enumerate(loaded, start):
            images, views = cropped(pixels.chunk(self.shown, dim=3), self.normalise, self.views)
            for size, see, copy in zip(self.sizes, self.larger, more, strict=True):
                views[seen_at(size)] = see(copy)
            known = None if self.split.labels is None else labels
            batch = Batch(inputs=images, labels=known, index=index, views=views)
            yield recipe(self, batch, epoch, step)

    def _plan(self, epoch: int) -> list[list[Key]]:
        """The epoch's batches of (position, seed of the view)."""
        generator = seeded(self.seed, epoch)
        order, each_once = order_of(self, generator)
        views = torch.randint(2**62, (len(order),), generator=generator)
        views = views[order] if each_once else views
        keys: list[Key] = list(zip(order.tolist(), views.tolist(), strict=True))
        return [keys[part_of_epoch(self, step)] for step in range(self.steps)]


def decoded_batches(
    split: FolderSplit, info: DataInfo, batch_size: int, view: View | None = None, size: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Like `arrays.evaluation_batches`, of image files, which are read at any size (default: the data's)."""
    steps = steps_for(len(split), batch_size, drop_last=False)
    keys: list[list[Key]] = [
        [(i, None) for i in range(s * batch_size, min((s + 1) * batch_size, len(split)))] for s in range(steps)
    ]
    normalise = view or _normaliser(info, size or info.size, split.device)
    for images, labels, _ in arrivals(iter(loader(split, info, False, keys, size=size)), split.device):
        yield normalise(images), labels


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
    keys: list[list[Key]],
    *,
    crops: int = 1,
    size: int | None = None,
    sizes: Sequence[int] = (),
    persistent: bool = False,
) -> DataLoader:
    """A loader of the images that `keys`, a list of batches, names; size: in place of that of the data."""
    ahead: dict[str, Any] = {"prefetch_factor": 4, "persistent_workers": persistent} if split.workers else {}
    return DataLoader(
        Images(
            split.paths, split.labels, size or info.size, split.reading, flip, split.depth, crops, split.resize,
            split.looks, sizes, split.draft,
        ),  # fmt: skip
        batch_sampler=keys,
        num_workers=split.workers,
        collate_fn=collate,
        pin_memory=split.device.type == "cuda",
        generator=torch.Generator(),  # the global one is left to the model: the loader would draw from it
        **ahead,
    )


def arrivals(batches: Iterator[Any], device: torch.device) -> Iterator[list[Tensor]]:
    """The loader's batches on the device; a GPU copies them from pinned memory while the host goes on.

    ValueError names an image that could not be decoded.
    """
    for batch in batches:
        if isinstance(batch, str):
            raise ValueError(batch)
        yield [part.to(device, non_blocking=True) for part in batch]


def load_folder(spec: DataSpec, device: torch.device, adapt: Adapt | None = None) -> FolderData:
    """root/train/<class>/* and root/val/<class>/*; val is not read when dataset.holdout is above 0.

    With dataset.labels=false the training images may be of no class, anywhere below root/train or root itself, and val
    may be missing or have other classes. All images are looked at before the first is decoded, see `content.index`.
    adapt: changes keys by the size of the first image. Raises ValueError for folders that are missing or empty, for
    train and val with different classes, for images that are damaged, and for values that do not fit them.
    """
    trained = train_indexed(spec.root, spec.workers, spec.labels)
    names, whole = trained.listing.classes, trained.whole(spec.damaged)
    check_classes(spec, names) if spec.labels else check_flat(spec, names)
    if adapt:
        spec = replace(spec, **adapt(*shape_of(str(trained.listing.paths()[whole[0]]))))
    check_settings(spec)
    rows, labels, kept_names = chosen_of(spec, whole, trained.listing.labels[whole], names)
    kept, held_out = split_holdout(labels, spec.holdout)
    shown = UsedImages(trained, rows[held_out], labels[held_out]) if len(held_out) else validation(spec, names)
    withheld = not spec.labels and bool(names) and shown is not None and shown.index.listing.classes == names
    kept = kept[select(labels[kept], spec, kept_names)]
    seen = UsedImages(trained, rows[kept], labels[kept])
    depth = "depth" in spec.views.values()
    if depth:
        seen, shown = with_whole_depth(seen, spec), shown and with_whole_depth(shown, spec)
    info = data_info(spec, seen.labels, kept_names, held_out=bool(len(held_out)))
    keys = ("background", "value_range", "exif", "in_chans")
    reading = reading_of(**{key: getattr(spec, key) for key in keys})
    describe(seen, shown, reading)
    train = _split(seen, spec, reading, device, depth)
    test = None if shown is None else _split(shown, spec, reading, device, depth)
    if not spec.labels:
        train.labels = None
    known = seen.labels if withheld else None
    described, views = views_of(spec.views, info, depth=depth)
    flip, erasing = bool(spec.flip), spec.erasing
    return FolderData(described, train, test, pad=0, flip=flip, views=views, erasing=erasing, withheld=known)


def check_flat(spec: DataSpec, names: list[str]) -> None:
    """Raise ValueError for a choice of images by classes where they are in no class folders."""
    usual = {each.name: each.default for each in fields(spec)}
    for key in ("holdout", "shots", "classes", "omit") if not names else ():
        if (value := getattr(spec, key)) != usual[key]:
            raise ValueError(f"dataset.{key}={value} chooses images by their class folders, and {spec.root} has none: "
                             f"leave it away")  # fmt: skip


def validation(spec: DataSpec, names: list[str]) -> UsedImages | None:
    """The images of root/val. Raises ValueError where it has not the classes `names`, or is missing though training
    reads labels; without labels it is None then, and may have classes of its own.
    """
    root = spec.root
    if not spec.labels:
        if not (root / "val").is_dir():
            return None
        names = listed(root / "val").classes
        if len(names) < 2:
            raise ValueError(f"{root}/val has one class, {names[0]}, and nothing to tell apart: give it another")
    if not (root / "val").is_dir():
        raise ValueError(
            f"{root}/val: there is no such folder: put images into {root}/val/<class>/, or keep a part of the training "
            "images for it, dataset.holdout=0.1"
        )
    index = indexed(root / "val", spec.workers)
    same_classes(root, names, index.listing.classes)
    whole = index.whole(spec.damaged)
    return UsedImages(index, *chosen_of(spec, whole, index.listing.labels[whole], names)[:2])


def _split(part: UsedImages, spec: DataSpec, reading: Reading, device: torch.device, depth: bool) -> FolderSplit:
    paths = part.paths()
    beside = depth_of(paths, spec.root) if depth else None
    how = (resize_of(spec), reading, looks_of(spec), spec.draft)
    return FolderSplit(paths, part.labels, spec.workers, device, beside, *how)


def chosen_of(
    spec: DataSpec, rows: np.ndarray, labels: np.ndarray, names: list[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows [N] and labels [N] of dataset.classes alone, counted anew, and their names. Raises ValueError."""
    if spec.classes is None:
        return rows, labels, names
    chosen, anew, kept = of_classes(labels, spec.classes, names)
    return rows[chosen], anew, kept


def check_settings(spec: DataSpec) -> None:
    """ValueError for workers, size, in_chans or views that no folder can be read with."""
    usual = {each.name: each.default for each in fields(spec)}
    for key in ("pad_mode", "rotate", "randaugment", "cutout"):
        if (value := getattr(spec, key)) != usual[key]:
            raise ValueError(
                f"dataset.{key}={value}: images of a folder are cropped, resized and flipped and no more: "
                f"leave dataset.{key}=null, or use a data set that lies in memory, such as dataset=cifar100"
            )
    if spec.draft and (looks_of(spec) or "depth" in spec.views.values()):
        raise ValueError("dataset.draft=true needs to know the crop before an image is decoded, and its pixels alone: "
                         "leave it null beside auto_augment, color_jitter, interpolation and depth")  # fmt: skip
    if 0 < resize_of(spec) < int(spec.size):
        raise ValueError(f"crops of {spec.size} pixels do not fit in images of {spec.resize}: raise dataset.resize")
    if spec.workers < 0 or int(spec.size) < 1:
        raise ValueError(f"dataset.workers={spec.workers} and dataset.size={spec.size}: give at least 0 and 1")
    if spec.in_chans not in (1, 3):
        raise ValueError(f"dataset.in_chans is {spec.in_chans}: images of a folder are read with 1 or 3")


def same_classes(root: Path, train: list[str], val: list[str]) -> None:
    """Raise ValueError where a class folder is in one of root/train and root/val alone."""
    if train != val:
        alone = [f"{name} is in {split} alone" for split, here, there in (("train", train, val), ("val", val, train))
                 for name in here if name not in there]  # fmt: skip
        more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
        raise ValueError(
            f"{root}/train and {root}/val have different classes ({', '.join(alone[:3])}{more}): give both the same "
            "class folders"
        )
