"""What campaigns damage: a finished run, one that was cut off, data sets of a few images; made once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from scripts.faults.forked import forked
from scripts.faults.kills import Operations, start
from scripts.faults.shapes import fingerprint


def ready(base: Path) -> None:
    """Make what is to be damaged, once."""
    if not (base / "ready").exists():
        shutil.rmtree(base, ignore_errors=True)
        _prepare(base)


def _prepare(base: Path) -> None:
    """A finished run with a teacher of its own, one that was cut off, data sets of a few images, a sweep's attempts."""
    counted = Operations(None, note=base / "operations")
    ended = forked(lambda: start("own teacher", base / "done", counted), base)
    if ended.code != 0:
        raise RuntimeError(f"the run to be damaged ends with {ended.code}: {ended.said[-1000:]}")
    at = int((base / "operations").read_text())
    while len(list((base / "cut").glob("digits/resnet8-resnet8/**/*.ckpt"))) < 2:
        at -= 3
        shutil.rmtree(base / "cut", ignore_errors=True)
        cut = Operations(at, "after")
        forked(lambda: start("own teacher", base / "cut", cut), base)  # noqa: B023
    (base / "fingerprint.json").write_text(json.dumps(fingerprint(base / "done")))
    _small_data(base / "data")
    (base / "ready").touch()


def _small_data(root: Path) -> None:
    import pickle

    from PIL import Image

    random_bytes = np.random.default_rng(0)
    cifar = root / "cifar-100-python"
    cifar.mkdir(parents=True)
    for name, count in (("train", 20), ("test", 10)):
        data = random_bytes.integers(0, 256, (count, 3072), dtype=np.uint8)
        (cifar / name).write_bytes(pickle.dumps({b"data": data, b"fine_labels": [k % 100 for k in range(count)]}, 2))
    (cifar / "meta").write_bytes(pickle.dumps({b"fine_label_names": [str(k).encode() for k in range(100)]}, 2))
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 20), ("t10k", 10)):
        images = random_bytes.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = bytes([0, 0, 8, 3]) + np.array([count, 28, 28], ">i4").tobytes()
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = bytes([0, 0, 8, 1]) + np.array([count], ">i4").tobytes() + bytes(k % 10 for k in range(count))
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            (root / "images" / split / label).mkdir(parents=True)
            for k in range(4):
                pixels = random_bytes.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "images" / split / label / f"{split}{k}.{('png', 'jpg')[k % 2]}")
