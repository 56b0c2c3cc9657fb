"""Depth images beside those of a folder: which belong to which, and whether they can be read."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from distill.config import DataSpec
from distill.content.index import indexed, undecodable
from distill.data.used_images import UsedImages

log = logging.getLogger(__name__)


def depth_of(paths: Iterable[str], root: Path) -> list[str]:
    """The depth images: that of root/train/a/1.jpg is root/depth/train/a/1.*. ValueError where there is none."""
    found = []
    for path in paths:
        beside = root / "depth" / Path(path).relative_to(root)
        match = sorted(beside.parent.glob(f"{glob.escape(beside.stem)}.*"))
        if len(match) != 1:
            named = beside.with_suffix(".*")
            raise ValueError(f"{path} needs one depth image, {named}: {len(match)} are there.")
        found.append(str(match[0]))
    return found


def with_whole_depth(part: UsedImages, spec: DataSpec) -> UsedImages:
    """The images whose depth images can be decoded. Raises ValueError where some cannot, unless they are to be skipped
    (dataset.damaged=skip), and where one has no depth image.
    """
    index = indexed(spec.root / "depth" / part.index.listing.folder.name, spec.workers)
    damage = {str(index.listing.folder / index.listing.names[row]): why for row, why in index.damage.items()}
    found = [(row, path) for row, path in enumerate(depth_of(part.paths(), spec.root)) if path in damage]
    if not found:
        return part
    first = found[0][1]
    many = undecodable(first, damage[first], len(found))
    if spec.damaged != "skip":
        raise ValueError(f"{many}: replace what is damaged, or leave out such pairs, dataset.damaged=skip")
    log.warning("%s: left out with their images, as dataset.damaged=skip asks for", many)
    kept = np.setdiff1d(np.arange(len(part.rows)), [row for row, _ in found])
    if lost := set(part.labels.tolist()) - set(part.labels[kept].tolist()):
        raise ValueError(f"{index.listing.folder}: all images of {index.listing.classes[min(lost)]} are damaged")
    return UsedImages(part.index, part.rows[kept], part.labels[kept])
