"""Whether a run can write where it is to."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from distill.files import PASSING, refusal

_NEEDED = 2**16  # bytes that must be free for a run to begin


def check_output(folder: str | Path, writes: bool = True) -> None:
    """Make the output folder and raise ValueError when nothing can be written there; writes: or only look."""
    try:
        if not writes:
            check_place(Path(folder))
            return
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_NEEDED))
    except OSError as error:
        if error.errno in PASSING:
            raise refusal(folder, error) from error
        reason = error.strerror or type(error).__name__
        sentence = f"output={folder} cannot be written ({reason}): choose another folder with output=..."
        raise ValueError(sentence) from error


def check_destination(flag: str, place: Path, folder: bool) -> None:
    """Raise ValueError where a verb could not write the file, or the folder, that it is told to, before it works."""
    if place == Path("-"):  # what other programs call the terminal
        raise ValueError(f"{flag} - would be called so on the disk: leave {flag} away, or give a name")
    if place.exists() and place.is_dir() != folder:
        raise ValueError(f"{flag} {place} is a {'file: give a folder' if folder else 'folder: give a file'}")
    try:
        check_place(place if folder else place.parent)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{flag} {place} cannot be written ({reason}): choose another place") from error


def check_place(folder: Path) -> None:
    """Raise OSError where a folder could not be made, or could not be written."""
    place = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    os.listdir(place)
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
