"""What readers return, and the checks that several of them make."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

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
