"""Disks that are full for a while: a run waits, says so, and ends with the bits of one that had space."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from scripts.faults.forked import Outcome, forked
from scripts.faults.judging import answer_is_wrong
from scripts.faults.kills import Kills, start, words
from scripts.faults.ledger import Try
from scripts.faults.shapes import SHAPES, difference, fingerprint, litter

LONGEST_FULL = 4.0  # seconds
SIZE = "24m"  # of a file system of its own
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Disks:
    """Three ways to be full: writes that are refused, a file system with no space, a greatest size of files."""

    name = "disks"

    def __init__(self, folder: Path) -> None:
        self.kills = Kills(folder)
        self.shapes = ["command", "packed", *SHAPES]

    def attempt(self, number: int, place: Path) -> Try:
        """Run a shape on a disk that is full from a random moment on for a random time."""
        chance = random.Random(f"disks {number}")
        shape = self.shapes[(number // len(WAYS)) % len(self.shapes)]
        whole = self.kills.left_alone(shape, place / "whole")
        way = list(WAYS)[number % len(WAYS)]
        begin, lasts = chance.uniform(0.0, whole["seconds"]), chance.uniform(0.2, LONGEST_FULL)
        output, ended = WAYS[way](shape, place, begin, lasts)
        wrong = self._wrong(ended, output, whole["fingerprint"], shape)
        _unmount(place)
        said = wrong or (ended.sentence or "equal")
        what = f"{shape}: {way} at {begin:.1f} s for {lasts:.1f} s"
        waited = "could not be written" in ended.said
        counts = {"waited": int(waited and ended.code == 0), "refused at the start": int(ended.code == 1)}
        return Try(self.name, number, what, not wrong, said[:300], words(shape, output), counts)

    def _wrong(self, ended: Outcome, output: Path, wanted: dict[str, Any], shape: str) -> str:
        if wrong := answer_is_wrong(ended, (1,)):
            return wrong
        if ended.code == 1:  # full at the start, which is one sentence, and nothing is begun
            begun = list(output.rglob("metrics.jsonl"))
            if begun:
                return f"it ended, though it had begun: {ended.sentence}"
            again = forked(lambda: start(shape, output), output.parent)
            return f"then exit code {again.code}: {again.said[-300:]}" if again.code else ""
        left, found = litter(output), fingerprint(output)
        for name in [name for name in wanted if "/teachers/" in name and name not in found]:
            wanted = {key: value for key, value in wanted.items() if key != name}  # measured again when it is needed
        return difference(wanted, found) or (f"left behind: {left[:3]}" if left else "")


def _refused(shape: str, place: Path, begin: float, lasts: float) -> tuple[Path, Outcome]:
    """Everything that reaches the disk fails, in this process."""
    output, number = place / "output", random.Random(str(place)).choice(REFUSED)

    def work() -> int:
        end = time.monotonic() + begin + lasts

        def full() -> bool:
            return end - lasts <= time.monotonic() < end

        _refuse(full, number)
        return begun(shape, output)

    return output, forked(work, place)


def _refuse(full: Any, number: int) -> None:
    """Let what reaches the disk fail while `full()`."""
    import distill.files

    def failing(name: str) -> Any:
        real = getattr(os, name)

        def called(*args: Any, **options: Any) -> Any:
            if full():
                raise OSError(number, os.strerror(number))
            return real(*args, **options)

        return called

    for name in ("fsync", "pwrite", "replace"):
        setattr(os, name, failing(name))
    distill.files.os = os  # type: ignore[attr-defined]


def _small_file_system(shape: str, place: Path, begin: float, lasts: float) -> tuple[Path, Outcome]:
    """A file system of its own that another process fills up."""
    disk = place / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)], check=True)
    filler = threading.Thread(target=_fill, args=(disk / "filler", begin, lasts))
    filler.start()
    output = disk / "output"
    ended = forked(lambda: begun(shape, output), place)
    filler.join()
    return output, ended


def _fill(path: Path, begin: float, lasts: float) -> None:
    time.sleep(begin)
    try:
        with open(path, "wb", buffering=0) as file:
            while True:
                file.write(bytes(2**16))
    except OSError:
        pass
    time.sleep(lasts)
    path.unlink(missing_ok=True)


def _greatest_size(shape: str, place: Path, begin: float, lasts: float) -> tuple[Path, Outcome]:
    """No file may grow beyond a few kilobytes for a while."""
    output = place / "output"

    def work() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        small, large = (2**13, hard), (hard, hard)
        for after, limit in ((begin, small), (begin + lasts, large)):
            timer = threading.Timer(after, resource.setrlimit, (resource.RLIMIT_FSIZE, limit))
            timer.daemon = True
            timer.start()
        return begun(shape, output)

    return output, forked(work, place)


def begun(shape: str, output: Path) -> int:
    """Run a shape after the check of its output that a command makes, and answer as a command does."""
    from distill.cli.sentences import format_error
    from distill.cli.verbs import print_error
    from distill.config.output_folder import check_output
    from distill.files import SaveError

    try:
        check_output(output)
        return start(shape, output)
    except SaveError as error:
        return print_error(format_error(error), 1)


def _unmount(place: Path) -> None:
    if (place / "disk").is_mount():
        subprocess.run(["umount", str(place / "disk")], check=False)


WAYS: dict[str, Any] = {"writes refused": _refused, "a greatest size of files": _greatest_size}
if os.geteuid() == 0 and shutil.which("mount"):
    WAYS["a full file system"] = _small_file_system
