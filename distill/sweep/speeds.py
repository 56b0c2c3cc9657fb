"""How long a run will take, from the finished runs below an output folder. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from distill.config import RunSpec
from distill.result import Result
from distill.run_folder import RunFolder

NOT_KNOWN = "no estimate"


@dataclass(frozen=True)
class Measured:
    """A finished run: what it was, and the seconds of one of its epochs."""

    dataset: str
    teacher: str
    student: str
    method: str
    hash: str
    device: str
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """The seconds of a whole run, and where they are from; None where nothing is known."""

    seconds: float | None
    source: str


def read_speeds(output: str | Path) -> list[Measured]:
    """The finished runs below `output` that were made on the device most of them were made on."""
    runs = (RunFolder(path) for path in Path(output).glob("*/*/*/s*"))
    found = [one for run in runs if run.done and (one := _measured(run.read_result()))]
    device = Counter(one.device for one in found).most_common(1)
    return [one for one in found if one.device == device[0][0]]


def _measured(result: Result) -> Measured | None:
    if not result.seconds or not result.epochs or result.hash is None or result.packed:  # whose time is of others, too
        return None
    names = {key: str(getattr(result, key)) for key in ("dataset", "teacher", "student", "method", "hash")}
    return Measured(**names, device=result.device or "?", seconds=result.seconds / result.epochs)


class Speeds:
    """Estimates from measured runs: of the same configuration, method or pair; else by timed steps of the nets.

    steps: seconds of a run by such a step, or None, and where they are from; default: no step is timed.
    """

    def __init__(
        self, runs: Iterable[Measured], steps: Callable[[RunSpec], tuple[float | None, str]] | None = None
    ) -> None:
        self.runs, self._steps = list(runs), steps or (lambda spec: (None, ""))
        self._known: dict[tuple[str, ...], tuple[float, str] | None] = {}  # of runs that differ in the seed alone

    @property
    def device(self) -> str | None:
        """What the runs were measured on."""
        return self.runs[0].device if self.runs else None

    def estimate(self, spec: RunSpec) -> Estimate:
        """The time of a whole run, and in words what it was measured on."""
        names = run_names(spec)
        key = tuple(names.values())
        if key not in self._known:
            self._known[key] = self._of_epoch(names)
        if (known := self._known[key]) is not None:
            return Estimate(spec.schedule.epochs * known[0], known[1])
        seconds, source = self._steps(spec)
        return Estimate(seconds, NOT_KNOWN if seconds is None else source)

    def _of_epoch(self, names: dict[str, str]) -> tuple[float, str] | None:
        """The seconds of an epoch by the runs that are nearest, and what is like in them."""
        for source, fits in self._levels(names):
            if times := [run.seconds for run in self.runs if fits(run)]:
                return median(times), source
        return None

    def _levels(self, names: dict[str, str]) -> Iterator[tuple[str, Callable[[Measured], bool]]]:
        def same(*keys: str) -> Callable[[Measured], bool]:
            return lambda run: all(getattr(run, key) == names[key] for key in keys)

        yield "measured, other seeds", same("dataset", "hash")
        yield "measured, other settings", same("dataset", "teacher", "student", "method")
        yield "measured, other methods of the pair", same("dataset", "teacher", "student")


def run_names(spec: RunSpec) -> dict[str, str]:
    """dataset, teacher, student, method and hash of a run, spelled as in its result.json."""
    names = {"dataset": spec.dataset.name, "student": spec.student.name, "method": spec.method.name}
    return {**names, "teacher": str(spec.teacher), "hash": spec.hash}
