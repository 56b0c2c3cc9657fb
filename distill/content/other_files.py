"""What a file is that was given as weights and holds none that can be read here, and what to do with it. No torch."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path

_LOAD = "load it elsewhere and save its state dict: "
_HEAD = 512  # bytes that tell
_BEGINNINGS = (
    (b"version https://git-lfs", "is a pointer of Git LFS in place of the file: git lfs pull fetches that"),
    (b"<!doctype html", "is a web page in place of the file: download that by its own address"),
    (b"<html", "is a web page in place of the file: download that by its own address"),
    (b"\x89hdf\r\n", "holds weights of Keras (HDF5), whose layers are others: give a checkpoint of torch"),
    (b"\x1f\x8b", "is a compressed file: unpack it"),
    (b"7z\xbc\xaf", "is an archive: unpack it"),
)
_GRAPH = "is an ONNX graph, whose weights have other names: give the checkpoint or the folder that it was made from"


def what_else(path: Path) -> str:
    """What a file is that is no checkpoint, and the remedy, in the words behind its name; empty where nobody knows."""
    with suppress(OSError, zipfile.BadZipFile):
        if path.suffix == ".onnx":
            return _GRAPH
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _of_archive(archive.namelist())
        with path.open("rb") as file:
            head = file.read(_HEAD).lower()
        if path.suffix != ".safetensors" and head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 2**27:
            return "is a safetensors file by its content: let its name end in .safetensors"
        return next((words for begins, words in _BEGINNINGS if head.lstrip().startswith(begins)), "")
    return ""


def _of_archive(names: list[str]) -> str:
    """What a zip archive with such parts is."""
    within = {name.partition("/")[2] for name in names}
    if "constants.pkl" in within:
        return f"is a TorchScript program (torch.jit.save): {_LOAD}torch.save(torch.jit.load(FILE).state_dict(), NEW)"
    if "archive_format" in within or "serialized_exported_program.json" in names:
        return f"is an exported program (torch.export.save): {_LOAD}torch.save(torch.export.load(FILE).state_dict, NEW)"
    if names and all(name.endswith(".npy") for name in names):
        return "holds arrays of NumPy, as JAX has: give a checkpoint of torch, or weights=pretrained of timm's nets"
    return "" if any(name.endswith("data.pkl") for name in names) else "is an archive: unpack it"
