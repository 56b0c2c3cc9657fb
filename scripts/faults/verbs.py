"""Damaged files for the verbs, depth images and plugins; and folders that no program of ours left so."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.faults.base import ready
from scripts.faults.forked import forked
from scripts.faults.judging import PATIENCE, answer_is_wrong
from scripts.faults.keys import command
from scripts.faults.ledger import Try
from scripts.faults.shapes import SMALL

Chance = random.Random
Target = tuple[Path, Callable[[], Any], str | None]
Maker = Callable[[Path, Path, Chance], Target]
DEPTH = ("dataset=folder", "dataset.fraction=1.0", "schedule=digits", "schedule.batch_size=4", "dataset.size=16",
         "dataset.workers=0", "method=cross-modal-supervision", "dataset.views.student=depth")  # fmt: skip
PLUGIN = "from distill.methods.kd import *\n"


def _run_of(output: Path) -> Path:
    return next(output.glob("digits/resnet8-resnet8/*/s1"))


def _found(folder: Path, pattern: str, chance: Chance) -> Path:
    return chance.choice(sorted(path for path in folder.rglob(pattern) if path.is_file()))


def of_run(pattern: str, verb: str, *more: str) -> Maker:
    """A file of a finished run that a verb is asked about."""

    def make(base: Path, place: Path, chance: Chance) -> Target:
        shutil.copytree(base / "done", place / "done", symlinks=True)
        run = _run_of(place / "done")
        return _found(run, pattern, chance), lambda: command([verb, str(run), *more], place), None

    return make


def of_export(verb: str, pattern: str = "*") -> Maker:
    """A file of an exported folder, or an image that it is to name."""

    def make(base: Path, place: Path, chance: Chance) -> Target:
        exported = base / "exported"
        if not (exported / "model.safetensors").exists():
            run = _run_of(base / "done")
            ended = forked(lambda: command(["export", str(run), "--to", str(exported)], base), base)
            if ended.code:
                raise RuntimeError(f"the export to be damaged ends with {ended.code}: {ended.said[-500:]}")
        shutil.copytree(exported, place / "net")
        shutil.copytree(base / "data" / "images" / "val", place / "pictures")
        more = [str(place / "pictures")] if verb == "predict" else []
        folder = place / "pictures" if pattern == "image" else place / "net"
        path = _found(folder, "*" if pattern == "image" else pattern, chance)
        return path, lambda: command([verb, str(place / "net"), *more], place), None

    return make


def depth(base: Path, place: Path, chance: Chance) -> Target:
    """A depth image of a folder data set whose student sees depth."""
    shutil.copytree(base / "data" / "images", place / "data")
    for split in ("train", "val"):
        shutil.copytree(base / "data" / "images" / split, place / "data" / "depth" / split)
    words = [*SMALL, "schedule.epochs=1", "teacher.weights=none", *DEPTH, f"dataset.root={place}/data"]
    return _found(place / "data" / "depth", "*", chance), lambda: command([*words, f"output={place}/out"], place), None


def plugin(base: Path, place: Path, chance: Chance) -> Target:
    """A module or a package of the user's. What Python runs of it is run: it is a program."""
    path = place / chance.choice(("mine.py", "mine/__init__.py"))
    path.parent.mkdir(exist_ok=True)
    path.write_text(PLUGIN)
    words = [*SMALL, "schedule.epochs=1", "teacher.weights=none", "plugins=[mine]", f"output={place}/out"]
    return path, lambda: command(words, place), None


MORE: dict[str, Maker] = {
    "weights, read by export": of_run("student.safetensors", "export", "--to", "x"),
    "result.json, read by export": of_run("result.json", "export", "--to", "x"),
    "tracking.json, read by export": of_run("tracking.json", "export", "--to", "x"),
    "weights, read by eval": of_run("student.safetensors", "eval"),
    "result.json, read by eval": of_run("result.json", "eval"),
    "a run, read by analyze": of_run("*", "analyze", "--only", "gaps", "classes", "--images", "20"),
    "a run, read by probe": of_run("*", "probe", "--dataset", "digits", "--epochs", "1", "--fraction", "0.1"),
    "metrics.jsonl, on the page of report": of_run("metrics.jsonl", "report", "--out", "page.html"),
    "result.json, on the page of report": of_run("result.json", "report", "--out", "page.html"),
    "an exported folder, read by eval": of_export("eval"),
    "an exported folder, read by predict": of_export("predict"),
    "an image for predict": of_export("predict", "image"),
    "depth images": depth,
    "plugins": plugin,
}


