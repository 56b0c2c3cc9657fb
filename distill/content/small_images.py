"""STL-10 and Tiny ImageNet as arrays, and their images made smaller once, when they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from distill.content.parts import FETCH_AGAIN, Arrays, Part, checked_labels

STL10_SIDE, TINY_SIDE = 96, 64


def read_stl10(root: Path, counts: tuple[int, int] = (5_000, 8_000)) -> Arrays:
    """stl10_binary with `counts` labelled training and test images; the 100,000 without a label are not read.

    Raises FileNotFoundError when a file is missing, ValueError naming it when its content is not STL-10's.
    """
    folder = root / "stl10_binary"
    names = (folder / "class_names.txt").read_text(encoding="utf-8").split()
    if len(names) != 10:
        found = f"{folder / 'class_names.txt'} should hold 10 names and holds {len(names)}"
        raise ValueError(f"{found}; {FETCH_AGAIN}")
    return Arrays(_stl10_part(folder, "train", counts[0]), _stl10_part(folder, "test", counts[1]), names)


def _stl10_part(folder: Path, stem: str, count: int) -> Part:
    """Images stored planar with columns before rows, labels counted from 1."""
    path = folder / f"{stem}_X.bin"
    values = np.fromfile(path, dtype=np.uint8)
    wanted = count * 3 * STL10_SIDE**2
    if len(values) != wanted:
        raise ValueError(f"{path} should have {wanted} bytes and has {len(values)}; {FETCH_AGAIN}")
    images = np.ascontiguousarray(values.reshape(count, 3, STL10_SIDE, STL10_SIDE).transpose(0, 3, 2, 1))
    marks = folder / f"{stem}_y.bin"
    labels = np.fromfile(marks, dtype=np.uint8).astype(np.int64) - 1
    return Part(images, checked_labels(marks, labels, 10, count))


def read_tinyimagenet(root: Path) -> Arrays:
    """tiny-imagenet-200 as it is published: train/<wnid>/images, val/images with val/val_annotations.txt.

    Class k is the k-th wnid in alphabetical order. A val that was sorted into val/<wnid>/ is read as well.
    Raises FileNotFoundError when a file is missing, ValueError naming one that is no 64x64 image.
    """
    folder = root / "tiny-imagenet-200"
    wnids = sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
    train = [(path, k) for k, wnid in enumerate(wnids) for path in _images(folder / "train" / wnid)]
    return Arrays(_decoded(train), _decoded(_validation(folder / "val", wnids)), wnids)


def _images(folder: Path) -> list[Path]:
    """The image files of one class. Raises FileNotFoundError where there is none."""
    inner = folder / "images"
    found = sorted((inner if inner.is_dir() else folder).glob("*.JPEG"))
    if not found:
        raise FileNotFoundError(2, "no images", str(folder))
    return found


def _validation(folder: Path, wnids: Sequence[str]) -> list[tuple[Path, int]]:
    listed = folder / "val_annotations.txt"
    if (folder / wnids[0]).is_dir():
        return [(path, k) for k, wnid in enumerate(wnids) for path in _images(folder / wnid)]
    number = {wnid: k for k, wnid in enumerate(wnids)}
    rows = [line.split("\t")[:2] for line in listed.read_text(encoding="utf-8").splitlines() if line]
    if any(len(row) < 2 or row[1] not in number for row in rows) or not rows:
        wanted = "name an image and a class of wnids.txt in each line"
        raise ValueError(f"{listed} should {wanted}; {FETCH_AGAIN}")
    return [(folder / "images" / name, number[wnid]) for name, wnid in rows]


def _decoded(files: list[tuple[Path, int]]) -> Part:
    """Decode in threads: the decoder gives up Python's lock."""
    images = np.empty((len(files), TINY_SIDE, TINY_SIDE, 3), dtype=np.uint8)

    def decode(position: int) -> None:
        images[position] = _pixels(files[position][0])

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(len(files))):
            pass
    return Part(images, np.array([label for _, label in files], dtype=np.int64))


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as file:
            pixels = np.asarray(file.convert("RGB"))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded ({error}); {FETCH_AGAIN}") from error
    if pixels.shape != (TINY_SIDE, TINY_SIDE, 3):
        found = f"{path} is {pixels.shape[1]}x{pixels.shape[0]} and should be {TINY_SIDE}x{TINY_SIDE}"
        raise ValueError(f"{found}; {FETCH_AGAIN}")
    return pixels


def resized(arrays: Arrays, size: int) -> Arrays:
    """The arrays with images at size x size, bilinear with antialiasing: what torchvision's Resize gives."""
    train, test = (Part(_smaller(part.images, size), part.labels) for part in (arrays.train, arrays.test))
    return Arrays(train, test, arrays.class_names)


def _smaller(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N,H,W,C] to [N,size,size,C]."""
    from PIL import Image

    if images.shape[1:3] == (size, size):
        return images
    chans = images.shape[3]
    made = np.empty((len(images), size, size, chans), dtype=np.uint8)
    for position, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if chans == 1 else image)
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        made[position] = np.asarray(picture).reshape(size, size, chans)
    return made
