"""Files that are not there yet: downloaded once, whole or not at all, however many runs start together."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.content.data_sets import KNOWN_SETS
from distill.content.parts import checked_arrays
from distill.content.readers import OWN_FILES, READERS, Arrays
from distill.file_lock import file_lock
from distill.files import one_line


def fetched(name: str, root: Path) -> Arrays:
    """Read a data set below root, after downloading it when files are missing.

    Raises ValueError naming the file and the remedy when that fails or a file is damaged.
    """
    layout = KNOWN_SETS[name].layout if name in KNOWN_SETS else ""
    where = layout or "its files"
    try:
        arrays = READERS[name](root)
        return arrays if layout or name not in OWN_FILES else checked_arrays(name, arrays)
    except FileNotFoundError as missing:
        if not layout:  # a plugin's
            raise ValueError(f"{missing.filename} is missing: put it there, or set dataset.root") from missing
        try:
            download(name, root)
            return READERS[name](root)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{missing.filename} is missing and {name} could not be downloaded ({one_line(error)}): put {where} "
                f"under {root}, or set dataset.root or DISTILL_DATA to a folder that has it"
            ) from error
    except OSError as error:  # a folder in a file's place, a link to itself, no permission
        why = f"{error.filename or root} cannot be read ({error.strerror or error})"
        raise ValueError(f"{why}: put {where} under {root}, or set dataset.root") from error


def download(name: str, root: Path) -> None:
    """Download with torchvision, which checks the checksums, beside the final place; then move it there.

    One process at a time does it; the others find it done. Raises OSError or RuntimeError.
    """
    known = KNOWN_SETS[name]
    if not known.torchvision:
        raise RuntimeError("torchvision does not offer it")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root):  # a lock would be waited for where nothing can be written
        pass
    with file_lock(root / f".{name}.lock", 0.0):
        try:
            READERS[name](root)
        except FileNotFoundError:
            with (
                tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as temporary,
                network_timeout(60.0),
            ):
                _download_into(known.torchvision, Path(temporary))
                install(Path(temporary) / known.folder, root / known.folder)


def _download_into(dataset: str, folder: Path) -> None:
    import torchvision

    part = {"split": "train"} if dataset == "STL10" else {"train": True}
    getattr(torchvision.datasets, dataset)(str(folder), download=True, **part)


def install(source: Path, target: Path) -> None:
    """Move a finished download to where it belongs; files that are already there stay."""
    if not target.exists():
        os.replace(source, target)
        return
    for path in source.rglob("*"):
        place = target / path.relative_to(source)
        if path.is_file() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, place)


@contextmanager
def network_timeout(seconds: float) -> Iterator[None]:
    """A network that swallows packets ends in an error rather than in a run that hangs."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
