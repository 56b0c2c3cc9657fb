"""What is known of every image of a folder, kept on disk: a second start looks at what has changed alone.

A file counts as unchanged while its size and both of its times are, and while it had not been written to just before
it was looked at. What was damaged is looked at again: a newer Pillow may read it, and a disk that failed be back.
The index lies in the user's cache (`DISTILL_CACHE`, else `XDG_CACHE_HOME/distill`), a file a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distill.content.image_record import DIGEST, RACY, ImageRecord, cache_folder
from distill.content.listing import Listing, listed, train_listed
from distill.content.memo import memoised
from distill.cores import cores
from distill.files import SaveError, replacing

log = logging.getLogger(__name__)
_VERSION = 1  # of what `examine` tells
TOLD, _KEPT = 10.0, 60.0  # seconds between two lines on the progress, and between two savings
_FEW = 512  # files for which no processes are started


@dataclass
class Index:
    """What is known of a listing's N files. digests uint8 [N,16], flags int64 [N]; damage: why a row is none."""

    listing: Listing
    digests: np.ndarray
    flags: np.ndarray
    seen: np.ndarray  # int64 [N]: when each was looked at, in ns; 0: not yet
    damage: dict[int, str] = field(default_factory=dict)

    def digest(self) -> str:
        """A hash of names and contents: equal for equal folders, wherever they lie."""
        hashed = hashlib.sha256("\0".join(self.listing.names).encode(errors="surrogateescape"))
        hashed.update(self.digests.tobytes())
        return hashed.hexdigest()

    def whole(self, damaged: str = "refuse") -> np.ndarray:
        """The rows of the files that can be decoded. Raises ValueError where some cannot, unless they are to be skipped
        (dataset.damaged=skip), and where no class or not every class is left.
        """
        if not self.damage:
            return np.arange(len(self.seen))
        first = min(self.damage)
        path = self.listing.folder / self.listing.names[first]
        many = undecodable(path, self.damage[first], len(self.damage))
        if damaged != "skip":
            raise ValueError(f"{many}: replace or remove what is damaged, or leave it out, dataset.damaged=skip")
        log.warning("%s: left out, as dataset.damaged=skip asks for", many)
        rows = np.setdiff1d(np.arange(len(self.seen)), list(self.damage))
        if not len(rows):
            raise ValueError(f"{self.listing.folder}: all images are damaged")
        if lost := set(range(len(self.listing.classes))) - set(self.listing.labels[rows].tolist()):
            raise ValueError(f"{self.listing.folder}: all images of {self.listing.classes[min(lost)]} are damaged")
        return rows


def undecodable(first: Path | str, why: str, count: int) -> str:
    """Say that so many files cannot be decoded."""
    return f"{first} cannot be decoded ({why})" + (f", nor can {count - 1} more" if count > 1 else "")


def indexed(folder: Path, workers: int = 0) -> Index:
    """Look at every image of class folders that has changed since the last time, in `workers` processes where it is
    many. Raises ValueError as `listed` does.
    """
    return scanned(listed(folder), workers)


def train_indexed(root: Path, workers: int = 0, labels: bool = True) -> Index:
    """The same of the training images of a folder, which have no classes where labels are not needed."""
    return scanned(train_listed(root, labels), workers)


def scanned(listing: Listing, workers: int) -> Index:
    """What is known of each image of a listing, after a look at those that have changed."""
    return memoised(("looked at", id(listing)), lambda: _scanned(listing, workers))  # an index holds its listing: no
    # other has its id


def _scanned(listing: Listing, workers: int) -> Index:
    index = _known(listing)
    stale = np.flatnonzero(_stale(index))
    if len(stale):
        try:
            _scan_rows(index, stale, min(workers, cores()))
        finally:
            _keep(index)
    return index


