"""`load`: from a dataset's configuration to the data that a run sees."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.data import augment
from distill.data.arrays import ArraySource, bordered, evaluation_batches
from distill.data.augment import Augment
from distill.data.download import fetched
from distill.data.info import DataInfo, Split
from distill.data.modality import View, Views, views_of
from distill.data.readers import READERS, Arrays, Part
from distill.data.select import select, split_holdout
from distill.data.small_images import resized


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

    @property
    def view_count(self) -> int | None:
        """How many crops and flips of an image there are, which Batch.view numbers; None for views without number."""
        return None if self.augment else 2 * (2 * self.pad + 1) ** 2

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


def load(cfg: Mapping[str, Any], device: torch.device | str = "cpu") -> Data:
    """The data set that conf/dataset/<name>.yaml describes, on the device.

    Downloads what is missing. Raises ValueError for an unknown name, files that are missing or damaged, and
    values that do not fit the data; the text names the file or key and the remedy.
    """
    kind = cfg.get("kind") or cfg["name"]
    if kind == "folder":
        from distill.data.folder import load_folder

        return load_folder(cfg, torch.device(device))
    if kind not in READERS:
        known = [*READERS, "folder"]
        near = difflib.get_close_matches(str(kind), known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
        raise ValueError(f"dataset {kind!r} is not known: {hint}")
    arrays = fetched(kind, Path(cfg.get("root") or "data"))
    if cfg.get("resize"):
        arrays = resized(arrays, int(cfg["size"]))
    return from_arrays(arrays, cfg, torch.device(device))


def from_arrays(arrays: Arrays, cfg: Mapping[str, Any], device: torch.device) -> Data:
    """Select, pad and move; ValueError when the configuration does not fit the arrays."""
    check_classes(cfg, arrays.class_names)
    train, test = arrays.train, arrays.test
    kept, held_out = split_holdout(train.labels, cfg.get("holdout") or 0.0)
    if len(held_out):
        test = Part(train.images[held_out], train.labels[held_out])
    kept = kept[select(train.labels[kept], cfg, arrays.class_names)]
    train = Part(train.images[kept], train.labels[kept])
    info = describe(cfg, train.labels, arrays.class_names, held_out=bool(len(held_out)))
    seen, views = views_of(cfg, info)
    pad, pad_mode = int(cfg.get("pad", 4)), str(cfg.get("pad_mode") or "zeros")
    shown = on_device(train, info, device)
    bordered(shown.images[:0], pad, pad_mode)  # says now what cannot be
    return Data(
        seen,
        shown,
        on_device(test, info, device),
        views=views,
        pad=pad,
        flip=bool(cfg.get("flip", True)),
        pad_mode=pad_mode,
        augment=augment.of(cfg, info.size, info.in_chans, info.mean),
    )


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


def on_device(part: Part, info: DataInfo, device: torch.device) -> Split:
    """The part with images zero-padded to info.size and grey repeated to info.in_chans, on the device."""
    chans, side = part.images.shape[3], part.images.shape[1]
    images, border = part.images, info.size - side
    if border < 0 or border % 2:
        raise ValueError(
            f"dataset.size is {info.size} but {info.name} has {side}x{side} images: give {side}, or an even "
            "number more to pad them with zeros"
        )
    if chans not in (1, info.in_chans):
        raise ValueError(
            f"dataset.in_chans is {info.in_chans} but {info.name} has {chans} channels: give {chans}"
        )
    if border:
        images = np.pad(images, ((0, 0), (border // 2,) * 2, (border // 2,) * 2, (0, 0)))
    images = np.repeat(images, info.in_chans // chans, axis=3) if chans != info.in_chans else images
    return Split(torch.tensor(images, device=device), torch.tensor(part.labels, device=device))
