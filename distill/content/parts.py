"""What readers return, and the checks that several of them make."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

_PARTS = "train", "test"
FETCH_AGAIN = "delete it and run again to download it anew, or put a good copy there"


class Part(NamedTuple):
    """images uint8 [N,H,W,C], labels int64 [N]."""

    images: np.ndarray
    labels: np.ndarray


class Arrays(NamedTuple):
    train: Part
    test: Part
    class_names: list[str]


def checked_labels(path: Path, labels: object, classes: int, count: int) -> np.ndarray:
    """labels as int64 [count]. ValueError when they are not `count` whole numbers from 0 to classes - 1."""
    array = np.asarray(labels) if isinstance(labels, (list, np.ndarray)) else np.empty(0)
    if array.shape != (count,) or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"{path}: the labels should be {count} numbers from 0 to {classes - 1} and are not; {FETCH_AGAIN}"
        )
    return array.astype(np.int64)


def checked_arrays(kind: str, arrays: object) -> Arrays:
    """What a plugin's reader gives, labels as int64. Raises ValueError where images or labels are not what is read:
    numbers from 0 to 1 would be shown as black, for whites are 255.
    """
    ours = f"dataset.kind={kind}: its reader"
    if not isinstance(arrays, Arrays) or not all(isinstance(part, tuple) and len(part) == 2 for part in arrays[:2]):
        raise ValueError(f"{ours} gives something else than Arrays(Part(images, labels), Part(images, labels), names)")
    names = list(map(str, arrays.class_names))
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{ours} calls two classes '{twice}': give each a name of its own")
    parts = zip(_PARTS, arrays[:2], strict=True)
    train, test = (_checked(f"{ours}'s {name}", part[0], part[1], names) for name, part in parts)
    return Arrays(train, test, names)


def _checked(what: str, images: object, labels: object, names: list[str]) -> Part:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim != 4:
        found = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"{what} images are {found}: give uint8 [N,H,W,C], black being 0 and white 255")
    if not len(images):
        raise ValueError(f"{what} images are none: give some")
    last, known = len(names) - 1, labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not known or labels.min() < 0 or labels.max() > last:
        raise ValueError(f"{what} labels should be {len(images)} whole numbers from 0 to {last}, a class name each")
    return Part(images, labels.astype(np.int64))
