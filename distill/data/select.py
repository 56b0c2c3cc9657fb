"""Which training images are used: held-out part, left-out classes, fractions and few shots.

None of it depends on a run's seed, so that runs with different seeds see the same images. NumPy's RandomState
is used because its streams are frozen for good.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill.config import DataSpec
from distill.content.strata import shuffled_classes, stratified


def split_holdout(labels: np.ndarray, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out): sorted positions in labels [N]. ValueError outside [0, 1) or when a part is empty."""
    if not 0 <= holdout < 1:
        raise ValueError(
            f"dataset.holdout is {holdout}: give a fraction of at least 0 and below 1, such as 0.1"
        )
    mask = stratified(labels, round(holdout * len(labels)), salt=1)
    if holdout and not 0 < mask.sum() < len(labels):
        raise ValueError(
            f"dataset.holdout={holdout} of {len(labels)} images leaves a part empty: change the fraction"
        )
    if holdout and len(lost := np.setdiff1d(labels, labels[~mask])):
        raise ValueError(f"dataset.holdout={holdout} leaves {len(lost)} classes without a training image: lower it")
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def select(labels: np.ndarray, spec: DataSpec, class_names: Sequence[str]) -> np.ndarray:
    """Sorted positions [M] in labels [N] after dataset.omit, then dataset.fraction, then dataset.shots.

    Smaller fractions and fewer shots are subsets of larger ones. ValueError when a value is out of range.
    """
    rows = np.flatnonzero(~np.isin(labels, numbers(spec.omit, class_names)))
    if not len(rows):
        raise ValueError("dataset.omit names every class: leave at least one in the training set")
    rows = rows[fraction_of(labels[rows], spec.fraction)]
    return rows[shots_of(labels[rows], spec.shots)]


def of_classes(
    labels: np.ndarray, classes: Sequence[int | str], class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """dataset.classes: sorted positions [M] in labels [N], their labels counted anew, the names of the classes.

    Class k is the k-th that is named. ValueError for an unknown class, one named twice, and fewer than two.
    """
    chosen = numbers(classes, class_names, "classes")
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise ValueError(f"dataset.classes is {list(classes)}: name two classes or more, each once")
    rows = np.flatnonzero(np.isin(labels, chosen))
    anew = np.full(len(class_names), -1, dtype=np.int64)
    anew[chosen] = np.arange(len(chosen))
    return rows, anew[labels[rows]], [class_names[k] for k in chosen]


def numbers(given: Sequence[int | str], class_names: Sequence[str], key: str = "omit") -> list[int]:
    """The numbers of classes given by number or by name in dataset.<key>. ValueError for an unknown class."""
    known = {name: k for k, name in enumerate(class_names)}
    chosen = [known.get(k, -1) if isinstance(k, str) else int(k) for k in given]
    for each, k in zip(given, chosen, strict=True):
        if not isinstance(each, str) and known.get(str(each), k) != k:
            raise ValueError(
                f"dataset.{key} has {each}, which is the name of one class and not its number, "
                f"{known[str(each)]}: quote names, '{each}', and count classes from 0"
            )
        if not 0 <= k < len(class_names):
            raise ValueError(
                f"dataset.{key} names class {each!r}: give numbers from 0 to {len(class_names) - 1} or "
                f"names such as {class_names[0]!r}"
            )
    return chosen


def fraction_of(labels: np.ndarray, fraction: float | None) -> np.ndarray:
    """Positions of a fraction of every class, at least one image each. ValueError outside (0, 1]."""
    if fraction is None or fraction == 1:
        return np.arange(len(labels))
    if not 0 < fraction < 1:
        raise ValueError(f"dataset.fraction is {fraction}: give a number above 0 and at most 1")
    classes = shuffled_classes(labels, salt=2).values()
    return np.sort(np.concatenate([rows[: max(1, round(fraction * len(rows)))] for rows in classes]))


def shots_of(labels: np.ndarray, shots: int | None) -> np.ndarray:
    """Positions of `shots` images of every class. ValueError when it is below 1, or more than a class has."""
    if shots is None:
        return np.arange(len(labels))
    classes = shuffled_classes(labels, salt=3)
    least = min(len(rows) for rows in classes.values())
    if not 1 <= shots <= least:
        raise ValueError(
            f"dataset.shots is {shots}: give a number from 1 to {least}, the size of the smallest class"
        )
    return np.sort(np.concatenate([rows[:shots] for rows in classes.values()]))
