"""What a data set and a file of weights are by what they hold: the same in any place, another where a bit is another.

Data sets whose content the program itself pins (downloads with checksums, the embedded digits) have no fingerprint:
they are what their name says, so that runs on them are called what they were always called. What was found is kept
beside the sizes and times of the files, and found again without reading them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.content.data_sets import KNOWN_SETS, KnownSet
from distill.content.image_record import RACY, cache_folder
from distill.cores import workers_of
from distill.files import SaveError, read_mapping, write_json
from distill.run_folder import weights_file

if TYPE_CHECKING:  # numpy is imported where something is read, not where it is known already
    from distill.content.index import Index
    from distill.content.parts import Arrays

log = logging.getLogger(__name__)
LENGTH = 16  # hex digits
LOCAL = "local-dir:"  # a folder as the Hub has them: config.json and weights
KNOWN_FOR = 60.0  # seconds for which a folder of very many images is not listed again in one process
MANY = 5000  # images
_PUBLISHED = {  # weights by which recorded runs are called by the place of their file
    "f4c5120a8aeeab7a": "teachers/resnet56-4bfd9763.th",
    "0e2f04b32c31dff6": "teachers/resnet20-12fca82f.th",
}


def data_fingerprint(node: Mapping[str, Any]) -> str | None:
    """What a data set's files hold, hex, of a plain node of conf/dataset; None where they are the published ones, and
    where they are not there yet. Raises ValueError for files that are damaged.
    """
    kind, root = str(node.get("kind") or node.get("name")), Path(str(node.get("root") or "data"))
    if kind == "folder":
        return _of_folder(node, root)
    if kind == "tinyimagenet":
        return _of_trees([root / "tiny-imagenet-200" / part for part in ("train", "val")], 8)
    if not is_present(kind, root):
        return None
    files = _files_of(kind, root)
    return _cached(files, f"data {kind}", lambda: _of_arrays(kind, root, files))


def is_present(kind: str, root: Path) -> bool:
    """Whether all files that a data set is read from are there."""
    files = _files_of(kind, root)
    return bool(files) and all(path.is_file() for path in files)


def _files_of(kind: str, root: Path) -> list[Path]:
    """The files that a data set is read from, packed ones where there are no others."""
    if kind == "digits":
        found = find_spec("sklearn")
        places = found.submodule_search_locations if found else None
        return [Path(places[0], "datasets", "data", "digits.csv.gz")] if places else []
    if kind not in KNOWN_SETS:
        from distill.content.readers import OWN_FILES

        return [root / name for name in OWN_FILES.get(kind, ())]
    plain = [root / name for name in KNOWN_SETS[kind].files]
    if not KNOWN_SETS[kind].packed_md5:
        return plain
    return [path if path.exists() else path.with_name(f"{path.name}.gz") for path in plain]


def weights_fingerprint(given: str | Path) -> str | None:
    """What a file of weights holds, whatever its layout: FILE, FILE::ENTRY or a run's folder, see `state_file`.

    None where it is not there. Raises ValueError for a file that is damaged or holds no state.
    """
    try:
        path, entry = weights_file(given)
    except ValueError:
        return None

    def compute() -> str:
        from distill.content.state_file import read_state  # imports torch

        return state_digest(read_state(given))

    found = _cached([path], f"weights {entry or ''}", compute)
    return _PUBLISHED.get(str(found), found)


def folder_model(name: str) -> str:
    """A model's name, with what its folder holds in place of where it is, where it is a folder's: local-dir:FOLDER."""
    place = Path(name.removeprefix(LOCAL))
    if not name.startswith(LOCAL) or not place.is_dir():
        return name
    kinds = (".json", ".safetensors", ".bin", ".pth", ".pth.tar")  # what timm reads of such a folder
    files = [path for path in sorted(place.iterdir()) if path.name.endswith(kinds) and path.is_file()]

    def compute() -> str:
        hashed = hashlib.sha256()
        for path in files:
            hashed.update(f"{path.name} {path.stat().st_size}\0".encode(errors="surrogateescape") + path.read_bytes())
        return hashed.hexdigest()[:LENGTH]

    return f"{LOCAL}{_cached(files, 'model', compute)}"


def state_digest(state: Mapping[str, Any]) -> str:
    """A hash of the names and values of a state dict, of any type that holds the same numbers; less BatchNorm's counts,
    which old files lack and no result depends on.
    """
    hashed = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith("num_batches_tracked"):
            value = state[name].detach().cpu().double().contiguous()
            hashed.update(f"{name} {tuple(value.shape)}\0".encode())
            hashed.update(value.numpy().tobytes())
    return hashed.hexdigest()[:LENGTH]


def arrays_digest(arrays: Arrays) -> str:
    """A hash of images, labels and class names."""
    import numpy as np

    hashed = hashlib.sha256("\0".join(arrays.class_names).encode())
    for part in (arrays.train, arrays.test):
        hashed.update(f"{part.images.shape} ".encode())
        hashed.update(np.ascontiguousarray(part.images).tobytes())
        hashed.update(np.ascontiguousarray(part.labels, dtype=np.int64).tobytes())
    return hashed.hexdigest()[:LENGTH]


def _of_arrays(kind: str, root: Path, files: Sequence[Path]) -> str | None:
    """None for the published content, told by the files or, where they are packed otherwise, by the arrays."""
    for path in files:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise ValueError(f"{path} is no file: put a good copy there")
    sums = tuple(hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files)
    known = KNOWN_SETS.get(kind)
    if known and (sums in (known.md5, known.packed_md5) or _unpacked_of_published(known, files)):
        return None
    from distill.content.parts import checked_arrays
    from distill.content.readers import READERS

    arrays = READERS[kind](root)
    found = arrays_digest(arrays if known else checked_arrays(kind, arrays))
    return None if known and found == known.content else found


def _unpacked_of_published(known: KnownSet, files: Sequence[Path]) -> bool:
    """Whether each file is what the published .gz beside it holds."""
    import gzip

    packed = [path.with_name(f"{path.name}.gz") for path in files]
    if not known.packed_md5 or not all(path.is_file() for path in packed):
        return False
    content = [path.read_bytes() for path in packed]
    sums = tuple(hashlib.md5(each, usedforsecurity=False).hexdigest() for each in content)
    return sums == known.packed_md5 and all(
        gzip.decompress(each) == path.read_bytes() for each, path in zip(content, files, strict=True)
    )


def _of_folder(node: Mapping[str, Any], root: Path) -> str | None:
    """Of the folders that are read: val not where a part of train is held out, depth where a view asks for it."""
    if node.get("labels") is False:
        return _of_unlabelled(node, root)
    parts = ["train"] if node.get("holdout") else ["train", "val"]
    if "depth" in (node.get("views") or {}).values():
        parts += [f"depth/{part}" for part in parts]
    return _of_trees([root / part for part in parts], workers_of(node.get("workers")))


def _of_unlabelled(node: Mapping[str, Any], root: Path) -> str | None:
    """Of images of which training reads no label, and of root/val where it is there."""
    from distill.content.index import indexed, train_indexed

    if not root.is_dir():
        return None
    workers, val = workers_of(node.get("workers")), root / "val"
    found = [train_indexed(root, workers, labels=False)]
    if val.is_dir() and not node.get("holdout"):
        found.append(indexed(val, workers))
    return _combined(found)


_listed: dict[tuple[Path, ...], tuple[float, str]] = {}


def _of_trees(folders: Sequence[Path], workers: int) -> str | None:
    """A hash of all names and contents in some folders; None where one is not there."""
    if not all(folder.is_dir() for folder in folders):
        return None
    known = _listed.get(tuple(folders))
    if known and time.monotonic() - known[0] < KNOWN_FOR:
        return known[1]
    from distill.content.index import indexed

    found = [indexed(folder, workers) for folder in folders]
    digest = _combined(found)
    if sum(len(each.seen) for each in found) > MANY:
        _listed[tuple(folders)] = (time.monotonic(), digest)
    return digest


def _combined(found: Sequence[Index]) -> str:
    return hashlib.sha256(" ".join(each.digest() for each in found).encode()).hexdigest()[:LENGTH]


_found: dict[tuple[str, tuple[Any, ...]], str | None] = {}


def _cached(files: Iterable[Path], what: str, compute: Callable[[], str | None]) -> str | None:
    """What `compute` found of some files, kept while their sizes and times are what they were."""
    paths = [path.resolve() for path in files]
    stats = [[str(path), *_stat(path)] for path in paths]
    key = (what, tuple(map(tuple, stats)))
    if key in _found:
        return _found[key]
    name = hashlib.sha256("\0".join([what, *map(str, paths)]).encode(errors="surrogateescape")).hexdigest()[:16]
    place = cache_folder() / "contents" / f"{name}.json"
    stored = read_mapping(place)
    began = time.time_ns()
    if stored.get("stats") == stats and stored.get("what") == what and _settled(stats, stored.get("seen")):
        found = stored.get("found")
    else:
        found = compute()
        try:
            write_json(place, {"what": what, "stats": stats, "seen": began, "found": found})
        except SaveError as error:
            log.debug("%s", error)
    found = found if found is None else str(found)
    if _settled(stats, began):
        _found[key] = found
    return found


def _stat(path: Path) -> tuple[int, int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _settled(stats: Sequence[Sequence[Any]], seen: Any) -> bool:
    """Whether files had not been written to just before they were looked at."""
    return isinstance(seen, int) and all(max(stat[2:]) <= seen - RACY for stat in stats)