def _scan_rows(index: Index, rows: np.ndarray, workers: int) -> None:
    """Look at the files of some rows, saying how far it is."""
    began = logged_at = saved_at = time.monotonic()
    paths = [os.path.join(index.listing.folder, index.listing.names[row]) for row in rows]
    for done, (row, look) in enumerate(zip(rows.tolist(), _examined(paths, workers), strict=True), 1):
        index.digests[row] = np.frombuffer(look.digest, np.uint8)
        index.flags[row], index.seen[row] = look.flags, look.seen
        if look.damage:
            index.damage[row] = look.damage
        now = time.monotonic()
        if now - logged_at > TOLD:
            left = (now - began) / done * (len(rows) - done)
            log.info("looked at %d of %d images in %s, %.0f s left", done, len(rows), index.listing.folder, left)
            logged_at = now
        if now - saved_at > _KEPT:
            _keep(index)
            saved_at = now


def examine_index(path: str) -> ImageRecord:
    """Look at an image file."""
    import distill.content.examine as images  # imports Pillow

    return images.examine(path)


def _examined(paths: Sequence[str], workers: int) -> Iterator[ImageRecord]:
    if workers < 2 or len(paths) < _FEW:
        yield from map(examine_index, paths)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(examine_index, paths, chunksize=32)


def _stale(index: Index) -> np.ndarray:
    """Which rows [N] are to be looked at."""
    changed = index.listing.stats[:, 1:].max(axis=1)
    return (index.seen == 0) | (changed > index.seen - RACY)


def _known(listing: Listing) -> Index:
    """What an earlier look has left on the files that are as they were."""
    count = len(listing.names)
    index = Index(listing, np.zeros((count, DIGEST), np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64))
    stored = _read(index_file(listing.folder))
    if not stored:
        return index
    names, old = stored
    old["seen"][list(map(int, json.loads(old["damage"].tobytes() or b"{}")))] = 0
    if names == listing.names:
        here = there = np.arange(count)
    else:
        rows = {name: row for row, name in enumerate(names)}
        there = np.array([rows.get(name, -1) for name in listing.names])
        here = np.flatnonzero(there >= 0)
        there = there[here]
    same = (listing.stats[here] == old["stats"][there]).all(axis=1)
    here, there = here[same], there[same]
    for key in ("digests", "flags", "seen"):
        getattr(index, key)[here] = old[key][there]
    return index


def _read(path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
    """Names and columns of a kept index; None where there is none that can be used."""
    try:
        with np.load(path, allow_pickle=False) as file:
            old = {key: file[key] for key in ("version", "names", "stats", "digests", "flags", "seen", "damage")}
        names = old["names"].tobytes().decode(errors="surrogateescape").split("\0")
        shapes = {"stats": (len(names), 3), "digests": (len(names), DIGEST), "flags": (len(names),)}
        whole = all(old[key].shape == shape for key, shape in {**shapes, "seen": (len(names),)}.items())
        return (names, old) if whole and int(old["version"]) == _VERSION else None
    except Exception:  # whatever a damaged file makes numpy or zipfile say: it is made anew
        return None


def _keep(index: Index) -> None:
    """Write the index; where that cannot be, the next start looks at all files again."""
    text = "\0".join(index.listing.names).encode(errors="surrogateescape")
    columns = {
        "version": np.array(_VERSION),
        "names": np.frombuffer(text, np.uint8),
        "stats": index.listing.stats,
        "digests": index.digests,
        "flags": index.flags,
        "seen": index.seen,
        "damage": np.frombuffer(json.dumps(index.damage).encode(), np.uint8),
    }
    path = index_file(index.listing.folder)
    try:
        with replacing(path) as file:
            np.savez(file, **columns)  # type: ignore[arg-type]
    except SaveError as error:
        log.warning("what was found in %s is not kept (%s)", index.listing.folder, error)


def index_file(folder: Path) -> Path:
    """The file that keeps what is known of a folder."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return cache_folder() / "folders" / f"{name}.npz"
