"""A folder that lets the program run on a GPU machine without a network: `python scripts/gpu/bundle.py OUT`.

It holds wheels of what such a machine lacks beside torch, torchvision and timm, and setup.sh, to be sourced. Few
MiB must do, since what travels is often limited (--limit, the checkout included): --cifar100 FOLDER --half 0|1 adds one
half of the images as lossless WebP (about 49 MiB), so that two calls bring all of them; --carry adds files (MNIST's, an
earlier call's evidence.tar.*), each at the top of the folder. setup.sh puts the wheels on the path and, once both
halves are there, writes cifar-100-python below $DISTILL_DATA. OUT belongs to a name that git ignores.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ("hydra-core", "omegaconf", "antlr4-python3-runtime")
SIDE, ROW = 32, 100  # pixels of an image; images in a row of a mosaic
PARTS = {"0": [("train", 0, 30_000)], "1": [("train", 30_000, 50_000), ("test", 0, 10_000)]}
LEAN = "git sparse-checkout set --no-cone '/*' '!/outputs/' '!/tests/reference/'"  # what no GPU is needed for
SETUP = """# source this on the GPU machine
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "${SITE:-/tmp/site}" "$bundle"/*.whl
export PYTHONPATH="${SITE:-/tmp/site}${PYTHONPATH:+:$PYTHONPATH}" DISTILL_DATA="${DISTILL_DATA:-/tmp/data}"
python3 "$bundle/bundle.py" --unpack "$bundle" "$DISTILL_DATA"
"""


def wheels(out: Path) -> None:
    """Build or fetch the wheels, of the versions that the tests were last run with."""
    pins = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    wanted = [pin for pin in pins if pin.split("==")[0] in WHEELS]
    if not list(out.glob("hydra_core-*.whl")):
        subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, *wanted], check=True)


def mosaic(images: np.ndarray) -> Image.Image:
    """Lay images [N,32,32,3] side by side, ROW in a row; the last row is filled up with black."""
    rows = -(-len(images) // ROW)
    full = np.zeros((rows * ROW, SIDE, SIDE, 3), np.uint8)
    full[: len(images)] = images
    return Image.fromarray(full.reshape(rows, ROW, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, ROW * SIDE, 3))


def cut(picture: Image.Image, count: int) -> np.ndarray:
    """The images [N,32,32,3] of a mosaic."""
    pixels = np.asarray(picture.convert("RGB"))
    tiles = pixels.reshape(-1, SIDE, ROW, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    return tiles[:count]


def pack_half(source: Path, half: str, out: Path) -> None:
    """Write one half of CIFAR-100's images as WebP mosaics, with their labels; raises OSError for missing files."""
    sys.path.insert(0, str(ROOT))
    from distill.content.pickles import read_pickle

    for old in out.glob("cifar100-*"):
        old.unlink()
    for part, first, last in PARTS[half]:
        content = read_pickle(source / "cifar-100-python" / part)
        images = np.asarray(content["data"])[first:last].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        mosaic(images).save(out / f"cifar100-{part}-{first}.webp", lossless=True, quality=90, method=4)
        labels = np.asarray([content["fine_labels"], content["coarse_labels"]], np.uint8)[:, first:last]
        np.save(out / f"cifar100-{part}-{first}.npy", labels)
    names = read_pickle(source / "cifar-100-python" / "meta")["fine_label_names"]
    (out / "cifar100-names.txt").write_text("\n".join(map(str, names)))


def unpack(bundle: Path, data: Path) -> None:
    """Keep the halves that came along below `data`, and write cifar-100-python when both are there."""
    kept, folder = data / "halves", data / "cifar-100-python"
    for path in bundle.glob("cifar100-*"):
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept)
    pieces = [(part, first, last) for half in PARTS.values() for part, first, last in half]
    if folder.exists() or not all((kept / f"cifar100-{part}-{first}.npy").exists() for part, first, _ in pieces):
        return
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        own = [(first, last) for name, first, last in pieces if name == part]
        tiles = [cut(Image.open(kept / f"cifar100-{part}-{first}.webp"), last - first) for first, last in own]
        fine, coarse = np.concatenate([np.load(kept / f"cifar100-{part}-{first}.npy") for first, _ in own], axis=1)
        rows = np.concatenate(tiles).transpose(0, 3, 1, 2).reshape(-1, 3 * SIDE * SIDE)
        content = {"data": rows, "fine_labels": fine.tolist(), "coarse_labels": coarse.tolist()}
        (folder / part).write_bytes(pickle.dumps(content, protocol=2))
    names = (kept / "cifar100-names.txt").read_text().splitlines()
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))


def checkout_size() -> int:
    """Bytes of the checkout that travel: what git does not ignore and is there; 0 without git."""
    words = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    paths = [ROOT / name for name in listed.split("\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def main() -> int:
    """Make the folder, or unpack it; exit code 1 where it is larger than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to make; with --unpack the folder that came along")
    parser.add_argument("data", type=Path, nargs="?", help="with --unpack: where the data go")
    parser.add_argument("--unpack", action="store_true")
    parser.add_argument("--cifar100", type=Path, help="the folder that holds cifar-100-python")
    parser.add_argument("--half", choices=sorted(PARTS), help="which half of CIFAR-100 to add")
    parser.add_argument("--carry", type=Path, nargs="*", default=[], help="files to take along")
    parser.add_argument("--limit", type=float, default=64, help="MiB that may travel")
    args = parser.parse_args()
    if args.unpack:
        unpack(args.out, args.data)
        return 0
    if (args.cifar100 is None) != (args.half is None):
        parser.error("--cifar100 and --half belong together")
    args.out.mkdir(parents=True, exist_ok=True)
    wheels(args.out)
    if args.half is not None:
        pack_half(args.cifar100, args.half, args.out)
    for path in [*args.carry, Path(__file__)]:
        shutil.copy(path, args.out)
    (args.out / "setup.sh").write_text(SETUP)
    size, beside = sum(path.stat().st_size for path in args.out.iterdir()) / 2**20, checkout_size() / 2**20
    print(f"{args.out}: {size:.1f} MiB, {size + beside:.1f} of {args.limit:g} with the checkout")
    if size + beside > args.limit:
        print(f"too much; a leaner checkout (git sparse-checkout disable undoes it):\n  {LEAN}")
    return int(size + beside > args.limit)


if __name__ == "__main__":
    sys.exit(main())
