"""What a run may end with, besides success; the exit code of each is part of the interface."""

from __future__ import annotations

import errno

DONE, FAILED, USAGE, NONFINITE, NO_CHECKPOINT, STOPPED, INTERRUPTED = 0, 1, 2, 3, 4, 75, 130


class NonFinite(RuntimeError):
    """A loss became NaN or infinite; the message names the term, the step and the epoch."""


class NoValidCheckpoint(ValueError):
    """There are checkpoints and none of them can be used; the message lists them."""


class OtherVersion(NoValidCheckpoint):
    """A checkpoint is whole, and another version of the program made it; the message says which, and what to do."""


class Stopped(BaseException):
    """A signal asked the run to stop, and nothing is lost. `code` is the exit code (130 after SIGINT).

    No Exception, as KeyboardInterrupt is none: it may come anywhere, and is no failure of what it cuts off.
    """

    def __init__(self, message: str = "stopped and saved", code: int = STOPPED) -> None:
        super().__init__(message)
        self.code = code


def exit_code(error: BaseException) -> int:
    """The exit code that `error` ends the program with."""
    if isinstance(error, Stopped):
        return error.code
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return USAGE if _of_the_user(error) else FAILED


def _of_the_user(error: BaseException) -> bool:
    """Whether an error of Python, torch or Pillow is about a path, a damaged file or weights that the user gave."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _PATHS
    if isinstance(error, RuntimeError):
        return "loading state_dict" in str(error)
    return type(error).__module__.partition(".")[0] in ("zlib", "zipfile", "lzma", "tarfile", "PIL")


# about a path, and not about the state of a disk
_PATHS = {getattr(errno, name) for name in ("ENOENT", "EACCES", "EPERM", "EISDIR", "ENOTDIR", "ELOOP", "ENAMETOOLONG")}


_CODES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], int], ...] = (
    (NonFinite, NONFINITE),
    (NoValidCheckpoint, NO_CHECKPOINT),
    (KeyboardInterrupt, INTERRUPTED),
    ((ValueError, FileNotFoundError), USAGE),
)
