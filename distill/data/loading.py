"""`load`: from a dataset's configuration to the data that a run sees."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.data import augment
from distill.data.arrays import ArraySource, evaluation_batches, places
from distill.data.augment import Augment
from distill.data.crops import bordered
from distill.data.download import fetched
from distill.data.info import DataInfo, Split
from distill.data.modality import View, Views, views_of
from distill.data.readers import READERS, Arrays, Part
from distill.data.select import of_classes, select, split_holdout
from distill.data.small_images import resized

Adapt = Callable[[int, int], dict[str, Any]]
"""What a recipe makes of dataset's keys, given height and width of the images as they are stored (bit.adapt)."""


@dataclass
class Data:
    """A data set on the device. `test` is what is evaluated: with dataset.holdout, the held-out part."""

    info: DataInfo
    train: Split
    test: Split
    pad: int = 4
    flip: bool = True
    views: Views | None = None
    pad_mode: str = "zeros"
    augment: Augment | None = None
    resize: int = 0  # pixels that training images are brought to, of which crops of info.size are drawn; 0: as they are

    @property
    def view_count(self) -> int | None:
        """How many crops and flips of an image there are, which Batch.view numbers; None for views without number."""
        return None if self.augment else 2 * places(self.resize or self.info.size, self.pad, self.info.size) ** 2

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
                "views": self.views,
                **options,
            },
        )

    def evaluation(self, batch_size: int, side: str = "student") -> Iterator[tuple[Tensor, Tensor]]:
        """(normalised images [B,C,H,W], labels [B]) of all that is evaluated, as one side sees it."""
        return evaluation_batches(self.test, self.info, batch_size, self.view(side))

    def view(self, side: str) -> View | None:
        """What "student" or "teacher" sees in place of the images as they are."""
        return getattr(self.views, side) if self.views else None


def load(cfg: Mapping[str, Any], device: torch.device | str = "cpu", adapt: Adapt | None = None) -> Data:
    """The data set that conf/dataset/<name>.yaml describes, on the device, with the keys that `adapt` changes.

    Downloads what is missing. Raises ValueError for an unknown name, files that are missing or damaged, and
    values that do not fit the data; the text names the file or key and the remedy.
    """
    kind = cfg.get("kind") or cfg["name"]
    if kind == "folder":
        from distill.data.folder import load_folder

        return load_folder(cfg, torch.device(device), adapt)
    if kind not in READERS:
        known = [*READERS, "folder"]
        near = difflib.get_close_matches(str(kind), known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
        raise ValueError(f"dataset {kind!r} is not known: {hint}")
    arrays = fetched(kind, Path(cfg.get("root") or "data"))
    if adapt:
        cfg = {**cfg, **adapt(*arrays.train.images.shape[1:3])}
    if cfg.get("resize") is True:
        arrays = resized(arrays, int(cfg["size"]))
    return from_arrays(arrays, cfg, torch.device(device))


def from_arrays(arrays: Arrays, cfg: Mapping[str, Any], device: torch.device) -> Data:
    """Select, pad and move; ValueError when the configuration does not fit the arrays."""
    check_classes(cfg, arrays.class_names)
    train, test, names = only(arrays, cfg)
    kept, held_out = split_holdout(train.labels, cfg.get("holdout") or 0.0)
    if len(held_out):
        test = Part(train.images[held_out], train.labels[held_out])
    kept = kept[select(train.labels[kept], cfg, names)]
    train = Part(train.images[kept], train.labels[kept])
    info = describe(cfg, train.labels, names, held_out=bool(len(held_out)))
    seen, views = views_of(cfg, info)
    pad, pad_mode = int(cfg.get("pad", 4)), str(cfg.get("pad_mode") or "zeros")
    resize = resize_of(cfg)
    shown = on_device(train, info, device, as_stored=bool(resize))
    bordered(shown.images[:0], pad, pad_mode)  # says now what cannot be
    places(resize or info.size, pad, info.size)
    return Data(
        seen,
        shown,
        on_device(test, info, device, as_stored=bool(resize)),
        views=views,
        pad=pad,
        flip=bool(cfg.get("flip", True)),
        pad_mode=pad_mode,
        augment=augment.of(cfg, info.size, info.in_chans, info.mean),
        resize=resize,
    )


def only(arrays: Arrays, cfg: Mapping[str, Any]) -> Arrays:
    """The images of dataset.classes alone, renumbered from 0; all of them where it is null. Raises ValueError."""
    if cfg.get("classes") is None:
        return arrays
    parts, names = [], list(arrays.class_names)
    for part in (arrays.train, arrays.test):
        rows, labels, names = of_classes(part.labels, cfg["classes"], arrays.class_names)
        parts.append(Part(part.images[rows], labels))
    return Arrays(*parts, names)


def resize_of(cfg: Mapping[str, Any]) -> int:
    """dataset.resize where it is a number of pixels, else 0. Raises ValueError for what is no whole number above 0."""
    given = cfg.get("resize")
    if given is None or isinstance(given, bool):
        return 0
    if int(given) != given or given < 1:
        raise ValueError(f"dataset.resize is {given}: give the pixels that images are brought to, such as 160, or null")
    return int(given)


def check_classes(cfg: Mapping[str, Any], class_names: list[str]) -> None:
    """ValueError when dataset.num_classes is given and is not what the files hold."""
    given = cfg.get("num_classes")
    if given is not None and given != len(class_names):
        found = f"{cfg['name']} has {len(class_names)} classes"
        raise ValueError(f"dataset.num_classes is {given} but {found}: correct the key")


def describe(cfg: Mapping[str, Any], labels: np.ndarray, class_names: list[str], held_out: bool) -> DataInfo:
    """DataInfo of the kept training labels [N]. ValueError when mean or std have not one value a channel."""
    chans = int(cfg.get("in_chans", 3))
    mean, std = (tuple(float(v) for v in cfg[key]) for key in ("mean", "std"))
    if len(mean) != chans or len(std) != chans or min(std) <= 0:
        raise ValueError(
            f"dataset.mean {mean} and dataset.std {std} need {chans} values each (dataset.in_chans), "
            "those of std above 0"
        )
    return DataInfo(
        name=str(cfg["name"]),
        num_classes=len(class_names),
        num_train=len(labels),
        in_chans=chans,
        size=int(cfg["size"]),
        mean=mean,
        std=std,
        labels=torch.from_numpy(labels),
        class_names=class_names,
        evaluated_on="holdout" if held_out else "test",
    )


def on_device(part: Part, info: DataInfo, device: torch.device, as_stored: bool = False) -> Split:
    """The part with images zero-padded to info.size and grey repeated to info.in_chans, on the device.

    as_stored: images keep their size, for they are resized when they are shown.
    """
    chans, side = part.images.shape[3], part.images.shape[1]
    images, border = part.images, 0 if as_stored else info.size - side
    if border < 0 or border % 2:
        raise ValueError(
            f"dataset.size is {info.size} but {info.name} has {side}x{side} images: give {side}, an even number more "
            "to pad them with zeros, or dataset.resize=true"
        )
    if chans not in (1, info.in_chans):
        raise ValueError(
            f"dataset.in_chans is {info.in_chans} but {info.name} has {chans} channels: give {chans}"
        )
    if border:
        images = np.pad(images, ((0, 0), (border // 2,) * 2, (border // 2,) * 2, (0, 0)))
    images = np.repeat(images, info.in_chans // chans, axis=3) if chans != info.in_chans else images
    return Split(torch.tensor(images, device=device), torch.tensor(part.labels, device=device))
