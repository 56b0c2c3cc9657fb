"""The weights in a checkpoint file of others: never running code from it, and saying what it does not hold.

Files: safetensors (our exports); {'model': state} of RepDistiller and mdistiller; {'state_dict':
{'module.conv1...'}} of akamaster's CIFAR-10 ResNets and of most trainers; plain state dicts; the folder of a run. Where
a file holds several states, FILE::ENTRY says which: one of its entries, or the first word of one net's names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import pickle
import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.content.other_files import what_else
from distill.run_folder import weights_file

log = logging.getLogger(__name__)
State = dict[str, Tensor]

WRAPPERS = ("model", "state_dict", "student", "teacher", "net", "network", "model_state_dict", "weights", "params")
AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "teacher_ema", "student_ema", "shadow")
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "net.", "network.", "teacher.", "student.", "encoder.")
LEFTOVERS = ("total_ops", "total_params", "n_averaged")  # buffers of profilers such as thop, and of torch's averages
SUM = "sha256"  # in an export's metadata
_DEEPEST = 8  # wrappers around a state
# what old checkpoints hold beside tensors: numpy scalars and the run's options; none of it runs code
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)),
]
BROKEN = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    MemoryError,  # a file that claims to be larger than the memory
)


def read_state(path: str | Path) -> State:
    """The state dict in a checkpoint file, without wrappers' prefixes; ValueError naming the file."""
    try:
        file, entry = weights_file(path)
    except ValueError as error:
        raise ValueError(f"There is no checkpoint file {path}: check the path given as weights") from error
    content = read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    if entry is not None:
        content = _entry(file, content, entry)
    state = _unwrap(file, content)
    if not state:
        named = next((name for name, part in _entries(content).items() if _tensors(part)), None)
        what = "give a checkpoint of a network's weights" if named is None else f"{path}::{named} takes that of {named}"
        raise ValueError(f"{path} holds no state dict{' under a usual name' * (named is not None)}: {what}")
    _check_values(file, state)
    return state


def _entry(path: Path, content: Any, name: str) -> Any:
    """One part of a file's content: an entry, or of a state that holds several nets (a module with `teacher` and
    `student` in it, as Lightning's) those weights whose names begin so. Raises ValueError where it has no such part.
    """
    parts = _entries(content)
    if name in parts:
        return parts[name]
    with suppress(ValueError):  # several states, of which none is meant
        if found := state_below(_unwrap(path, content), name):
            return found
    there = f"its entries are {', '.join([*parts][:8])}" if parts else "it is one state, without entries"
    raise ValueError(f"{path} has no entry {name}: {there}")


def _entries(content: Any) -> dict[str, Any]:
    mappings = content.items() if _is_mapping(content) else ()
    return {str(key): value for key, value in mappings if isinstance(value, Mapping)}


def state_below(state: State, name: str) -> State:
    """Those weights of a state whose names begin with `name` and a dot, without it."""
    return _bare({key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")})


def _check_values(path: Path, state: State) -> None:
    """Raise ValueError for values that no network can take: complex, sparse, quantised, without data, not finite."""
    for name, value in state.items():
        if value.is_complex() or value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise ValueError(f"{path}: {name} is no dense tensor of real numbers: save a plain state dict")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path}: {name} holds values that are not finite: its training failed, take another file")


def read_safetensors(path: Path) -> State:
    """All tensors of a file, held against its checksum where it brings one. Raises ValueError naming the file."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        what = what_else(path) or "is damaged or no safetensors file: copy or download it again"
        raise ValueError(f"{path} {what}") from error
    if SUM in metadata and metadata[SUM] != tensors_sum(state, metadata):
        raise ValueError(f"{path} was altered after it was written (its checksum differs): copy or make it again")
    return state


def sealed(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    """A safetensors file of tensors on the CPU, with texts and a checksum of all that is in it among its metadata; the
    same bytes each time.
    """
    import safetensors.torch

    data: bytes = safetensors.torch.save(dict(tensors), {**texts, SUM: tensors_sum(tensors, texts)})
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # the library has them in an order of chance
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return data[:8] + text.ljust(end - 8) + data[end:] if len(text) <= end - 8 else data


def tensors_sum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The checksum of an export: of its tensors, bit by bit, and of all else that its header says."""
    texts = {key: str(value) for key, value in metadata.items() if key != SUM}
    hashed = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return hashed.hexdigest()


def sum_of(path: str | Path) -> str | None:
    """The checksum that an export brings; None where it brings none."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():  # a pipe would never end
        return None
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(SUM)
    except (SafetensorError, OSError):
        return None


def _read_pickle(path: Path) -> Any:
    """torch.load that refuses everything but tensors, containers, numbers and the HARMLESS."""
    try:
        if zipfile.is_zipfile(path):
            _check_sums(path)
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN as error:
        if isinstance(error, pickle.UnpicklingError) and _asks_for_code(path, error):
            raise ValueError(
                f"{path} would run code when loaded, so it was refused ({_first_global(error)}): if you trust its "
                "source, load it elsewhere and save its state dict as safetensors"
            ) from error
        what = what_else(path) or "is damaged or no checkpoint of torch.save: copy or download it again"
        raise ValueError(f"{path} {what}") from error


def _check_sums(path: Path) -> None:
    """Hold what torch.save wrote against its checksums, which torch.load does not. Raises RuntimeError."""
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.CRC:  # 0: written with torch.serialization.set_crc32_options(False)
                try:
                    with archive.open(part) as file:
                        while file.read(2**20):
                            pass
                except (zipfile.BadZipFile, zlib.error) as error:
                    raise RuntimeError(f"{part.filename} was altered") from error


def _asks_for_code(path: Path, error: pickle.UnpicklingError) -> bool:
    """Whether the pickle names a function or class (by torch's word, or by its own instructions)."""
    if "GLOBAL" in str(error):
        return True
    found = False
    with path.open("rb") as file:
        try:
            for instruction, _, _ in pickletools.genops(file):
                found = found or instruction.name in ("GLOBAL", "STACK_GLOBAL", "INST")
        except ValueError:  # no pickle to its end
            return False
    return found


def _first_global(error: pickle.UnpicklingError) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"it calls {named[1]}" if named else "it holds more than tensors"


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _unwrap(path: Path, content: Any) -> State:
    """Descend through {'model': ...} and the like, drop what others left, and strip prefixes that all names share.

    Raises ValueError for a file that holds several states: which is meant, only its user knows.
    """
    for _ in range(_DEEPEST):
        inner = _inner(path, content) if _is_mapping(content) else None
        if inner is None:
            break
        content = content[inner]
    if not _is_mapping(content):
        return {}
    return _bare(_tensors(content))


def _tensors(content: Mapping[Any, Any]) -> State:
    """The weights among what a mapping holds."""
    names = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return {key: value for key, value in names.items() if key.rpartition(".")[2] not in LEFTOVERS}


def _bare(state: State) -> State:
    """A state without the prefixes that all its names share."""
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _inner(path: Path, content: Mapping[Any, Any]) -> str | None:
    """The entry of a file that is its state; None where it is one itself."""
    last = [key for key in WRAPPERS if _is_mapping(content.get(key))]
    averaged = [key for key in AVERAGED if _is_mapping(content.get(key))]
    found = last or averaged
    if len(found) > 1:
        raise ValueError(f"{path} holds several states, {', '.join(found)}: name one, as in {path}::{found[0]}")
    if last and averaged:
        log.info("%s holds averaged weights as well: %s::%s takes them", path, path, averaged[0])
    return found[0] if found else None
