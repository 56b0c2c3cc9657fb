"""Finds result.json files and turns them into runs. A file that cannot be used is counted, never fatal."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.config.departs import departs_by_name

BIGGEST = 8 * 2**20  # bytes; a result.json is a few kilobytes, so anything larger is not ours
REASONS = {
    "damaged": "damaged result.json",
    "foreign": "result.json of something else",
    "unfinished": "no result.json yet",
    "double": "second copy of a seed",
}


@dataclass(frozen=True)
class Run:
    """One finished run. Accuracies in percent; `agreement` is a fraction; `seconds` is the wall time."""

    folder: Path
    dataset: str
    part: str  # of the data set that the accuracy was measured on: test, or a held-out part
    protocol: str
    ce: float | None
    kd: float | None
    weight: float | None
    teacher: str | None
    student: str
    method: str
    hash: str
    seed: str
    last: float
    best: float | None
    best_epoch: float | None
    epochs: float | None
    top5: float | None
    teacher_accuracy: float | None
    agreement: float | None
    params: float | None
    macs: float | None
    method_params: float | None
    images_per_second: float | None
    seconds: float | None
    by_hand: tuple[str, ...]  # settings of the schedule and the data set that the command changed
    departs: str | None = None  # what the method does otherwise than its paper

    @property
    def key(self) -> tuple[Any, ...]:
        """What must agree for two runs to be seeds of the same thing."""
        convention = (self.ce, self.kd, self.weight)
        return (
            self.dataset,
            self.part,
            self.protocol,
            convention,
            self.teacher,
            self.student,
            self.method,
            self.hash,
        )


@dataclass
class Found:
    """The runs below some folders, and how many candidates were left out and why."""

    runs: list[Run] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """One line: how many runs were read and what was skipped."""
        text = f"{len(self.runs)} run{'' if len(self.runs) == 1 else 's'} read"
        if self.skipped:
            parts = [f"{self.skipped[name]} {label}" for name, label in REASONS.items() if self.skipped[name]]
            text += f"; {sum(self.skipped.values())} skipped ({', '.join(parts)})"
        return text + "."


def collect(folders: Iterable[str | Path]) -> Found:
    """Read every run below `folders` (a folder, or a result.json itself).

    Raises:
        ValueError: a folder does not exist.
    """
    found, seen = Found(), set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise ValueError(
                f"There is no folder {folder}: give the output folder of some runs, such as outputs/digits."
            )
        for run_folder, finished in _run_folders(folder):
            if run_folder.resolve() in seen:  # the same folder reached by two arguments
                continue
            seen.add(run_folder.resolve())
            run = _read(run_folder) if finished else "unfinished"
            if isinstance(run, str):
                found.skipped[run] += 1
            else:
                found.runs.append(run)
    return _without_copies(found)


def _run_folders(top: Path) -> Iterator[tuple[Path, bool]]:
    """(folder, has a result.json) of everything that looks like a run."""
    if top.is_file():
        yield top.parent, True
        return
    for here, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "result.json" in files:
            folders.clear()  # nothing below a run is a run
            yield Path(here), True
        elif "DONE" in files or "metrics.jsonl" in files:
            yield Path(here), False


def _without_copies(found: Found) -> Found:
    """Keep one run of each (configuration, seed): a copied folder must not narrow the spread."""
    kept: dict[tuple[Any, ...], Run] = {}
    for run in found.runs:
        if kept.setdefault((run.key, run.seed), run) is not run:
            found.skipped["double"] += 1
    return Found(list(kept.values()), found.skipped)


def _read(folder: Path) -> Run | str:
    """The run in `folder`, or the reason why there is none."""
    path = folder / "result.json"
    try:
        if path.stat().st_size > BIGGEST:
            return "foreign"
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return "damaged"
    if not isinstance(content, dict) or not {"dataset", "student", "method", "accuracy"} <= content.keys():
        return "foreign"
    return _run(folder, content) or "damaged"


def _run(folder: Path, content: dict[str, Any]) -> Run | None:
    accuracy, convention = _mapping(content["accuracy"]), _mapping(content.get("convention"))
    last = _percent(accuracy.get("last"))
    names = [content[key] for key in ("dataset", "student", "method")]
    if last is None or not all(isinstance(name, str) and name for name in names):
        return None
    return Run(
        folder=folder,
        dataset=names[0],
        student=names[1],
        method=names[2],
        last=last,
        part=str(content.get("evaluated_on") or "test"),
        by_hand=_by_hand(content.get("command"), content.get("setting")),
        protocol=str(content.get("protocol") or "?"),
        teacher=_teacher(content.get("teacher")),
        departs=_departs(content),
        ce=_number(convention.get("ce")),
        kd=_number(convention.get("kd")),
        weight=_number(convention.get("weight")),
        hash=str(content.get("hash") or "?"),
        seed=str(content.get("seed")),
        best=_percent(accuracy.get("best")),
        best_epoch=_number(accuracy.get("best_epoch")),
        top5=_percent(content.get("top5")),
        teacher_accuracy=_percent(content.get("teacher_accuracy")),
        **{
            name: _number(content.get(name))
            for name in (
                "epochs",
                "agreement",
                "params",
                "macs",
                "method_params",
                "images_per_second",
                "seconds",
            )
        },
    )


def _by_hand(command: Any, setting: Any) -> tuple[str, ...]:
    """Overrides such as schedule.batch_size=512: with them a protocol's name is no longer the whole truth.

    `setting` is what the result says of its own: other views, fewer images, few bits.
    """
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        return ()
    settings = [word.lstrip("+~") for word in words if "=" in word]
    kept = [word for word in settings if word.startswith(("schedule.", "dataset."))]
    kept = [word for word in kept if not word.startswith(("dataset.root=", "schedule.epochs="))]
    own = [word for word in setting if isinstance(word, str)] if isinstance(setting, list) else []
    return tuple(sorted({*kept, *own}))


def _departs(content: dict[str, Any]) -> str | None:
    """As the result says; results from before it did are marked by what the method's YAML says now."""
    if "departs" in content:
        return str(content["departs"]) if content["departs"] else None
    return departs_by_name(content["method"])


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _teacher(value: Any) -> str | None:
    """Several teachers are one name joined by plus signs."""
    if isinstance(value, list):
        return " + ".join(map(str, value)) or None
    return str(value) if value not in (None, "", "none") else None


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _percent(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= 100 else None
