"""Files written so that a reader sees the old content or the new one, never half of it. No torch here."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO


class SaveError(RuntimeError):
    """A file could not be written (disk full, quota, read-only ...); what was there before is untouched."""


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) atomically. Raises SaveError."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: str | Path, obj: Any) -> None:
    """Replace `path` by `obj` as indented JSON, atomically; null for what is not finite. Raises SaveError."""
    write_text(path, json.dumps(plain(obj), indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path, default: Any = None) -> Any:
    """The content of a JSON file, or `default` when it is missing, unreadable or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default


def plain(obj: Any) -> Any:
    """`obj` in JSON's words: tensors and numpy values as numbers, null for not finite, str for the rest."""
    if isinstance(obj, Mapping):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [plain(value) for value in obj]
    if hasattr(obj, "tolist"):  # tensors, numpy arrays and scalars
        return plain(obj.tolist())
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    return obj if obj is None or isinstance(obj, (bool, int, str)) else str(obj)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` if the block ends well; otherwise `path` stays as it was.

    The order is temporary file in the same folder, flush, fsync, os.replace, fsync of the folder: after a
    power failure at any point, `path` is the old file or the new one. Raises SaveError for what the disk
    refuses (torch.save reports a full disk as RuntimeError, not OSError).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise SaveError(
            f"{path} could not be written ({first_line(error)}): free some space or check the "
            "permissions; what was saved before is untouched"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def sweep(folder: str | Path) -> None:
    """Remove the temporary files that a killed writer left in `folder`."""
    for temporary in Path(folder).glob(".*.tmp"):
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the file system can do that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def first_line(error: BaseException) -> str:
    """An error in one line, for messages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
