"""What result.json holds, with its schema and version. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_VERSION = 1  # of the schema; the first one is not written into the file


_KINDS: dict[str, type] = {  # what is more than a word or a number
    "files": dict, "input": dict, "also": dict, "quantized": dict, "omitted": dict, "versions": dict, "args": dict,
    "classes": list, "teachers": list, "setting": list, "departs": str, "evaluated_on": str, "teacher_origin": str,
}  # fmt: skip


class BadResult(ValueError):
    """What is wrong with a result.json, as the end of a sentence that begins with its name.

    foreign: it is a whole file, but of something else. remedy: what to do where it should be a result.
    """

    remedy = "put the file back, or delete the folder and the same command trains it anew"

    def __init__(self, message: str, *, foreign: bool = False, remedy: str = remedy) -> None:
        super().__init__(message)
        self.foreign, self.remedy = foreign, remedy


@dataclass(frozen=True)
class Accuracy:
    """Top-1 in percent: after the last epoch and after the best, counted from 1 over all phases in which the student's
    accuracy is measured. None: not measured.
    """

    last: float | None
    best: float | None
    best_epoch: int | None


@dataclass(frozen=True)
class Result:
    """The result of a finished run. None: not measured, or of a version before it was.

    Accuracies, `top5` too, are in percent; `agreement`, `waiting` and `method_share_of_step` are shares of 1; `seconds`
    is wall time. `document` is the whole file, with what only some runs tell.
    """

    dataset: str
    student: str
    method: str
    accuracy: Accuracy
    knn: Accuracy | None  # of features, by nearest neighbours, where that was asked for or there is no classifier
    linear_probe: float | None  # in percent, of a linear layer on features
    evaluated_on: str  # the part of the data set: test, or holdout
    protocol: str | None
    teacher: str | None
    hash: str | None
    seed: int | None
    setting: tuple[str, ...]  # what sets the task apart from its data set's plain one
    ce: float | None
    kd: float | None
    weight: float | None
    epochs: int | None
    top5: float | None
    teacher_accuracy: float | None
    agreement: float | None
    params: int | None
    macs: int | None
    method_params: int | None
    method_share_of_step: float | None
    images_per_second: float | None
    waiting: float | None
    seconds: float | None
    precision: str | None
    device: str | None
    packed: int | None  # runs that took their steps in turn, this one among them: `seconds` holds the steps of all
    command: str | None
    document: Mapping[str, Any] = field(repr=False)
    version: int = _VERSION

    @classmethod
    def from_json(cls, content: Any) -> Result:
        """Read the content of a result.json. Raises BadResult for what is none, or of a later version."""
        needed = ("dataset", "student", "method", "accuracy")
        if not isinstance(content, dict) or not content.keys() >= {*needed}:
            raise BadResult(f"is not a run's (it lacks {', '.join(_missing_keys(content, needed))})", foreign=True)
        version = content.get("version", 1)
        if version != _VERSION:
            reason = f"has schema {version!r}, and this program reads {_VERSION}"
            raise BadResult(reason, remedy="read it with the distill that wrote it, or a later one")
        names = {key: content[key] for key in needed[:3]}
        if wrong := [key for key, name in names.items() if not isinstance(name, str) or not name]:
            raise BadResult(f"is damaged ({wrong[0]} is no name)")
        for key, kind in _KINDS.items():
            if not isinstance(content.get(key), kind | None):
                raise BadResult(f"is damaged ({key} is {str(content[key])[:40]!r})")
        measured = _mapping(content, "accuracy")
        last, best = (_read(as_percent, measured, key) for key in ("last", "best"))
        return cls(
            **names,
            accuracy=Accuracy(last, best, _read(_count, measured, "best_epoch")),
            knn=_knn(content),
            evaluated_on=str(content.get("evaluated_on") or "test"),
            teacher=_teacher(content.get("teacher")),
            setting=_setting(content.get("setting")),
            **_values(content),
            document=content,
        )

    @property
    def score(self) -> Accuracy:
        """What the run is known by: its accuracy, or that of its features' neighbours where it has no classifier."""
        return self.knn if self.accuracy.last is None and self.knn else self.accuracy

    def to_json(self) -> dict[str, Any]:
        """The content of result.json, key by key as it was read or written."""
        return dict(self.document)


def _knn(content: dict[str, Any]) -> Accuracy | None:
    found = _mapping(content, "knn")
    last, best = (_read(as_percent, found, key) for key in ("last", "best"))
    return None if last is None else Accuracy(last, best, _read(_count, found, "best_epoch"))


def _values(content: dict[str, Any]) -> dict[str, Any]:
    """What is a word or a number, each read as what it must be."""
    read: dict[Callable[[Any], Any], tuple[str, ...]] = {
        _word: ("protocol", "hash", "precision", "device", "command"),
        as_percent: ("top5", "teacher_accuracy", "linear_probe"),
        as_number: ("agreement", "images_per_second", "waiting", "seconds", "method_share_of_step"),
        _count: ("seed", "epochs", "params", "macs", "method_params", "packed"),
    }
    losses = _mapping(content, "convention")
    found = {key: _read(as_number, losses, key) for key in ("ce", "kd", "weight")}
    return {**found, **{key: _read(make, content, key) for make, keys in read.items() for key in keys}}


def _read(make: Callable[[Any], Any], content: dict[str, Any], key: str) -> Any:
    """A value as what it must be, None where there is none. Raises BadResult for another kind of value."""
    value = content.get(key)
    found = make(value)
    if found is None and value not in (None, ""):
        raise BadResult(f"is damaged ({key} is {str(value)[:40]!r})")
    return found


def as_number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def as_percent(value: Any) -> float | None:
    """A number from 0 to 100, or None for anything else."""
    found = as_number(value)
    return found if found is not None and 0 <= found <= 100 else None


def _count(value: Any) -> int | None:
    found = as_number(value)
    return None if found is None else int(found)


def _word(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


def _mapping(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict | None):
        raise BadResult(f"is damaged ({key} is {str(value)[:40]!r})")
    return value or {}


def _teacher(value: Any) -> str | None:
    """Several teachers are one name joined by plus signs."""
    if isinstance(value, list):
        return " + ".join(map(str, value)) or None
    return str(value) if value not in (None, "", "none") else None


def _setting(value: Any) -> tuple[str, ...]:
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()


def _missing_keys(content: Any, needed: tuple[str, ...]) -> list[str]:
    return [key for key in needed if not isinstance(content, dict) or key not in content]
