"""Checkpoints that survive kill -9, full disks and flipped bits, and the export of a trained network.

A checkpoint file is a header (magic, version, payload length, sha256 of the payload), then what torch.save
wrote. The digest is there because neither torch.load nor safetensors notices a flipped bit among the weights.
Loading never runs code (weights_only), so a state holds tensors, numbers, strings, bytes, None, and dicts,
lists, tuples and sets of these; `save` refuses anything else at once rather than at the resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from distill.content.state_file import sealed
from distill.errors import NoValidCheckpoint, OtherVersion
from distill.files import SaveError, json_ready, read_json, remove_temporary, replacing, write_json, write_text

__all__ = [
    "Checkpoints",
    "CorruptCheckpoint",
    "NoValidCheckpoint",
    "OtherVersion",
    "SaveError",
    "export",
    "load_state",
    "json_ready",
    "read_json",
    "save",
    "write_json",
    "write_text",
]

MAGIC = b"DISTILL\0"
VERSION = 1  # of the format: what the header and the state's own entries mean; a method's part follows its state_dict
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # a version: its state as one of the next
HEADER = struct.Struct("<8sIQ32s")  # magic, version, payload length in bytes, sha256 of the payload
MADE_BY = "distill"  # in a state: the version of the program that made it
_SCALARS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_log = logging.getLogger(__name__)


class CorruptCheckpoint(ValueError):
    """The file is not a whole, unaltered checkpoint."""


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` atomically and durably, with the version of the program.

    Raises SaveError when the disk refuses (the previous file is then untouched), ValueError naming the entry
    when `state` holds something that loading would refuse.
    """
    _check(state, "state")
    payload = io.BytesIO()
    torch.save({MADE_BY: program()} | state, payload)
    with payload.getbuffer() as data, replacing(path) as file:
        file.write(HEADER.pack(MAGIC, VERSION, len(data), _digest(VERSION, data)))
        file.write(data)


def snapshot(state: Any) -> Any:
    """A copy of a state, on the CPU, that later steps do not reach: what may be saved while they go on.

    Raises ValueError as `save` does.
    """
    _check(state, "state")
    return _copied(state)


def load_state(path: str | Path) -> dict[str, Any]:
    """The state that `save` wrote to `path`, on the CPU, in the format of today.

    Raises CorruptCheckpoint if one bit differs, OtherVersion for a format that cannot be brought up to today's.
    """
    path = Path(path)
    number, payload = _verified(path)
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # an intact file that another torch wrote, or that was made to harm
        if number != VERSION:
            raise _other(path, number, {}) from error
        reason = f"{path} is intact but torch {torch.__version__} cannot load it ({error})"
        raise CorruptCheckpoint(reason) from error
    if number > VERSION or any(old not in MIGRATIONS for old in range(number, VERSION)):
        raise _other(path, number, state)
    for old in range(number, VERSION):
        state = MIGRATIONS[old](state)
    return state


def refused(state: Mapping[str, Any], path: Path, why: str) -> OtherVersion:
    """The error of a whole state that this program cannot go on from: it was made by another one. path: to delete."""
    made = state.get(MADE_BY) or "of before checkpoints told their version"
    return OtherVersion(
        f"{why}: it was made by distill {made}, and this is {program()}; finish the run with the one that began it, "
        f"or delete {path} to start it anew"
    )


def program() -> str:
    """The version of this program."""
    try:
        return version("distill")
    except PackageNotFoundError:  # run from a checkout
        return "of a checkout"


def _other(path: Path, number: int, state: Mapping[str, Any]) -> OtherVersion:
    return refused(state, path.parent, f"{path} has checkpoint format {number}, and format {VERSION} is read here")


