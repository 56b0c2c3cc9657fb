"""Damaged, foreign and hostile files in every place where the program reads one."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill import errors
from scripts.faults import verbs
from scripts.faults.base import ready
from scripts.faults.forked import Outcome, forked
from scripts.faults.judging import PATIENCE, answer_is_wrong
from scripts.faults.keys import command
from scripts.faults.ledger import Try
from scripts.faults.shapes import SHAPES, SMALL, difference, fingerprint
from scripts.faults.ways import MARKER, Chance, damage


class Damage:
    """One file of a finished run, a run that was cut off, a data set or a sweep, damaged in one way."""

    name = "files"

    def __init__(self, folder: Path) -> None:
        self.base = folder / "base"

    def attempt(self, number: int, place: Path) -> Try:
        """Damage one file, run what reads it, and judge the answer."""
        ready(self.base)
        chance = random.Random(f"files {number}")
        kind = list(TARGETS)[number % len(TARGETS)]
        path, work, same = TARGETS[kind](self.base, place, chance)
        how = damage(path, place, chance)
        ended = forked(work, place, signals=((PATIENCE, signal.SIGTERM),), longest=PATIENCE + 60)
        wrong = self._wrong(ended, place, path, same)
        said = wrong or (ended.sentence or f"exit code {ended.code}")[:300]
        where = f"{path.relative_to(place)}" if wrong else ""
        counts = {"refused": int(ended.code in (2, 4))}
        return Try(self.name, number, f"{kind}: {how}", not wrong, said, where, counts)

    def _wrong(self, ended: Outcome, place: Path, path: Path, same: str | None) -> str:
        if (place / MARKER).exists() and path.suffix != ".py":
            return "it ran what the file says"
        if wrong := answer_is_wrong(ended):
            return wrong
        if ended.code == errors.STOPPED:
            return f"no answer in {ended.seconds:.0f} s"
        if same and ended.code == errors.DONE:
            damaged = str(path.relative_to(place / same))
            ours = json.loads((self.base / "fingerprint.json").read_text()), fingerprint(place / same)
            return difference(*({name: found for name, found in one.items() if name != damaged} for one in ours))
        return ""


# --- where files are read: each makes the place, and returns the file to damage, the work that reads it, and the output
# that must be bit for bit that of a run left alone if the work succeeds

Target = tuple[Path, Callable[[], Any], str | None]


def _again(output: str, place: Path) -> Callable[[], Any]:
    return lambda: command([*SMALL, *SHAPES["own teacher"], f"output={place / output}"], place)


def _copied(base: Path, place: Path, name: str) -> Path:
    shutil.copytree(base / name, place / name, symlinks=True)
    return place / name


def _found(output: Path, pattern: str, chance: Chance) -> Path:
    return chance.choice(sorted(path for path in output.rglob(pattern) if path.is_file()))


def _of_done(pattern: str, verb: str = "") -> Callable[[Path, Path, Chance], Target]:
    def make(base: Path, place: Path, chance: Chance) -> Target:
        output = _copied(base, place, "done")
        work = (lambda: command([verb, str(output)], place)) if verb else _again("done", place)
        return _found(output, pattern, chance), work, None

    return make


def _teacher(pattern: str) -> Callable[[Path, Path, Chance], Target]:
    """A teacher that is stored, read by a student's run that is not done."""

    def make(base: Path, place: Path, chance: Chance) -> Target:
        output = _copied(base, place, "done")
        shutil.rmtree(next(output.glob("digits/resnet8-resnet8")))
        return _found(output, pattern, chance), _again("done", place), "done"

    return make


def _of_cut(pattern: str) -> Callable[[Path, Path, Chance], Target]:
    def make(base: Path, place: Path, chance: Chance) -> Target:
        output = _copied(base, place, "cut")
        return _found(output, pattern, chance), _again("cut", place), "cut" if pattern == "*.ckpt" else None

    return make


def _weights(suffix: str) -> Callable[[Path, Path, Chance], Target]:
    def make(base: Path, place: Path, chance: Chance) -> Target:
        import torch
        from safetensors.torch import load_file

        source = next((base / "done").rglob("student.safetensors"))
        path = place / f"teacher{suffix}"
        if suffix == ".safetensors":
            shutil.copy(source, path)
        else:
            content, zipped = {"state_dict": load_file(source), "epoch": 3}, suffix == ".pt"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
        argv = [*SMALL, "method=kd", "schedule.epochs=1", f"teacher.weights={path}", f"output={place}/out"]
        return path, lambda: command(argv, place), None

    return make


