"""Draws of images by class that no run's seed changes: NumPy's RandomState, whose streams are frozen for good."""

from __future__ import annotations

import numpy as np


def shuffled_classes(labels: np.ndarray, salt: int) -> dict[int, np.ndarray]:
    """{class: positions of its images, in an order fixed by salt}, for labels int64 [N]."""
    random = np.random.RandomState(salt)
    return {int(k): random.permutation(np.flatnonzero(labels == k)) for k in np.unique(labels)}


def stratified(labels: np.ndarray, count: int, salt: int) -> np.ndarray:
    """Mask [N] of `count` images, shared among the classes by the method of largest remainders."""
    classes = shuffled_classes(labels, salt)
    quotas = {k: divmod(len(rows) * count, len(labels)) for k, rows in classes.items()}
    rest = count - sum(whole for whole, _ in quotas.values())
    lucky = sorted(quotas, key=lambda k: (-quotas[k][1], k))[:rest]
    mask = np.zeros(len(labels), dtype=bool)
    for k, rows in classes.items():
        mask[rows[: quotas[k][0] + (k in lucky)]] = True
    return mask
