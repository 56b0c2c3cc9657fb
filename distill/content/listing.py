"""The images of a folder, in class folders or without classes, in torchvision's order, with what a stat tells of each.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.content.memo import memoised

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
              ".gif", ".jfif", ".jp2", ".avif")  # fmt: skip
"""What counts as an image: torchvision's, and others that Pillow decodes."""
VAL = "val"  # below dataset.root: what is evaluated


@dataclass
class Listing:
    """N images below a folder. names [N]: relative paths; labels int64 [N], zeros where there are no classes; stats
    int64 [N,3]: size, and the times of the last change of content and of the file, in nanoseconds; left_out: how many
    other files and hidden folders, by their endings.
    """

    folder: Path
    classes: list[str]
    names: list[str]
    labels: np.ndarray
    stats: np.ndarray
    left_out: Counter[str]

    def paths(self) -> np.ndarray:
        """Their paths [N]."""
        return np.array([os.path.join(self.folder, name) for name in self.names])


def train_and_val(root: Path, labels: bool = True) -> tuple[Path, Path]:
    """Where the training images of a folder lie, and the evaluated ones: root/train and root/val. Images without labels
    may lie in root itself, beside val.
    """
    train = root / "train"
    return train if labels or train.is_dir() else root, root / VAL


def train_listed(root: Path, labels: bool = True) -> Listing:
    """The training images of a folder. Raises ValueError as `listed`."""
    train, val = train_and_val(root, labels)
    return listed(train, labels, val.name if train == root else None)


def listed(folder: Path, labels: bool = True, without: str | None = None) -> Listing:
    """List folder/<class>/**/*, hidden files and folders left out; where labels are not needed also images of no class,
    folder/**/*, and then the folder `without` in it is left alone.

    Raises ValueError where there is no such folder, no image, or a class without one.
    """
    return memoised(("listed", folder.absolute(), labels, without), lambda: _listed(folder, labels, without))


def _listed(folder: Path, labels: bool, without: str | None) -> Listing:
    if not labels and (flat := _flat(folder, without)) is not None:
        return flat
    remedy = f"put images into {folder}/<class>/, or set dataset.root"
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder: {remedy}")
    left_out: Counter[str] = Counter()
    try:
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
        classes = [entry.name for entry in inside if entry.is_dir() and not _is_hidden(entry.name)]
        known = frozenset(classes)
        left_out.update(_ending(entry.name) for entry in inside if entry.name not in known)
        found = [list(_images(folder, name, left_out)) for name in classes]
    except OSError as error:
        raise ValueError(f"{error.filename or folder} cannot be listed ({error.strerror}): {remedy}") from error
    if empty := [name for name, images in zip(classes, found, strict=True) if not images]:
        many = f"{', '.join(empty[:3])}{f' and {len(empty) - 3} more' if len(empty) > 3 else ''}"
        raise ValueError(f"{folder}: no image in class {many}: {remedy}, or remove the class's folder")
    if not classes:
        alone = any(is_image(entry.name) for entry in inside)
        remedy += ", or say that they have no classes, dataset.labels=false" if alone else ""
        raise ValueError(f"{folder}: no class folder is in it: {remedy}")
    images = [image for each in found for image in each]
    numbers = np.repeat(np.arange(len(classes), dtype=np.int64), [len(each) for each in found])
    stats = np.array([stat for _, stat in images], dtype=np.int64)
    return Listing(folder, classes, [name for name, _ in images], numbers, stats, left_out)


def _flat(folder: Path, without: str | None) -> Listing | None:
    """The images of a folder that has no classes, for some lie in it directly. None for others."""
    left_out: Counter[str] = Counter()
    try:
        names = [entry.name for entry in os.scandir(folder)]
        if not any(map(is_image, names)) and without not in names:
            return None
        found = [image for image in _images(folder, "", left_out) if image[0].split(os.sep)[0] != without]
    except OSError as error:
        why = f"{error.filename or folder} cannot be listed ({error.strerror})"
        raise ValueError(f"{why}: set dataset.root to a folder of images") from error
    if not found:
        raise ValueError(f"{folder}: no image is in it: put images there, or set dataset.root")
    stats = np.array([stat for _, stat in found], dtype=np.int64)
    return Listing(folder, [], [name for name, _ in found], np.zeros(len(found), np.int64), stats, left_out)


def _is_hidden(folder: str) -> bool:
    """Whether a folder is no class but what notebooks, systems and archivers leave: .ipynb_checkpoints, __MACOSX."""
    return folder.startswith(".") or folder == "__MACOSX"


def images_below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The image files in a folder and in those in it, links to folders too, sorted; and what is left out, as `Listing`
    has it. Raises ValueError for a folder that cannot be listed.
    """
    left_out: Counter[str] = Counter()
    try:
        return sorted(folder / name for name, _ in _images(folder, "", left_out)), left_out
    except OSError as error:
        raise ValueError(f"{error.filename or folder} cannot be listed ({error.strerror})") from error


def leaving_out(folder: Path, left_out: Counter[str]) -> str:
    """Which files of a folder are no images, in a sentence."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common(4))
    return f"{folder}: {left_out.total()} files or folders are no images and are left out ({kinds})"


def is_image(name: str) -> bool:
    """Whether a file counts as an image, by its name."""
    return not name.startswith(".") and name.lower().endswith(EXTENSIONS)


def _images(folder: Path, name: str, left_out: Counter[str]) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """The images of one class, and of the folders in it: folders by their paths, files by their names."""
    found: list[tuple[str, str, tuple[int, int, int]]] = []
    waiting: list[tuple[str, frozenset[str]]] = [(name, frozenset())]  # and the folders around it, once one is asked
    while waiting:
        below, above = waiting.pop()
        with os.scandir(os.path.join(folder, below)) as entries:
            for entry in entries:
                if entry.is_dir() and _is_hidden(entry.name):
                    left_out[_ending(entry.name)] += 1
                elif entry.is_dir():
                    real, around = os.path.realpath(entry.path), above or _around(os.path.join(folder, below))
                    if real not in around:  # a link to a folder around it has no end
                        waiting.append((os.path.join(below, entry.name), around | {real}))
                elif not is_image(entry.name):
                    left_out[_ending(entry.name)] += 1
                else:
                    found.append((below, entry.name, _stat(entry)))
    yield from ((os.path.join(below, file), stat) for below, file, stat in sorted(found))


def _around(place: str) -> frozenset[str]:
    """A folder and all those around it."""
    path = Path(place).resolve()
    return frozenset(map(str, (path, *path.parents)))


def _stat(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    """Size and times of a file; zeros for a link to nothing, which a look will tell of."""
    try:
        stat = entry.stat()
    except OSError:
        return 0, 0, 0
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _ending(name: str) -> str:
    return "hidden" if name.startswith(".") else os.path.splitext(name)[1] or name
