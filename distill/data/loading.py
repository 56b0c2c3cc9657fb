"""`load`: from a dataset's configuration to the data that a run sees."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.data.arrays import places
from distill.data.augment import of as augment_of
from distill.data.crops import bordered
from distill.data.dataset import Adapt, Data, check_classes, describe, resize_of
from distill.data.download import fetched
from distill.data.info import DataInfo, Split
from distill.data.modality import views_of
from distill.data.readers import READERS, Arrays, Part
from distill.data.select import of_classes, select, split_holdout
from distill.data.small_images import resized


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
        augment=augment_of(cfg, info.size, info.in_chans, info.mean),
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
    train, test = parts
    return Arrays(train, test, names)


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
