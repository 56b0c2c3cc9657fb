"""A run's folder: the one place that knows its files, what they hold and when a run is finished. Imports no torch.

A run is finished once DONE lies beside a result.json that can be read. DONE beside one that cannot is damage: such a
run is not done, and is not trained again either before somebody has looked at it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from distill.files import json_ready, read_mapping, remove_temporary, write_json, write_text
from distill.result import BadResult, Result
from distill.row_lines import read_row, row_lines
from distill.strict_json import parse_json

BIGGEST = 8 * 2**20  # bytes; a result.json is a few kilobytes, so anything larger is not ours
RESULT, DONE_FILE, METRICS, TRACKING, LOG = "result.json", "DONE", "metrics.jsonl", "tracking.json", "log.txt"
STUDENT_FILE, BEST = "student.safetensors", "best.safetensors"
HUB_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Weights in a folder that timm and the Hub load."""


@dataclass(frozen=True, order=True)
class RunFolder:
    """The folder of one run, which need not exist yet."""

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def student(self) -> Path:
        """The student's weights after the last step."""
        return self.path / STUDENT_FILE

    @property
    def best(self) -> Path:
        """The student's weights after its best epoch."""
        return self.path / BEST

    @property
    def metrics(self) -> Path:
        """A line of JSON for each row that was logged."""
        return self.path / METRICS

    @property
    def tracking(self) -> Path:
        """The run's names, its whole configuration and its command."""
        return self.path / TRACKING

    @property
    def events(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def log(self) -> Path:
        """What a run of a sweep printed."""
        return self.path / LOG

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def lock(self) -> FileLock:
        """What the process that works in the folder holds."""
        return FileLock(self.path / ".lock")

    @property
    def locked(self) -> bool:
        """Whether a process works in the folder."""
        return is_locked(self.path / ".lock")

    @property
    def cut_off(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return any(self.checkpoints.glob("*.ckpt"))

    @property
    def choices(self) -> dict[str, Any]:
        """What a run that was cut off had decided for its machine; nothing of any other."""
        found = read_mapping(self.tracking).get("choices") if self.cut_off else None
        return found if isinstance(found, dict) else {}

    @property
    def is_run(self) -> bool:
        """Whether this is a run, finished or not: a teacher that is kept for others has a result and weights alone."""
        return self.marked or any(path.exists() for path in (self.metrics, self.tracking, self.log))

    @property
    def marked(self) -> bool:
        """Whether the run said that it was done, whatever has become of its result since."""
        return (self.path / DONE_FILE).exists()

    @property
    def done(self) -> bool:
        """Whether the run is finished: it said so, and its result can be read."""
        return self.marked and self.damage is None

    @property
    def damage(self) -> str | None:
        """What is wrong with a run that said that it was done, in a sentence; None for any other."""
        if not self.marked:
            return None
        try:
            self.read_result()
        except BadResult as error:
            return f"{self} has DONE, but its {RESULT} {error}: {error.remedy}"
        return None

    @property
    def result(self) -> Result | None:
        """The result of a finished run, None of one that is not. Raises ValueError for a damaged one."""
        if (damage := self.damage) is not None:
            raise ValueError(damage)
        return self.read_result() if self.marked else None

    def finished_result(self) -> Result:
        """The result of a finished run. Raises ValueError for any other, and for a damaged one."""
        if (result := self.result) is not None:
            return result
        why = "is not finished" if self.begun else "is no run's folder"
        raise ValueError(f"{self} {why}: give a folder with result.json and DONE, outputs/.../s<seed>")

    def read_result(self) -> Result:
        """The content of result.json, DONE or not. Raises BadResult."""
        path = self.path / RESULT
        try:
            if path.exists() and not path.is_file():  # a pipe would never end
                raise BadResult("is no file")
            if path.stat().st_size > BIGGEST:
                raise BadResult("is too large to be a run's", foreign=True)
            content = parse_json(path.read_bytes())
        except FileNotFoundError as error:
            raise BadResult("is missing") from error
        except BadResult:
            raise
        except OSError as error:
            raise BadResult(f"cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise BadResult(f"is damaged ({error})") from error
        return Result.from_json(content)

    def finish(self, content: Mapping[str, Any]) -> Result:
        """Write the result, then DONE. Raises BadResult for content that is none, SaveError."""
        result = Result.from_json(json_ready(content))
        write_json(self.path / RESULT, result.to_json())
        write_text(self.path / DONE_FILE, "")
        return result

    def remove_leftovers(self) -> None:
        """Remove what a run that is over has no use for: checkpoints, and what killed processes left half-written."""
        for folder in (self.path, self.checkpoints):
            remove_temporary(folder)
        for path in self.checkpoints.glob("step-*.ckpt*"):
            with suppress(OSError):
                path.unlink()

    def rows(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, or those of a kind (step, epoch), in order; none where there is no file.

        A line that a killed run left half-written is passed over.
        """
        return [row for line in row_lines(self.metrics, kind) if (row := read_row(line, kind)) is not None]

    def latest(self, kind: str) -> Iterator[dict[str, Any]]:
        """The rows of a kind, the last one first, of which only those that are asked for are read."""
        return (row for line in reversed(row_lines(self.metrics, kind)) if (row := read_row(line, kind)) is not None)

    def has_phases(self, kind: str) -> bool:
        """Whether the rows of a kind are of more than one phase."""
        last = next(self.latest(kind), {}).get("phase")
        mark = f'"phase": {json.dumps(last)}'
        rows = (read_row(line, kind) for line in row_lines(self.metrics, kind) if mark not in line)
        return any(row is not None and row.get("phase") != last for row in rows)

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration as it was recorded; empty where that is gone or damaged."""
        found = read_mapping(self.tracking).get("config")
        return found if isinstance(found, dict) else {}

    @property
    def given_up(self) -> bool:
        """Whether the run was left as it is for good, until it is begun again."""
        return read_mapping(self.tracking).get("given_up") is True

    def give_up(self) -> None:
        """Note that the run is not to go on, for a search has stopped it early, and remove what only a run that goes
        on has use for, weights of its best epoch among it. Raises SaveError.
        """
        write_json(self.tracking, read_mapping(self.tracking) | {"given_up": True})
        self.remove_leftovers()
        with suppress(OSError):
            self.best.unlink()

    @property
    def command(self) -> str | None:
        """The command that the run was last begun with; None where that is gone or not recorded."""
        found = read_mapping(self.tracking).get("command")
        return found if isinstance(found, str) else None

    def refuse_folders(self) -> None:
        """Raise ValueError where a folder lies in the place of a file that a run writes."""
        for name in (METRICS, TRACKING, RESULT, STUDENT_FILE):
            if (self.path / name).is_dir():
                raise ValueError(f"{self.path / name} is a folder, where the run writes a file: take it away")

    @property
    def begun(self) -> bool:
        """Whether a run has left anything here."""
        return any((self.path / name).exists() for name in (RESULT, DONE_FILE, METRICS, TRACKING, LOG))


def weights_file(given: str | Path) -> tuple[Path, str | None]:
    """The file that weights are to come from, and the entry of it that is asked for: None stands for the only one.

    given: FILE, FILE::ENTRY (a file of trainers that keep averaged weights beside the last ones, ENTRY being
    state_dict_ema, say), or the folder of a run, whose student's last weights are meant. Raises ValueError where there
    is no such file, and for an exported folder, which brings its net and its images' mean and std with it.
    """
    path, colons, entry = str(given).rpartition("::")
    file = Path(path if colons else str(given))
    found = RunFolder(file).student if file.is_dir() else file
    if any((file / name).is_file() for name in HUB_FILES):
        raise ValueError(f"{given} is an exported net: take the whole of it by its model, local-dir:{given}, and "
                         "weights=pretrained")  # fmt: skip
    if not found.is_file():
        what = "a folder, and no finished run's" if file.is_dir() else "no file"
        raise ValueError(f"{given} is {what}: give a checkpoint, FILE::ENTRY for one of its parts, or a run's folder")
    return found, (entry if colons else None)


def record_of(given: str | Path) -> Mapping[str, Any]:
    """The result of the run of ours that has left these weights (see `weights_file`): what its net takes (`input`:
    size, mean, std) and tells apart (`classes`); empty for a file of others.
    """
    file = Path(str(given))
    folder = file if file.is_dir() else file.parent if file.name in (STUDENT_FILE, BEST) else None
    with suppress(BadResult):
        return RunFolder(folder).read_result().document if folder else {}
    return {}


def is_locked(path: Path) -> bool:
    """Whether a process that is alive holds a lock file; one that cannot be read counts as held."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # it may only be read, as among the runs of another user
        with suppress(ImportError, OSError):
            from fcntl import LOCK_NB, LOCK_SH, flock

            with open(path, "rb") as file:
                flock(file, LOCK_SH | LOCK_NB)
                return False
        return True


def find_runs(top: str | Path) -> Iterator[RunFolder]:
    """The folders of runs below `top`, itself included, finished or not; `top` may be a result.json itself."""
    top = Path(top)
    if top.is_file():
        yield RunFolder(top.parent)
        return
    for here, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if {RESULT, DONE_FILE, METRICS, TRACKING, LOG}.intersection([*files, *folders]):
            folders.clear()  # nothing below a run is a run
            yield RunFolder(here)


def score_in(row: Mapping[str, Any]) -> Any:
    """What a row says of how good the student is, in percent: its test accuracy, or without one that of neighbours."""
    found = row.get("test_accuracy")
    return row.get("knn_accuracy") if found is None else found
