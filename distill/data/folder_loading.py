"""A folder of images as a data set: which of them are shown, checked against the keys of dataset."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from distill.config import DataSpec
from distill.content.decode import DecodeOptions, decode_options
from distill.content.index import indexed, train_indexed
from distill.content.listing import listed
from distill.data.dataset import Adapt, check_classes, data_info, resize_of
from distill.data.depth import depth_of, with_whole_depth
from distill.data.folder import FolderData, FolderSplit
from distill.data.modality import views_of
from distill.data.select import of_classes, select, split_holdout
from distill.data.timm_transforms import timm_transforms_of
from distill.data.used_images import UsedImages, describe
from distill.data.views import shape_of


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
    rows, labels, kept_names = select_classes(spec, whole, trained.listing.labels[whole], names)
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
    reading = decode_options(**{key: getattr(spec, key) for key in keys})
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
    return UsedImages(index, *select_classes(spec, whole, index.listing.labels[whole], names)[:2])


def _split(part: UsedImages, spec: DataSpec, reading: DecodeOptions, device: torch.device, depth: bool) -> FolderSplit:
    paths = part.paths()
    beside = depth_of(paths, spec.root) if depth else None
    how = (resize_of(spec), reading, timm_transforms_of(spec), spec.draft)
    return FolderSplit(paths, part.labels, spec.workers, device, beside, *how)


def select_classes(
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
    if spec.draft and (timm_transforms_of(spec) or "depth" in spec.views.values()):
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
