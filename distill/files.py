"""Files written so that a reader sees the old content or the new one, never half of it. No torch here."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from distill.strict_json import parse_json

log = logging.getLogger(__name__)
T = TypeVar("T")
# refusals of a disk that end once there is space, or a server answers: worth waiting for
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOBUFS}
HOST = re.sub(r"\W", "", platform.node())[:24]
LONGEST_WAIT = 60.0  # seconds between two tries


class SaveError(RuntimeError):
    """A file could not be written (disk full, quota, read-only ...); what was there before is untouched.

    passing: whether waiting may help, as it does for a full disk.
    """

    passing = False


class Backoff:
    """When to try again what has failed: after a second, then two, four ... LONGEST_WAIT."""

    def __init__(self) -> None:
        self.wait, self._next = 0.0, 0.0

    @property
    def due(self) -> bool:
        """Whether something has failed and should be tried again by now."""
        return self.wait > 0 and time.monotonic() >= self._next

    def failed(self) -> float:
        """Note a failure; returns the seconds to wait."""
        self.wait = min(max(2 * self.wait, 1.0), LONGEST_WAIT)
        self._next = time.monotonic() + self.wait
        return self.wait

    def succeeded(self) -> None:
        """Note that it is well again."""
        self.wait = 0.0


def persist(write: Callable[[], T]) -> T:
    """Do `write`, and again with growing pauses as long as a full disk refuses it, saying so. Raises other SaveErrors.

    For what must be written at the end, when there is nothing else to do; a signal ends the wait.
    """
    backoff = Backoff()
    while True:
        try:
            return write()
        except SaveError as error:
            if not error.passing:
                raise
            log.warning("%s; tried again in %.0f s", error, backoff.failed())
            time.sleep(backoff.wait)


def best_effort(write: Callable[[], Any]) -> bool:
    """Do `write`, of something that only saves work later: that it cannot be written is said, and no more."""
    try:
        write()
    except SaveError as error:
        log.warning("%s; it is not needed", error)
        return False
    return True


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) atomically. Raises SaveError."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: str | Path, obj: Any) -> None:
    """Replace `path` by `obj` as indented JSON, atomically; null for what is not finite. Raises SaveError."""
    write_text(path, json.dumps(json_ready(obj), indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path, default: Any = None) -> Any:
    """The content of a JSON file, or `default` when it is missing, unreadable or not JSON as `parse_json` takes it."""
    try:
        return parse_json(Path(path).read_bytes()) if Path(path).is_file() else default
    except (OSError, ValueError):
        return default


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is none."""
    found = read_json(path)
    return found if isinstance(found, dict) else {}


def json_ready(obj: Any) -> Any:
    """`obj` in JSON's words: tensors and numpy values as numbers, null for not finite, str for the rest."""
    if isinstance(obj, Mapping):
        return {str(key): json_ready(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [json_ready(value) for value in obj]
    if hasattr(obj, "tolist"):  # tensors, numpy arrays and scalars
        return json_ready(obj.tolist())
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
    temporary = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise refusal(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def refusal(path: str | Path, error: OSError | RuntimeError) -> SaveError:
    """What a disk that refuses to write `path` is said to do."""
    in_its_place = getattr(error, "errno", None) == errno.EISDIR
    remedy = "remove the folder in its place" if in_its_place else "free some space or check the permissions"
    failure = SaveError(
        f"{path} could not be written ({getattr(error, 'strerror', None) or first_line(error)}): {remedy}; what was "
        "saved before is untouched"
    )
    failure.passing = getattr(error, "errno", None) in PASSING
    return failure


def remove_temporary(folder: str | Path, *, shared: bool = False) -> None:
    """Remove the temporary files that a killed writer left in `folder`; in one that is shared, those of no process."""
    for temporary in Path(folder).glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if not shared or _is_orphaned(temporary):
                os.unlink(temporary)


def _is_orphaned(temporary: Path) -> bool:
    """Whether the process that began a temporary file is gone; of another machine's, whether it is a day old."""
    host, _, number = "".join(temporary.suffixes[-2:-1]).lstrip(".").rpartition("-")
    if host != HOST or not number.isdecimal():
        return time.time() - temporary.stat().st_mtime > 86_400
    return not is_running(int(number))


def is_running(pid: int) -> bool:
    """Whether this machine has such a process, as far as can be told."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


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


def one_line(error: BaseException) -> str:
    """All that an error says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException, words: str | None = None) -> str:
    """An error in one line, for messages; words: what it says, where that is not its text."""
    return (str(words or error).strip() or type(error).__name__).splitlines()[0]
