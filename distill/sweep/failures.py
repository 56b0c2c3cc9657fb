"""The file in which the jobs of one command note why they failed; the command reads it at its end."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distill.files import HOST, is_running

VARIABLE = "DISTILL_FAILURES"  # the environment variable that names the file
FAILURES_PREFIX = f"distill-{HOST}-"  # of its folder, whose name ends in the process's number
_unwritten: list[dict[str, Any]] = []  # what a full disk refused


def note_failure(code: int, what: str, why: str) -> None:
    """Add one failure: the exit code, the job's overrides, and the reason in a sentence."""
    line = {"code": code, "what": what, "why": why}
    try:
        with open(os.environ[VARIABLE], "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n" + json.dumps(line) + "\n")  # apart from one that a full disk cut off
    except OSError:
        _unwritten.append(line)


def read_failures(path: str | Path) -> list[dict[str, Any]]:
    """All failures that were noted, in order; half a line is passed over, for it stands among those not written."""
    path, found = Path(path), list[dict[str, Any]]()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found + [_unwritten.pop(0) for _ in tuple(_unwritten)]


@contextmanager
def collected_failures() -> Iterator[list[dict[str, Any]]]:
    """A list that holds, after the block, what failed in it, in this process and those that it started."""
    found: list[dict[str, Any]] = []
    folder = Path(tempfile.gettempdir(), f"{FAILURES_PREFIX}{os.getpid()}")
    _clear(folder.parent)
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
    os.environ[VARIABLE] = str(folder / "failures.jsonl")
    try:
        yield found
        found += read_failures(os.environ[VARIABLE])
    finally:
        os.environ.pop(VARIABLE, None)
        shutil.rmtree(folder, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove what killed processes of this machine and user left in the folder of temporary files."""
    for left in folder.glob(f"{FAILURES_PREFIX}*"):
        number = left.name.removeprefix(FAILURES_PREFIX)
        with suppress(OSError):
            if number.isdecimal() and not is_running(int(number)) and left.stat().st_uid == os.getuid():
                shutil.rmtree(left, ignore_errors=True)
