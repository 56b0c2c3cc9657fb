"""What is said of a folder's images before training: what is done to them that is not plain reading, once a kind."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from distill.content import examine
from distill.content.decode import DecodeOptions
from distill.content.index import Index
from distill.content.listing import leaving_out

log = logging.getLogger(__name__)


@dataclass
class UsedImages:
    """The images [M] of an index's rows that are used, and their labels int64 [M]."""

    index: Index
    rows: np.ndarray
    labels: np.ndarray

    def paths(self) -> list[str]:
        """Their paths."""
        return [str(path) for path in self.index.listing.paths()[self.rows]]

    def digests(self) -> np.ndarray:
        """A digest of the content of each [M], as a text of bytes that can be compared."""
        return np.ascontiguousarray(self.index.digests[self.rows]).view(f"V{self.index.digests.shape[1]}").ravel()


def describe(train: UsedImages, test: UsedImages | None, reading: DecodeOptions) -> None:
    """Log what decoding changes, which files are left out, and which images are in both parts.

    Raises ValueError for images whose range of values is not known, and for a dataset.value_range that none needs.
    """
    parts = [train] if test is None else [train, test]
    flags = np.concatenate([part.index.flags[part.rows] for part in parts])
    check_range(flags, reading, [path for part in parts for path in part.paths()])
    for flag, words in _words(reading).items():
        if count := int((flags & flag).astype(bool).sum()):
            log.info("%d of %d images %s", count, len(flags), words)
    for index in {id(part.index): part.index for part in parts}.values():
        if left_out := index.listing.left_out:
            log.info("%s", leaving_out(index.listing.folder, left_out))
    _tell_contradictions(train)
    if test is None:
        return
    twice = np.isin(test.digests(), train.digests())
    if twice.any():
        example = test.paths()[int(np.flatnonzero(twice)[0])]
        log.warning("%d of the %d images that are evaluated are training images too, such as %s: the accuracy is too "
                    "high", int(twice.sum()), len(twice), example)  # fmt: skip


def _tell_contradictions(train: UsedImages) -> None:
    """Say which images are in two classes: by a copy, or by a link to another class or to the folder around them."""
    if len(train.labels) < 2 or (train.labels == train.labels[0]).all():
        return
    order = np.lexsort((train.labels, *train.index.digests[train.rows].T))
    digests, labels = train.index.digests[train.rows][order], train.labels[order]
    same = (digests[1:] == digests[:-1]).all(axis=1) & (labels[1:] != labels[:-1])
    if same.any():
        first = int(np.flatnonzero(same)[0])
        pair = (train.paths()[order[k]] for k in (first, first + 1))
        log.warning("%d training images are in two classes, such as %s and %s: no net can learn both", int(same.sum()),
                    *pair)  # fmt: skip


def check_range(flags: np.ndarray, reading: DecodeOptions, paths: list[str]) -> None:
    """Raise ValueError where values have no known range, or one is given that is not used."""
    unknown = np.flatnonzero(flags & examine.UNBOUNDED)
    if len(unknown) and not reading.value_range:
        more = f" ({len(unknown)} images)" if len(unknown) > 1 else ""
        raise ValueError(
            f"{paths[unknown[0]]}{more}: floating-point or 32-bit values of no known range: "
            "give that of black and white, such as dataset.value_range=[0,1]"
        )
    if reading.value_range and (flags & examine.COLOUR16).any():
        raise ValueError("dataset.value_range is for images of one channel, and some have colours of 16 bits: null it")
    if reading.value_range and not (flags & (examine.UNBOUNDED | examine.DEEP16)).any():
        raise ValueError("dataset.value_range is for images of more than 8 bits, and there are none: leave it null")


def _words(reading: DecodeOptions) -> dict[int, str]:
    """What is said of each kind of file."""
    low, high = reading.value_range or (0, 65535)
    turned = "are turned as EXIF says (dataset.exif=false: as they are stored)"
    return {
        examine.TURNED: turned if reading.exif else "are turned by EXIF and shown as they are stored (dataset.exif)",
        examine.ALPHA: f"have transparent parts, laid on the colour {list(reading.background)} (dataset.background)",
        examine.DEEP16: f"are of 16 bits, scaled to 8: {low} is black and {high} white (dataset.value_range)",
        examine.COLOUR16: "have colours of 16 bits, of which the upper 8 are taken",
        examine.UNBOUNDED: f"are scaled to 8 bits: {low} is black and {high} white (dataset.value_range)",
        examine.INK: "are CMYK and are converted to RGB, by their colour profiles where they bring one",
        examine.FRAMES: "have several frames or pages, of which the first is taken",
    }
