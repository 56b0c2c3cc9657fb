"""Pickled arrays, read without running what a pickle may name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    """What `_codecs.encode` does for the byte strings of Python 2; other codecs are refused."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {encoding!r} is not needed by a data set")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}
for _package in ("numpy.core", "numpy._core"):
    _ALLOWED[_package + ".multiarray", "_reconstruct"] = multiarray._reconstruct  # type: ignore[attr-defined]
    _ALLOWED[_package + ".numeric", "_frombuffer"] = numeric._frombuffer  # type: ignore[attr-defined]


class ArrayUnpickler(pickle.Unpickler):
    """Builds plain Python values and NumPy arrays, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code") from None


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of Python 2 or 3, its keys as str.

    Raises FileNotFoundError, and ValueError naming the file when it is damaged, is no dictionary, or asks for
    anything beyond arrays and plain values.
    """
    with path.open("rb") as file:
        try:
            content = ArrayUnpickler(file, encoding="latin1").load()
        except Exception as error:  # a damaged pickle may raise nearly anything
            raise ValueError(
                f"{path} cannot be read as a pickle of arrays ({error}): delete it and run again to "
                "download it anew, or put a good copy there"
            ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__} in place of a dictionary: put a good copy there"
        )
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()
    }
