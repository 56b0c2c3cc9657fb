"""What a whole small table costs beside its steps alone: `python scripts/bench_table.py`.

A row of methods x seeds on images of CIFAR's shapes (random bytes), through the real launchers: one after the other,
local with two slots, packed, each with a cold and then a warm teacher cache. Start-up, evaluation, checkpoints and
look-ups are counted. Between the commands the steps alone are timed in a bare loop, which holds a batch and what the
teacher says of it: its figure of a command is the mean of those before and after. On a machine with other work CPU
seconds are the steadier ratio. Results go to a JSON file with hardware and versions.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_loops import CLASSES, own, random_data

from distill import config, runtime
from distill.engine import trial
from distill.engine.cost import pieces
from distill.engine.fit import Fit
from distill.engine.optim import trainable
from distill.engine.update import train_mode
from distill.files import write_json
from distill.record.progress import final_table
from distill.teachers.forward import ForwardMemo

METHODS = ("none", "kd", "at", "sp", "rkd", "crd", "reviewkd")
LAUNCHERS = {
    "packed": ("hydra/launcher=packed",),
    "local, two slots": ("hydra/launcher=local", "hydra.launcher.slots=2"),
    "one after the other": ("hydra/launcher=local",),
}
Cost = dict[str, float]  # wall and CPU seconds


def timed(work: Callable[[], Any]) -> Cost:
    """Wall and CPU seconds of some work, of the processes that it starts and waits for too."""

    def now() -> Cost:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return {"wall": time.perf_counter(), "cpu": sum(each.ru_utime + each.ru_stime for each in used)}

    start = now()
    work()
    return {key: value - start[key] for key, value in now().items()}


def write_cifar(folder: Path) -> None:
    """CIFAR-100's files, of random bytes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, count in (("train", 50_000), ("test", 10_000)):
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        content = {"data": pixels, "fine_labels": (np.arange(count) % CLASSES).tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {k}" for k in range(CLASSES)]}))


class Steps:
    """The steps of all methods alone: forward, losses, backward, SGD, on a batch that stays in memory.

    The teacher is asked of it once, as if all its answers were known.
    """

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        data = random_data(device)
        self.work = {name: self._step(own(args, device, data, name)) for name in args.methods}
        self.device = device

    def _step(self, fit: Fit) -> Callable[[], None]:
        method, phase = fit.method, fit.method.phases()[-1]
        method.teacher_forward = ForwardMemo(method.teacher_forward)
        train_mode(method, phase)
        whole = pieces(method, phase, next(fit.source.epoch(1)), fit.options.autocast)["whole"]
        sgd = torch.optim.SGD(trainable([method]), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)

        def step() -> None:
            sgd.zero_grad(set_to_none=True)
            whole()
            sgd.step()

        return step

    def cost(self, steps: int, rounds: int) -> Cost:
        """Seconds of so many steps of every method, from a median of rounds."""
        found: list[Cost] = []
        for number in range(rounds + 1):
            spent = timed(self._round)
            found += [spent] if number else []
        return {key: steps * statistics.median(each[key] for each in found) for key in ("wall", "cpu")}

    def _round(self) -> None:
        for step in self.work.values():
            step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def command(args: argparse.Namespace, root: Path, output: Path, words: tuple[str, ...]) -> list[str]:
    """The sweep: 5 training images to one that is evaluated, as in CIFAR; the teacher is random."""
    images = args.steps * args.batch
    kept, held = 6 * images / 5 / 50_000, 1 / 6
    told = [f"method={','.join(args.methods)}", f"seed={','.join(map(str, range(1, args.seeds + 1)))}"]
    told += ["dataset=cifar100", f"dataset.root={root}", f"dataset.holdout={held * kept:.6f}"]
    told += [f"dataset.fraction={images / (50_000 * (1 - held * kept)):.6f}", f"schedule.batch_size={args.batch}"]
    told += [f"teacher={args.teacher}", "teacher.weights=none", f"student={args.student}"]
    told += [f"schedule.epochs={args.epochs}", f"output={output}", f"device={args.device}"]
    told += [f"precision={args.precision}", f"threads={args.threads or 'null'}", *args.words, *words]
    return [sys.executable, "-m", "distill", "-m", *told]


def adopt() -> None:
    """Become the parent of what the commands leave, so that the CPU seconds of a server of forks are counted too."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def run(words: list[str]) -> None:
    """A command, and what it started, to their ends. Raises RuntimeError with what it printed where it fails."""
    done = subprocess.run(words, capture_output=True, text=True)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def forget(output: Path) -> None:
    """Remove the runs, and keep what the teacher said."""
    for pair in (output / "cifar100").glob("*-*"):
        shutil.rmtree(pair)


def table(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time the commands between bare loops; returns what goes into the JSON file, which is written row by row."""
    found: dict[str, Any] = {"pair": f"{args.teacher}-{args.student}", "methods": list(args.methods)}
    found |= {"seeds": args.seeds, "steps": args.steps * args.epochs, "epochs": args.epochs, "batch": args.batch}
    found |= {"precision": trial.pick_precision(args.precision, device), **runtime.describe_machine(device)}
    found |= {"load": os.getloadavg()[0], "rows": {}}
    alone = Steps(args, device)
    steps = args.seeds * args.steps * args.epochs
    with tempfile.TemporaryDirectory(prefix="distill-bench-") as place:
        write_cifar(Path(place, "data", "cifar-100-python"))
        before = alone.cost(steps, args.rounds)
        for name, words in LAUNCHERS.items():
            if args.launchers and name.split()[0].strip(",") not in args.launchers:
                continue
            output = Path(place, name.split()[0].strip(","))
            work = partial(run, command(args, Path(place, "data"), output, words))
            if "cold" not in args.caches:
                work()  # which fills the cache
                print(f"{name}: the cache is warm", flush=True)
                forget(output)
                before = alone.cost(steps, args.rounds)
            for cache in args.caches:
                spent = timed(work)
                after = alone.cost(steps, args.rounds)
                base = {key: (before[key] + after[key]) / 2 for key in spent}
                row = {**spent, **{f"steps_{key}": base[key] for key in base}}
                row |= {f"to_steps_{key}": spent[key] / base[key] for key in base}
                found["rows"][f"{name}, {cache}"] = row
                write_json(path_of(args, device), found)
                print(f"{name}, {cache}:", json.dumps({key: round(value, 2) for key, value in row.items()}), flush=True)
                before = after
                forget(output)
    return found


def path_of(args: argparse.Namespace, device: torch.device) -> Path:
    """The JSON file."""
    return Path(args.out, f"table-{args.teacher}-{args.student}-{device.type}.json")


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    title = f"{len(found['methods'])} methods x {found['seeds']} seeds, {found['steps']} steps each, {found['pair']}"
    rows = []
    for name, row in found["rows"].items():
        spent, ratios = ([row[f"{before}{key}"] for key in ("wall", "cpu")] for before in ("", "to_steps_"))
        rows.append((name, *(f"{value:.1f}" for value in spent), *(f"{value:.2f}" for value in ratios)))
    heads = ("launcher, teacher cache", "seconds", "CPU seconds", "x steps alone", "x steps alone, CPU")
    final_table(rows, heads, title=f"{title}, {found['device']}, {found['precision']}, {found['threads']} threads")


def main() -> None:
    """Parse the command line, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default="resnet56,resnet20", help="teacher,student")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=75, help="steps of an epoch")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9, help="of the bare loop, between two commands")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--launchers", nargs="*", help="one, local, packed; default: all")
    parser.add_argument("--caches", nargs="+", default=["cold", "warm"], choices=["cold", "warm"],
                        help="of the teacher's answers; warm alone: a first command is not timed")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("words", nargs="*", help="further overrides of the commands")
    args = parser.parse_args()
    args.methods, (args.teacher, args.student) = args.methods.split(","), args.pair.split(",")
    args.compile, args.compiling = "false", False  # a table of so few steps compiles nothing
    adopt()
    runtime.keep_pages()
    config.register()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = runtime.pick_device(args.device)
    found = table(args, device)
    show(found)
    print(path_of(args, device))


if __name__ == "__main__":
    main()
