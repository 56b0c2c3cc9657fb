"""ImageNet-shaped data: folders of images, decoded by worker processes while the device works."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from distill import parallel
from distill.batch import Batch
from distill.data.arrays import Normaliser, cropped, mixed, order_of, seeded, steps_for
from distill.data.class_batches import ClassBatches
from distill.data.dataset import Adapt, Data, check_classes, describe, resize_of
from distill.data.info import DataInfo
from distill.data.modality import Views, views_of
from distill.data.select import of_classes, select, split_holdout
from distill.data.views import Images, Key, collate, shape_of
from distill.data.waiting import Waits


@dataclass
class FolderSplit:
    """Paths of N images, their labels int64 [N], and how they are read."""

    paths: list[str]
    labels: np.ndarray
    workers: int
    device: torch.device
    chans: int = 3  # of the images as they are read
    depth: list[str] | None = None  # paths of the N depth images that belong to them
    resize: int = 0  # pixels that images are brought to, of which crops are drawn; 0: random resized crops

    def __len__(self) -> int:
        return len(self.paths)


@dataclass
class FolderData(Data):
    """Like Data, with image files in place of arrays."""

    train: FolderSplit  # type: ignore[assignment]
    test: FolderSplit  # type: ignore[assignment]

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
            **{"flip": self.flip, "views": self.views, **options},
        )

    def evaluation(self, batch_size: int, side: str = "student") -> Iterator[tuple[Tensor, Tensor]]:
        steps = steps_for(len(self.test), batch_size, drop_last=False)
        keys: list[list[Key]] = [
            [(i, None) for i in range(s * batch_size, min((s + 1) * batch_size, len(self.test)))]
            for s in range(steps)
        ]
        normalise = self.view(side) or Normaliser(
            self.info, (self.info.size, self.info.size, self.info.in_chans), self.test.device
        )
        for images, labels, _ in arrivals(iter(loader(self.test, self.info, False, keys)), self.test.device):
            yield normalise(images), labels


class FolderSource:
    """Batches of random resized crops and flips; an epoch is a pure function of (seed, epoch).

    Each image's crop and flip come from (seed, epoch, index), so neither resuming nor the number of workers
    changes a batch. `waits` is how long training has waited for data. One epoch at a time.

    crops: how many crops of each image, with the one flip; those after the first are views, see `arrays.cropped`.
    per_class: images of each class in a batch, see `ClassBatches`; 0: every image once an epoch, as it comes.
    drawn: batches of an epoch, each of batch_size images drawn with replacement; 0: every image once an epoch.

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
        drop_last: bool = False,
        per_class: int = 0,
        drawn: int = 0,
        views: Views | None = None,
        mixup: float = 0.0,
    ) -> None:
        self.settings: dict[str, Any] = dict(
            split=split, info=info, batch_size=batch_size, seed=seed, flip=flip, crops=crops,
            drop_last=drop_last, per_class=per_class, drawn=drawn, views=views, mixup=mixup,
        )  # fmt: skip
        self.mixup = mixup
        self.views, self.shown = views, crops
        self.split, self.info, self.batch_size, self.seed = split, info, batch_size, seed
        self.steps = drawn or steps_for(len(split), batch_size, drop_last or bool(per_class))
        self.drawn = bool(drawn and not per_class)
        self.classes = ClassBatches(split.labels, batch_size, per_class, parallel.world()) if per_class else None
        shape = (info.size, info.size, info.in_chans)
        self.normalise: Callable[[Tensor], Tensor] = (
            views.student if views else Normaliser(info, shape, split.device)
        )
        self.waits = Waits(split.device)
        self._keys: list[list[Key]] = []  # the loader's batch sampler: refilled for every epoch
        self._loader = loader(split, info, flip, self._keys, crops=crops, persistent=split.workers > 0)

    def replace(self, **changes: Any) -> FolderSource:
        """The same source with other keyword arguments, such as drop_last=True or flip=False."""
        return type(self)(**{**self.settings, **changes})

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on, as they are in the whole epoch."""
        self._keys[:] = self._plan(epoch)[start:]
        loaded = arrivals(self.waits.during(self._loader), self.split.device)
        for step, (pixels, labels, index) in enumerate(loaded, start):
            images, views = cropped(pixels.chunk(self.shown, dim=3), self.normalise, self.views)
            batch = Batch(inputs=images, labels=labels, index=index, views=views)
            yield mixed(batch, self.mixup, self.info.num_classes, self.seed, epoch, step)

    def _plan(self, epoch: int) -> list[list[Key]]:
        """The epoch's batches of (position, seed of the view)."""
        generator = seeded(self.seed, epoch)
        order, each_once = order_of(self, generator)
        views = torch.randint(2**62, (len(order),), generator=generator)
        views = views[order] if each_once else views
        keys: list[Key] = list(zip(order.tolist(), views.tolist(), strict=True))
        return [keys[s * self.batch_size : (s + 1) * self.batch_size] for s in range(self.steps)]