def _config(relative: str, *argv: str) -> Callable[[Path, Path, Chance], Target]:
    def make(base: Path, place: Path, chance: Chance) -> Target:
        path = place / "mine" / relative
        path.parent.mkdir(parents=True)
        path.write_text("seed: 3\n")
        words = [*SMALL, "schedule.epochs=1", "teacher.weights=none", "--config-dir", str(place / "mine"), *argv]
        return path, lambda: command([*words, f"output={place}/out"], place), None

    return make


def _data(relative: str, *argv: str) -> Callable[[Path, Path, Chance], Target]:
    """A data set of a few images, through the whole command."""

    def make(base: Path, place: Path, chance: Chance) -> Target:
        shutil.copytree(base / "data", place / "data")
        path = _found(place / "data", relative, chance)
        words = [*SMALL, "schedule.epochs=1", "teacher.weights=none", *argv, f"output={place}/out"]
        return path, lambda: _with_few_images([*words, f"dataset.root={place}/data{_below(argv)}"], place), None

    return make


def _below(argv: tuple[str, ...]) -> str:
    return "/images" if "dataset=folder" in argv else ""


def _with_few_images(argv: list[str], place: Path) -> int:
    """Readers hold files against the number of images that a published data set has: here 20 and 10."""
    from functools import partial

    from distill.content import readers

    readers.READERS["cifar100"] = partial(readers.read_cifar100, counts=(20, 10))
    return command(argv, place)


def _attempts(base: Path, place: Path, chance: Chance) -> Target:
    output = _copied(base, place, "cut")
    path = output / "sweep.jsonl"
    run = next(output.rglob("metrics.jsonl")).parent
    line = {"folder": str(run), "code": 1, "why": "x", "command": "python -m distill"}
    path.write_text(json.dumps(line) + "\n")
    return path, lambda: command(["status", str(output)], place), None


def _cache(base: Path, place: Path, chance: Chance) -> Target:
    output = place / "out"
    argv = [*SMALL, *SHAPES["cached teacher"], f"output={output}"]
    forked(lambda: command(argv, place), place)
    shutil.rmtree(output / "digits" / "resnet8-resnet8", ignore_errors=True)
    return _found(output / "digits" / "teachers", "*.logits", chance), lambda: command(argv, place), None


CIFAR = ("dataset=cifar100", "dataset.fraction=1.0", "schedule.batch_size=10")
MNIST = ("dataset=mnist", "dataset.fraction=1.0", "schedule.batch_size=10")
IMAGES = ("dataset=folder", "dataset.fraction=1.0", "schedule=digits", "schedule.batch_size=4", "dataset.size=16",
          "dataset.workers=0")  # fmt: skip
TARGETS: dict[str, Callable[[Path, Path, Chance], Target]] = {
    "result.json of a finished run": _of_done("result.json"),
    "result.json, read by report": _of_done("result.json", "report"),
    "result.json, read by status": _of_done("result.json", "status"),
    "tracking.json, read by status": _of_done("tracking.json", "status"),
    "metrics.jsonl, read by status": _of_done("metrics.jsonl", "status"),
    "DONE": _of_done("DONE"),
    "weights of a stored teacher": _teacher("student.safetensors"),
    "result.json of a stored teacher": _teacher("none-*/**/result.json"),
    "accuracy of a teacher": _teacher("teachers/*.json"),
    "checkpoint": _of_cut("*.ckpt"),
    "metrics.jsonl of a run that was cut off": _of_cut("metrics.jsonl"),
    "tracking.json of a run that was cut off": _of_cut("tracking.json"),
    "best weights of a run that was cut off": _of_cut("*.safetensors"),
    "teacher.weights, safetensors": _weights(".safetensors"),
    "teacher.weights, torch": _weights(".pt"),
    "teacher.weights, old torch": _weights(".pth"),
    "an experiment of one's own": _config("experiment/mine.yaml", "experiment=mine"),
    "a schedule of one's own": _config("schedule/mine.yaml", "schedule=mine"),
    "a method of one's own": _config("method/mine.yaml", "method=mine"),
    "CIFAR's pickles": _data("cifar-100-python/*", *CIFAR),
    "idx files": _data("MNIST/raw/*", *MNIST),
    "images": _data("images/*/*/*", *IMAGES),
    "sweep.jsonl": _attempts,
    "a teacher's cache": _cache,
    **verbs.MORE,
}