# --- folders: each changes an output folder, in whose run it may be


def _named(name: str) -> Callable[[Path, Path], None]:
    def make(output: Path, run: Path) -> None:
        shutil.copytree(run, run.parent / name)

    return make


def _swapped(name: str, kind: str) -> Callable[[Path, Path], None]:
    """Something else in the place of a run's file."""

    def make(output: Path, run: Path) -> None:
        path = run / name
        path.unlink(missing_ok=True)
        if kind == "folder":
            (path / "below").mkdir(parents=True)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            here = os.getcwd()
            os.chdir(run)  # whose name is too long for a socket's
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(name)
            os.chdir(here)
        else:
            path.symlink_to({"loop": name, "root": "/", "zeros": "/dev/zero"}[kind])

    return make


def _deep(output: Path, run: Path) -> None:
    here = os.getcwd()
    os.chdir(output)
    for _ in range(600):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)


def _many(output: Path, run: Path) -> None:
    for k in range(3000):
        (output / "digits" / f"x-{k}").mkdir(parents=True)


def _circle(output: Path, run: Path) -> None:
    (run / "again").symlink_to(output)
    (output / "digits" / "again").symlink_to(output / "digits")


def _file_as_folder(output: Path, run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("x")


def _nothing(output: Path, run: Path) -> None:
    shutil.rmtree(output)
    output.mkdir()


_FILES, _KINDS = ("result.json", "metrics.jsonl", "DONE", "tracking.json", "student.safetensors", "log.txt"), (
    "folder", "fifo", "socket", "loop", "root", "zeros",
)  # fmt: skip
FOLDERS: dict[str, Callable[[Path, Path], None]] = {
    **{f"{kind} as {name}": _swapped(name, kind) for name in _FILES for kind in _KINDS},
    "a name with escapes": _named("s\x1b]0;x\x07"),
    "a name of two lines": _named("s1\ns2"),
    "a name that is no text": _named(os.fsdecode(b"s\xff\xfe")),
    "a name like a formula": _named("=1+1"),
    "a name like an option": _named("--all"),
    "a name of markup": _named("<script>alert(1)<|script>"),
    "a long name": _named("s" * 250),
    "deep folders": _deep,
    "many folders": _many,
    "circles of links": _circle,
    "a file where a run was": _file_as_folder,
    "an empty folder": _nothing,
}
ASKED: tuple[tuple[str, ...], ...] = (
    ("status", "{output}"), ("report", "{output}"), ("report", "{output}", "--all"),
    ("report", "{output}", "--out", "page.html"), ("report", "{output}", "--out", "table.csv"),
    ("export", "{run}", "--to", "x"), ("eval", "{run}"), ("report", "{output}", "--against", "{output}"),
)  # fmt: skip


class Folders:
    """Output folders that are not as a run left them, asked about by verbs and trained into by the same command."""

    name = "folders"

    def __init__(self, folder: Path) -> None:
        self.base = folder / "base"

    def attempt(self, number: int, place: Path) -> Try:
        """Change a folder, ask, and judge the answer."""
        ready(self.base)
        chance = random.Random(f"folders {number}")
        what = list(FOLDERS)[number % len(FOLDERS)]
        output = place / "done"
        shutil.copytree(self.base / "done", output, symlinks=True)
        run = _run_of(output)
        FOLDERS[what](output, run)
        asked = [word.format(output=output, run=run) for word in chance.choice(ASKED)]
        if chance.random() < 0.2:
            asked = [*SMALL, "method=kd", f"output={output}"]
        late = ((PATIENCE, signal.SIGTERM),)
        ended = forked(lambda: command(asked, place), place, signals=late, longest=PATIENCE + 60)
        wrong = answer_is_wrong(ended) or ("no answer" if ended.seconds > PATIENCE else "")
        page = place / "page.html"
        if not wrong and page.exists() and "<script>alert" in page.read_text(errors="replace"):
            wrong = "a name's markup is in the page"
        said = wrong or (ended.sentence or f"exit code {ended.code}")[:300]
        counts = {"refused": int(ended.code == 2)}
        told = shlex.join(["distill", *asked])[:500]
        return Try(self.name, number, f"{what}: {asked[0]}", not wrong, said, told, counts)
