"""How fast folders of JPEGs are read beside timm's loader and torchvision's: `python scripts/bench_folder.py`.

The same files, the same processes, random resized crops of 224 pixels and flips, bilinear, in batches of uint8; loaders
take their epochs in turn, so that a machine whose speed drifts slows all of them, and ratios are medians over rounds.
Without workers the CPU seconds of this process count, which other work here disturbs less. --root is a folder of
CLASS/*.jpg; without it pictures of two sizes are made from the photographs that come with scikit-learn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from distill import runtime
from distill.config import DataSpec
from distill.content.decode import DecodeOptions
from distill.data.dataset import data_info
from distill.data.folder import FolderSource, FolderSplit
from distill.files import write_json
from distill.record.progress import final_table

SIZES = {"500x375": (500, 375, 192), "2000x1500": (2000, 1500, 64)}  # width, height, images
Epoch = Callable[[], int]  # reads every image once, and returns how many


def make(folder: Path, width: int, height: int, count: int) -> None:
    """Parts of two photographs, enlarged."""
    (package,) = find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr, misc]
    draw = np.random.default_rng(0)
    for number in range(count):
        name = ("china", "flower")[number % 2]
        with Image.open(Path(package, "datasets", "images", f"{name}.jpg")) as photo:
            wide, high = (int(side * draw.uniform(0.6, 1.0)) for side in photo.size)
            left, top = draw.integers(photo.width - wide + 1), draw.integers(photo.height - high + 1)
            part = photo.crop((left, top, left + wide, top + high)).resize((width, height), Image.Resampling.BICUBIC)
        (folder / name).mkdir(parents=True, exist_ok=True)
        part.save(folder / name / f"{number}.jpg", quality=90)


def ours(root: Path, args: argparse.Namespace, draft: bool) -> Epoch:
    """This program's source, up to normalised batches."""
    paths = sorted(map(str, root.glob("*/*.jpg")))
    labels = np.array([Path(path).parent.name == "flower" for path in paths], dtype=np.int64)
    spec = DataSpec.of({"name": "bench", "size": 224, "mean": [0.5] * 3, "std": [0.25] * 3})
    split = FolderSplit(paths, labels, args.workers, torch.device("cpu"), reading=DecodeOptions(), draft=draft)
    source = FolderSource(split, data_info(spec, labels, ["a", "b"], held_out=False), batch_size=args.batch, seed=1)
    number = iter(range(1, 10**6))
    return lambda: sum(len(batch.inputs) for batch in source.epoch(next(number)))


def timms(root: Path, args: argparse.Namespace) -> Epoch:
    """timm's create_loader with its own transforms, less colour jitter: bytes come from workers, as ours do."""
    from timm.data import ImageDataset, create_loader

    loader = create_loader(
        ImageDataset(str(root)), (3, 224, 224), args.batch, is_training=True, num_workers=args.workers,
        persistent_workers=args.workers > 0, color_jitter=None, interpolation="bilinear", device=torch.device("cpu"),
        mean=(0.5,) * 3, std=(0.25,) * 3,
    )  # fmt: skip
    return counting(loader)


def torchvisions(root: Path, args: argparse.Namespace, *, tensors: bool) -> Epoch:
    """ImageFolder through Pillow, or decoded by torchvision.io and transformed as tensors."""
    from torchvision import io, transforms
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    norm = [(0.5,) * 3, (0.25,) * 3]
    if tensors:
        shown: Any = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(),
                                 v2.ToDtype(torch.float32, scale=True), v2.Normalize(*norm)])  # fmt: skip
        data = ImageFolder(str(root), shown, loader=lambda path: io.decode_jpeg(io.read_file(path)))
    else:
        shown = transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(),
                                    transforms.ToTensor(), transforms.Normalize(*norm)])  # fmt: skip
        data = ImageFolder(str(root), shown)
    keep = args.workers > 0
    return counting(DataLoader(data, args.batch, shuffle=True, num_workers=args.workers, persistent_workers=keep))


def counting(loader: Any) -> Epoch:
    def batches() -> Iterator[int]:
        yield from (len(labels) for _, labels in loader)

    return lambda: sum(batches())


def measure(root: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Images/s of each loader, and how many times as fast as timm's it is: medians over rounds."""
    loaders = {
        "timm's loader": timms(root, args),
        "torchvision, Pillow": torchvisions(root, args, tensors=False),
        "torchvision.io": torchvisions(root, args, tensors=True),
        "this program": ours(root, args, draft=False),
        "this program, draft": ours(root, args, draft=True),
    }
    clock = time.perf_counter if args.workers else time.process_time
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(args.rounds + 1):
        for name, epoch in loaders.items():
            start = clock()
            count = epoch()
            if number:
                rates[name].append(count / (clock() - start))
    base = rates["timm's loader"]
    return {name: {"images_per_second": statistics.median(each),
                   "to_timm": statistics.median(a / b for a, b in zip(each, base, strict=True))}
            for name, each in rates.items()}  # fmt: skip


def main() -> None:
    """Parse the command line, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"workers": args.workers, "batch": args.batch, "rows": {}}
    found |= {"seconds": "wall" if args.workers else "CPU", **runtime.describe_machine(torch.device("cpu"))}
    path = args.out / f"folder-{args.workers}-workers.json"
    with tempfile.TemporaryDirectory(prefix="distill-bench-") as place:
        roots = {args.root.name: args.root} if args.root else {name: Path(place, name) for name in SIZES}
        for name, root in roots.items():
            if not args.root:
                make(root, *SIZES[name])
            found["rows"][name] = measure(root, args)
            write_json(path, found)  # each, for what is cut off later
    rows = [(name, loader, f"{row['images_per_second']:.0f}", f"{row['to_timm']:.2f}")
            for name, each in found["rows"].items() for loader, row in each.items()]  # fmt: skip
    final_table(rows, ("images", "loader", "images/s", "x timm's"), title=f"{args.workers} workers, {found['device']}")
    print(path)


if __name__ == "__main__":
    main()
