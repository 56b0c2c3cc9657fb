"""The data sets that fit in memory, as arrays, from the files that torchvision writes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from distill.content.parts import FETCH_AGAIN, Arrays, Part, checked_labels
from distill.content.pickles import read_pickle
from distill.content.small_images import read_stl10, read_tinyimagenet
from distill.content.strata import stratified

FASHION = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


def read_digits(root: Path) -> Arrays:
    """The 1,797 8x8 digits that come with scikit-learn; root is not used.

    Grey values v of 0..16 become (255 v + 8) // 16, so 0..255. A fixed stratified 360 are the test set.
    """
    (package,) = find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr, misc]
    # its file alone: importing scikit-learn takes half a second
    rows = np.loadtxt(Path(package, "datasets", "data", "digits.csv.gz"), delimiter=",", dtype=np.int64)
    values, labels = rows[:, :-1], rows[:, -1]
    images = ((255 * values + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    test = stratified(labels, 360, salt=0)
    return Arrays(
        Part(images[~test], labels[~test]), Part(images[test], labels[test]), [str(k) for k in range(10)]
    )


def read_cifar10(root: Path, counts: tuple[int, int] = (10_000, 10_000)) -> Arrays:
    """cifar-10-batches-py with `counts` images in a training batch and in the test batch.

    Raises FileNotFoundError when a file is missing, ValueError naming it when its content is not CIFAR-10's.
    """
    folder = root / "cifar-10-batches-py"
    parts = [cifar_part(folder / f"data_batch_{b}", "labels", 10, counts[0]) for b in range(1, 6)]
    train = Part(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
    names = class_names(folder / "batches.meta", "label_names", 10)
    return Arrays(train, cifar_part(folder / "test_batch", "labels", 10, counts[1]), names)


def read_cifar100(root: Path, counts: tuple[int, int] = (50_000, 10_000)) -> Arrays:
    """cifar-100-python with `counts` training and test images; fine labels. Raises like `read_cifar10`."""
    folder = root / "cifar-100-python"
    train = cifar_part(folder / "train", "fine_labels", 100, counts[0])
    test = cifar_part(folder / "test", "fine_labels", 100, counts[1])
    return Arrays(train, test, class_names(folder / "meta", "fine_label_names", 100))


def cifar_part(path: Path, key: str, classes: int, count: int) -> Part:
    """One pickle of `count` 32x32 RGB images, stored planar in rows of 3072."""
    content = read_pickle(path)
    data, labels = content.get("data"), content.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (count, 3072):
        found = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{path}: 'data' should be uint8 [{count}, 3072] and is {found}; {FETCH_AGAIN}")
    images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Part(images, checked_labels(path, labels, classes, count))


def class_names(path: Path, key: str, classes: int) -> list[str]:
    names = read_pickle(path).get(key)
    if not isinstance(names, list) or len(names) != classes:
        raise ValueError(f"{path}: {key!r} should hold {classes} names and does not; {FETCH_AGAIN}")
    return [str(name) for name in names]


def read_mnist(root: Path) -> Arrays:
    """MNIST/raw. Raises like `read_cifar10`."""
    return read_idx_set(root / "MNIST" / "raw", [str(k) for k in range(10)])


def read_fashion_mnist(root: Path) -> Arrays:
    """FashionMNIST/raw. Raises like `read_cifar10`."""
    return read_idx_set(root / "FashionMNIST" / "raw", FASHION)


def read_idx_set(folder: Path, names: list[str]) -> Arrays:
    parts = []
    for stem in ("train", "t10k"):
        images = read_idx(folder / f"{stem}-images-idx3-ubyte", dims=3)
        if images.shape[1:] != (28, 28):
            path = folder / f"{stem}-images-idx3-ubyte"
            raise ValueError(
                f"{path}: images should be 28x28 and are {images.shape[1]}x{images.shape[2]}; {FETCH_AGAIN}"
            )
        path = folder / f"{stem}-labels-idx1-ubyte"
        parts.append(
            Part(images[..., None], checked_labels(path, read_idx(path, dims=1), len(names), len(images)))
        )
    return Arrays(parts[0], parts[1], names)


def read_idx(path: Path, dims: int) -> np.ndarray:
    """uint8 array of an idx file or its .gz: two zero bytes, 8 for bytes, axes, big-endian lengths, data.

    Raises FileNotFoundError, and ValueError naming the file when header and length do not agree.
    """
    packed = path.with_name(path.name + ".gz")
    try:
        blob = (
            gzip.decompress(packed.read_bytes())
            if packed.exists() and not path.exists()
            else path.read_bytes()
        )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{packed}: not a whole gzip file ({error}); {FETCH_AGAIN}") from error
    head = 4 + 4 * dims
    shape = tuple(np.frombuffer(blob[4:head], dtype=">i4").tolist()) if len(blob) >= head else ()
    if (
        blob[:4] != bytes([0, 0, 8, dims])
        or not shape
        or len(blob) - head != np.prod(shape)
        or not len(blob) - head
    ):
        raise ValueError(f"{path}: not a whole idx file of bytes with {dims} axes; {FETCH_AGAIN}")
    return np.frombuffer(blob, dtype=np.uint8, offset=head).reshape(shape)


READERS: dict[str, Callable[[Path], Arrays]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "fashion_mnist": read_fashion_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "stl10": read_stl10,
    "tinyimagenet": read_tinyimagenet,
}


OWN_FILES: dict[str, tuple[str, ...]] = {}  # of plugins' readers, below the root


def register_reader(
    name: str, files: Sequence[str] = ()
) -> Callable[[Callable[[Path], Arrays]], Callable[[Path], Arrays]]:
    """Decorate a function root -> Arrays, of a plugin, that dataset.kind=NAME, or a data set of that name, is read by.

    files: what it reads below root; what they hold is then part of a run's hash. Raises ValueError for a name that is
    taken.
    """

    def put(read: Callable[[Path], Arrays]) -> Callable[[Path], Arrays]:
        known = READERS.get(name)
        again = known is not None and (known.__module__, known.__name__) == (read.__module__, read.__name__)
        if name == "folder" or known is not None and not again:
            raise ValueError(f"there is a reader of the name '{name}' already: choose another")
        READERS[name], OWN_FILES[name] = read, tuple(files)
        return read

    return put
