"""`load`: from a data set's spec to the data that a run sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from distill.config import DataSpec
from distill.content.readers import Arrays, Part
from distill.content.small_images import resized
from distill.data.arrays import places
from distill.data.augment import of as augment_of
from distill.data.crops import bordered
from distill.data.dataset import Adapt, Data, check_classes, check_kind, data_info, resize_of
from distill.data.download import fetched
from distill.data.info import DataInfo, Split
from distill.data.modality import views_of
from distill.data.select import of_classes, select, split_holdout


def load_data(spec: DataSpec, device: torch.device | str = "cpu", adapt: Adapt | None = None) -> Data:
    """The data set that a spec describes, on the device, with the keys that `adapt` changes.

    Downloads what is missing. Raises ValueError for an unknown name, files that are missing or damaged, and
    values that do not fit the data; the text names the file or key and the remedy.
    """
    if spec.kind == "folder":
        from distill.data.folder_loading import load_folder

        return load_folder(spec, torch.device(device), adapt)
    check_kind(spec.kind)
    arrays = fetched(spec.kind, spec.root)
    if adapt:
        spec = replace(spec, **adapt(*arrays.train.images.shape[1:3]))
    if spec.resize is True:
        arrays = resized(arrays, int(spec.size))
    return from_arrays(arrays, spec, torch.device(device))


def from_arrays(arrays: Arrays, spec: DataSpec, device: torch.device) -> Data:
    """Select, pad and move; ValueError when the spec does not fit the arrays."""
    check_classes(spec, arrays.class_names)
    train, test, names = only(arrays, spec)
    kept, held_out = split_holdout(train.labels, spec.holdout)
    if len(held_out):
        test = Part(train.images[held_out], train.labels[held_out])
    kept = kept[select(train.labels[kept], spec, names)]
    train = Part(train.images[kept], train.labels[kept])
    info = data_info(spec, train.labels, names, held_out=bool(len(held_out)))
    resize = resize_of(spec)
    info = replace(info, border=0 if resize else (info.size - train.images.shape[1]) // 2)
    withheld = None if spec.labels else torch.tensor(train.labels, device=device)
    seen, views = views_of(spec.views, info)
    pad, pad_mode = int(spec.pad), spec.pad_mode
    shown = on_device(train, info, device, as_stored=bool(resize))
    if withheld is not None:
        shown.labels = None
    bordered(shown.images[:0], pad, pad_mode)  # says now what cannot be
    places(resize or info.size, pad, info.size)
    return Data(
        seen,
        shown,
        on_device(test, info, device, as_stored=bool(resize)),
        views=views,
        pad=pad,
        flip=bool(spec.flip),
        pad_mode=pad_mode,
        augment=augment_of(spec, info.size, info.in_chans, info.mean),
        erasing=spec.erasing,
        resize=resize,
        withheld=withheld,
    )


def only(arrays: Arrays, spec: DataSpec) -> Arrays:
    """The images of dataset.classes alone, renumbered from 0; all of them where it is null. Raises ValueError."""
    if spec.classes is None:
        return arrays
    parts, names = [], list(arrays.class_names)
    for part in (arrays.train, arrays.test):
        rows, labels, names = of_classes(part.labels, spec.classes, arrays.class_names)
        parts.append(Part(part.images[rows], labels))
    train, test = parts
    return Arrays(train, test, names)


def on_device(part: Part, info: DataInfo, device: torch.device, as_stored: bool = False) -> Split:
    """The part with images zero-padded to info.size and grey repeated to info.in_chans, on the device.

    as_stored: images keep their size, for they are resized when they are shown.
    """
    side, width, chans = part.images.shape[1:]
    images, border = part.images, 0 if as_stored else info.size - side
    if side != width and not as_stored:
        raise ValueError(f"{info.name} has {side}x{width} images, no squares: dataset.resize=true makes them some")
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