def loader(
    split: FolderSplit, info: DataInfo, flip: bool, keys: list[list[Key]], crops: int = 1, persistent: bool = False
) -> DataLoader:
    ahead: dict[str, Any] = {"prefetch_factor": 4, "persistent_workers": persistent} if split.workers else {}
    return DataLoader(
        Images(split.paths, split.labels, info.size, split.chans, flip, split.depth, crops, split.resize),
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


def load_folder(cfg: Mapping[str, Any], device: torch.device, adapt: Adapt | None = None) -> FolderData:
    """root/train/<class>/* and root/val/<class>/*; val is not read when dataset.holdout is above 0.

    adapt: changes keys by the size of the first image.

    Raises ValueError for folders that are missing or empty, and for train and val with different classes.
    """
    root, workers = Path(cfg.get("root") or "data"), int(cfg.get("workers", 4))
    names, paths, labels = listing(root / "train")
    check_classes(cfg, names)
    if adapt:
        cfg = {**cfg, **adapt(*shape_of(str(paths[0])))}
    check_settings(cfg, workers)
    paths, labels, kept_names = chosen_of(cfg, paths, labels, names)
    kept, held_out = split_holdout(labels, cfg.get("holdout") or 0.0)
    test_paths, test_labels = paths[held_out], labels[held_out]
    if not len(held_out):
        test_names, test_paths, test_labels = listing(root / "val")
        same_classes(root, names, test_names)
        test_paths, test_labels, _ = chosen_of(cfg, test_paths, test_labels, names)
    kept = kept[select(labels[kept], cfg, kept_names)]
    info = describe(cfg, labels[kept], kept_names, held_out=bool(len(held_out)))
    wanted = "depth" in (cfg.get("views") or {}).values()
    chosen = ((paths[kept], labels[kept]), (test_paths, test_labels))
    beside = (depth_of(p, root) if wanted else None for p, _ in chosen)
    train, test = (
        FolderSplit([str(path) for path in p], y, workers, device, info.in_chans, depth, resize_of(cfg))
        for (p, y), depth in zip(chosen, beside, strict=True)
    )
    seen, views = views_of(cfg, info, depth=wanted)
    return FolderData(seen, train, test, pad=0, flip=bool(cfg.get("flip", True)), views=views)


def chosen_of(
    cfg: Mapping[str, Any], paths: np.ndarray, labels: np.ndarray, names: list[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Paths [N] and labels [N] of dataset.classes alone, counted anew, and their names. Raises ValueError."""
    if cfg.get("classes") is None:
        return paths, labels, names
    rows, anew, kept = of_classes(labels, cfg["classes"], names)
    return paths[rows], anew, kept


def depth_of(paths: Iterable[str], root: Path) -> list[str]:
    """The depth images: that of root/train/a/1.jpg is root/depth/train/a/1.*. ValueError where there is none."""
    found = []
    for path in paths:
        beside = root / "depth" / Path(path).relative_to(root)
        match = sorted(beside.parent.glob(f"{glob.escape(beside.stem)}.*"))
        if len(match) != 1:
            named = beside.with_suffix(".*")
            raise ValueError(f"{path} needs one depth image, {named}: {len(match)} are there.")
        found.append(str(match[0]))
    return found


def check_settings(cfg: Mapping[str, Any], workers: int) -> None:
    """ValueError for workers, size, in_chans or views that no folder can be read with."""
    for key in ("pad_mode", "rotate", "randaugment", "cutout"):
        if cfg.get(key):
            raise ValueError(
                f"dataset.{key}={cfg[key]}: images of a folder are cropped, resized and flipped and no more: "
                f"leave dataset.{key}=null, or use a data set that lies in memory, such as dataset=cifar100"
            )
    if 0 < resize_of(cfg) < int(cfg["size"]):
        raise ValueError(f"crops of {cfg['size']} pixels do not fit in images of {cfg['resize']}: raise dataset.resize")
    if workers < 0 or int(cfg["size"]) < 1:
        raise ValueError(f"dataset.workers={workers} and dataset.size={cfg['size']}: give at least 0 and 1")
    if cfg.get("in_chans", 3) not in (1, 3):
        raise ValueError(f"dataset.in_chans is {cfg['in_chans']}: images of a folder are read with 1 or 3")


def listing(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(class names, paths [N], labels int64 [N]) of folder/<class>/*. ValueError when a class is empty."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        why = str(error).split("Supported")[0].strip(". ") if folder.is_dir() else "there is no such folder"
        remedy = f"put images into {folder}/<class>/, or set dataset.root"
        raise ValueError(f"{folder}: {why}: {remedy}") from error
    paths, labels = zip(*found.samples, strict=True)
    return found.classes, np.array(paths), np.array(labels, dtype=np.int64)


def same_classes(root: Path, train: list[str], val: list[str]) -> None:
    if train != val:
        odd = ", ".join(sorted(set(train) ^ set(val))[:5])
        raise ValueError(
            f"{root}/train and {root}/val have different classes ({odd}): give both the same class folders"
        )
