"""SIGKILL at random moments and inside file operations, until the run is done: its bits are those of one left alone."""

from __future__ import annotations

import builtins
import json
import os
import random
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.faults.forked import Outcome, forked
from scripts.faults.ledger import Try
from scripts.faults.shapes import LAUNCHED, SHAPES, SMALL, composed, difference, fingerprint, litter

MOST = 6  # kills of a try
COUNTED = "operations"  # the file in which a run that is left alone notes how many file operations it made


class Kills:
    """Every shape of run in turn; a launcher of each kind from time to time."""

    name = "kills"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "left_alone.json"
        self.known: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.shapes = [*SHAPES, *(name for name in LAUNCHED if name != "local"), *SHAPES, "local"]

    def attempt(self, number: int, place: Path) -> Try:
        """Kill a run up to MOST times, let it end, and compare it with one that was left alone."""
        chance = random.Random(f"kills {number}")
        shape = self.shapes[number % len(self.shapes)]
        whole = self.left_alone(shape, place / "whole")
        output = place / "killed"
        kills, last = 0, Outcome(0, "", 0.0)
        for _ in range(chance.randint(2, MOST)):
            last = self._killed(shape, output, whole, chance)
            if not last.killed:
                break
            kills += 1
        if last.killed or last.code != 0:
            last = forked(lambda: start(shape, output), place)
        why = _judged(last, output, whole["fingerprint"])
        kind = "launcher" if shape in LAUNCHED else "run"
        return Try(self.name, number, shape, not why, why or "equal", words(shape, output),
                   {"kills": kills, f"of a {kind}": 1, "bit-equal": int(not why)})  # fmt: skip

    def _killed(self, shape: str, output: Path, whole: dict[str, Any], chance: random.Random) -> Outcome:
        place = output.parent
        if shape in LAUNCHED or chance.random() < 0.5:
            after = chance.uniform(0.0, 1.05 * whole["seconds"])
            return forked(lambda: start(shape, output), place, signals=((after, signal.SIGKILL),))
        at, when = chance.randrange(whole["operations"]), chance.choice(("before", "after", "middle"))
        return forked(lambda: start(shape, output, Operations(at, when)), place)

    def left_alone(self, shape: str, place: Path) -> dict[str, Any]:
        """What a run of this shape comes to that nobody kills; made once."""
        if self.path.exists():
            self.known |= json.loads(self.path.read_text())  # other campaigns make some of them
        if shape not in self.known:
            output = place / "output"
            counted = Operations(None, note=place / COUNTED)
            ended = forked(lambda: start(shape, output, None if shape in LAUNCHED else counted), place)
            if ended.code != 0:
                raise RuntimeError(f"{words(shape, output)} ends with {ended.code} of itself: {ended.said[-2000:]}")
            count = int((place / COUNTED).read_text()) if (place / COUNTED).exists() else 0
            self.known[shape] = {"seconds": ended.seconds, "operations": count, "fingerprint": fingerprint(output)}
            self.path.write_text(json.dumps(self.known))
            shutil.rmtree(place)
        found: dict[str, Any] = self.known[shape]
        return found


def start(shape: str, output: Path, operations: Operations | None = None) -> int:
    """Run a shape in this process; returns the exit code."""
    if operations:
        operations.watch()
    if shape in LAUNCHED:
        from distill.cli import main as cli

        sys.argv = ["distill"]
        return cli.main([*SMALL, *LAUNCHED[shape], f"output={output}"])
    from distill import config
    from distill.run import run

    cfg = composed(shape, output)
    run(cfg, config.identity(cfg)["folder"], table=False)
    if operations:
        operations.tell()
    return 0


def words(shape: str, output: Path) -> str:
    """The command of a shape's run."""
    more = LAUNCHED[shape] if shape in LAUNCHED else SHAPES[shape]
    return shlex.join(["python", "-m", "distill", *SMALL, *more, f"output={output}"])


def _judged(last: Outcome, output: Path, wanted: dict[str, Any]) -> str:
    """What is wrong with a run that was killed and has ended; empty where nothing is."""
    if last.code != 0:
        return f"exit code {last.code}: {(last.sentence or last.said)[-300:]}"
    if found := difference(wanted, fingerprint(output)):
        return found
    left = litter(output)
    return f"left behind: {left[:3]}" if left else ""


class Operations:
    """Counts a process's file operations and kills it before, after or in the middle of number `at`."""

    NAMES = ("fsync", "replace", "unlink", "pwrite")

    def __init__(self, at: int | None, when: str = "", note: Path | None = None) -> None:
        self.at, self.when, self.note, self.count = at, when, note, 0

    def watch(self) -> None:
        """Take the place of the functions that files are written with, in this process."""
        import distill.files
        import distill.record.tracker

        for name in self.NAMES:
            setattr(os, name, self._counted(getattr(os, name)))
        for module in (distill.files, distill.record.tracker):
            module.open = self._opened  # type: ignore[attr-defined]

    def tell(self) -> None:
        """Note how many there were."""
        if self.note:
            self.note.write_text(str(self.count))

    def _counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            return self._do(lambda: work(*args, **options), lambda: None)

        return counted

    def _opened(self, *args: Any, **options: Any) -> Any:
        file = builtins.open(*args, **options)  # noqa: SIM115 (closed by who asked for it)
        return _Torn(file, self) if file.writable() else file

    def _do(self, work: Callable[[], Any], half: Callable[[], Any]) -> Any:
        self.count += 1
        if self.count - 1 != self.at:
            return work()
        if self.when == "after":
            work()
        elif self.when == "middle":
            half()
        os.kill(os.getpid(), signal.SIGKILL)


class _Torn:
    """A file of which a write may be cut off in its middle."""

    def __init__(self, file: Any, operations: Operations) -> None:
        self._file, self._operations = file, operations

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        return int(self._operations._do(lambda: self._file.write(data), half))

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