class Checkpoints:
    """The newest `keep` checkpoints of one run, named after their global step (step-000000123.ckpt).

    One process writes to a folder at a time. An older checkpoint is removed only once the newer is durable.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        assert keep >= 1
        self.folder, self.keep = Path(folder), keep
        remove_temporary(self.folder)

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Save `state` as that of `step`. On SaveError the older ones stand: warn, go on, try later."""
        path = self.folder / f"step-{step:09d}.ckpt"
        save(path, state)
        for old in [other for other in self.paths() if other != path][self.keep - 1 :]:
            _remove(old)
        return path

    def latest(self) -> dict[str, Any] | None:
        """The newest valid state, or None when nothing was ever saved.

        Damaged files that are newer are renamed to *.corrupt, with one warning. Raises NoValidCheckpoint when
        there are checkpoints and all are damaged: a run never starts again from zero without being told to. Raises
        OtherVersion, and leaves every file as it is, when the newest that is whole is one of another version.
        """
        bad: dict[Path, CorruptCheckpoint] = {}
        for path in self.paths():
            try:
                state = load_state(path)
            except CorruptCheckpoint as error:
                bad[path] = error
                continue
            self._quarantine(bad, path)
            return state
        lost = [*map(str, bad.values()), *(f"{path} was damaged before" for path in self._corrupt())]
        if lost:
            raise NoValidCheckpoint(
                f"No valid checkpoint is left ({'; '.join(lost)}): "
                f"delete the folder {self.folder} to start this run anew"
            )
        return None

    def paths(self) -> list[Path]:
        """The checkpoint files, newest first."""
        found = [path for path in self.folder.glob("step-*.ckpt") if path.stem[5:].isdecimal()]
        return sorted(found, key=lambda path: int(path.stem[5:]), reverse=True)

    def clear(self) -> None:
        """Remove every checkpoint, damaged ones too: the run is done, or starts anew."""
        for path in [*self.paths(), *self._corrupt()]:
            _remove(path)

    def _corrupt(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.ckpt.corrupt"))

    def _quarantine(self, bad: Mapping[Path, Exception], used: Path) -> None:
        for path in bad:
            with contextlib.suppress(OSError):  # a read-only folder: the file is judged again next time
                os.replace(path, path.with_name(path.name + ".corrupt"))
        if bad:
            reasons = "; ".join(map(str, bad.values()))
            _log.warning("%s; renamed to *.corrupt, going on from %s", reasons, used.name)


def export(model: torch.nn.Module, path: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write model.state_dict() as safetensors, atomically, and `metadata` as strings. Raises SaveError."""
    data = exported(model, metadata)
    with replacing(path) as file:
        file.write(data)


def exported(model: torch.nn.Module, metadata: Mapping[str, Any] | None = None) -> bytes:
    """What `export` writes: the weights, and a checksum of them among the metadata."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    return sealed(tensors, {key: str(value) for key, value in (metadata or {}).items()})


def _digest(number: int, data: memoryview) -> bytes:
    """SHA-256 of the payload; from format 2 on with the format's number, which format 1 leaves out."""
    first = b"" if number == 1 else struct.pack("<I", number)
    digest = hashlib.sha256(first)
    digest.update(data)
    return digest.digest()


def _verified(path: Path) -> tuple[int, memoryview]:
    """Format and payload of a checkpoint whose every bit is as it was written."""
    if path.exists() and not path.is_file():  # a pipe would never end
        raise CorruptCheckpoint(f"{path} is no file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptCheckpoint(f"{path} cannot be read ({error.strerror})") from error
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise CorruptCheckpoint(f"{path} is no checkpoint or lost its beginning")
    _, number, length, digest = HEADER.unpack_from(data)
    payload = memoryview(data)[HEADER.size :]
    if len(payload) != length:
        raise CorruptCheckpoint(f"{path} holds {len(payload)} bytes of {length}")
    if _digest(number, payload) != digest:
        raise CorruptCheckpoint(f"{path} was altered after it was written (sha256 differs)")
    return number, payload


def _check(value: Any, where: str) -> None:
    """ValueError for the first entry that torch.load(weights_only=True) would refuse."""
    kind = type(value)
    if kind in (dict, OrderedDict):
        for key, entry in value.items():
            _check(key, f"a key of {where}")
            _check(entry, f"{where}[{key!r}]")
    elif kind in (list, tuple, set):
        for position, entry in enumerate(value):
            _check(entry, f"{where}[{position}]")
    elif kind not in (*_SCALARS, torch.Tensor, torch.nn.Parameter):
        raise ValueError(
            f"{where} is of type {kind.__module__}.{kind.__qualname__}, which a checkpoint "
            "cannot hold: use tensors, numbers, strings, or dicts, lists and tuples of these"
        )


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple, set) else value


def _remove(path: Path) -> None:
    try:
        os.unlink(path)
    except OSError as error:  # harmless: the next save tries again
        _log.debug("%s could not be removed: %s", path, error)
