"""Images/s of this program's loop beside bare loops, all in one process and in turn: `python scripts/bench.py`.

Each loop runs a few steps in each round, one after the other, so that a machine whose speed drifts slows all of
them; ratios are medians over rounds. Images are random bytes: only time is measured. Results go to a JSON file and a
table, with hardware and versions. Single pieces: --pairs resnet56,resnet20 --methods kd,crd --no-packed --no-memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from bench_loops import Loop, bare, cached, own, random_data, sharing, stepping
from bench_parts import peak_mib, shares

from distill import config, runtime
from distill.engine import trial
from distill.engine.compiling import why_compile
from distill.files import write_json
from distill.record.progress import final_table

PAIRS = ("resnet56,resnet20", "wrn_40_2,wrn_16_2")
METHODS = ("none", "kd", "at", "sp", "rkd", "crd", "reviewkd")
WARMUP = 6  # steps that compile, and record graphs
PARTS = ("data", "teacher", "student", "method", "optimiser")


def measure(
    loops: dict[str, Loop], args: argparse.Namespace, device: torch.device, keep: Callable[[Any], None]
) -> dict[str, list[float]]:
    """Seconds a step of each loop in each round, after a warm-up; `keep` is shown what there is after each round."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(args.rounds + 1):
        for name, run in loops.items():
            steps = args.steps if number else WARMUP
            start = time.perf_counter()
            run(steps)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append((time.perf_counter() - start) / steps)
        if number:
            keep(seconds)
    return seconds


def ratio(over: list[float], under: list[float]) -> float:
    """How many times as fast `under` is as `over`: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def bench(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure all loops of a pair; returns what goes into the JSON file."""
    data, precision = random_data(device), trial.pick_precision(args.precision, device)
    fits = {name: own(args, device, data, name) for name in args.methods}
    loops = {
        "bare eager fp32": bare(args, device, fastest=False),
        "bare fastest": bare(args, device, fastest=True),
        "bare fastest, no teacher": bare(args, device, fastest=True, taught=False),
    }
    loops |= {f"fit {name}": stepping([fit]) for name, fit in fits.items()}
    if "kd" in args.methods:
        looked_up = own(args, device, data, "kd")
        asked = WARMUP + args.rounds * args.steps
        loops["fit kd, cached"] = stepping([cached(looked_up, data, asked, precision != "fp32")])
    if args.packed:
        lead, *rest = sorted(args.methods, key=lambda name: name != "kd")
        first = sharing(own(args, device, data, lead))
        loops["packed"] = stepping([first, *(own(args, device, data, name, like=first) for name in rest)])
    found: dict[str, Any] = {"pair": f"{args.teacher}-{args.student}", "batch": args.batch, "precision": precision}
    found |= {"compile": args.compile if args.compiling else "false", **runtime.describe_machine(device)}
    seconds = measure(loops, args, device, lambda so_far: write_json(path_of(args), found | {"seconds": so_far}))
    packed = seconds.pop("packed", None)
    found["rows"] = rows(seconds, args)
    eager, fastest, alone = (seconds[f"bare {name}"] for name in ("eager fp32", "fastest", "fastest, no teacher"))
    found["teacher_allows"] = ratio(fastest, alone)
    if "kd" in args.methods:
        found["cached"] = ratio(seconds["fit kd"], seconds["fit kd, cached"])
    if packed:
        one_by_one = [sum(each) for each in zip(*(seconds[f"fit {name}"] for name in args.methods), strict=True)]
        taught = sum(name != "none" for name in args.methods)
        free = [s - taught * (f - a) for s, f, a in zip(one_by_one, fastest, alone, strict=True)]
        found |= {"packed": ratio(one_by_one, packed), "packed_allows": ratio(one_by_one, free)}
    for name, fit in fits.items():
        found["rows"][f"fit {name}"]["shares"] = shares(fit)
    return found


def path_of(args: argparse.Namespace) -> Path:
    """The JSON file of a pair: what a run that is cut off has measured lies there too."""
    return Path(args.out, f"{args.teacher}-{args.student}-{runtime.pick_device(args.device).type}.json")


def rows(seconds: dict[str, list[float]], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A row for each loop."""
    eager, fastest = seconds["bare eager fp32"], seconds["bare fastest"]
    peaks = memory(list(seconds), args) if args.memory else {}
    return {
        name: {
            "ms": 1e3 * statistics.median(s),
            "images_per_second": args.batch / statistics.median(s),
            "to_eager": ratio(eager, s),
            "to_fastest": ratio(fastest, s),
            "peak_mib": peaks.get(name),
        }
        for name, s in seconds.items()
    }


def memory(loops: list[str], args: argparse.Namespace) -> dict[str, float | None]:
    """Peak memory of loops, uncompiled, each in a process of its own."""
    shared = ["--device", args.device, "--precision", args.precision, "--batch", str(args.batch), "--compile", "false"]
    command = [sys.executable, __file__, *shared, "--pairs", f"{args.teacher},{args.student}", "--memory-of"]

    def peak(loop: str) -> float | None:
        done = subprocess.run([*command, loop], capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return dict(zip(loops, pool.map(peak, loops), strict=True))


def memory_of(loop: str, args: argparse.Namespace, device: torch.device) -> float | None:
    """Run a few steps of one loop and return its peak memory in MiB."""
    if loop.startswith("bare"):
        bare(args, device, fastest="fastest" in loop, taught="no teacher" not in loop)(WARMUP)
        return peak_mib(device)
    data, name = random_data(device), loop.removeprefix("fit ").removesuffix(", cached")
    fit = own(args, device, data, name)
    if loop.endswith("cached"):
        cached(fit, data, WARMUP, trial.pick_precision(args.precision, device) != "fp32")
    stepping([fit])(WARMUP)
    return peak_mib(device)


def show(found: dict[str, Any]) -> None:
    """Print a pair's tables."""
    title = f"{found['pair']}, batch {found['batch']}, {found['device']}, {found['precision']}"
    speeds, parts = [], []
    for name, row in found["rows"].items():
        numbers = [f"{row['ms']:.1f}", f"{row['images_per_second']:.0f}", f"{row['to_eager']:.2f}"]
        speeds.append((name, *numbers, f"{row['to_fastest']:.2f}", f"{row['peak_mib'] or 0:.0f}"))
        if "shares" in row:
            parts.append((name, *(f"{100 * row['shares'][part]:.0f} %" for part in PARTS)))
    final_table(speeds, ("loop", "ms a step", "images/s", "x eager fp32", "x fastest bare", "peak MiB"), title=title)
    final_table(parts, ("share of a step", *PARTS), title="")
    print(f"without its teacher the fastest bare loop is {found['teacher_allows']:.2f} x as fast")
    if "cached" in found:
        print(f"kd with a full cache: {found['cached']:.2f} x kd with a live teacher")
    if "packed" in found:
        allowed = f"without any teacher it would be {found['packed_allows']:.2f}"
        print(f"all methods packed: {found['packed']:.2f} x one after the other; {allowed}")


def main() -> None:
    """Parse the command line, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=PAIRS, help="teacher,student of each pair")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", default="auto", help="auto, true or false")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="steps of each loop in a round")
    parser.add_argument("--rounds", type=int, default=5)
    switch: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": True}
    parser.add_argument("--packed", help="also all methods side by side", **switch)
    parser.add_argument("--memory", help="also the peak memory of each loop, in a process of its own", **switch)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    args = parser.parse_args()
    args.methods = args.methods.split(",")
    runtime.keep_pages()
    config.register()
    device = runtime.pick_device(args.device)
    args.compiling, why = why_compile(args.compile, 10**6, device)
    for pair in args.pairs:
        args.teacher, args.student = pair.split(",")
        if args.memory_of:
            print(json.dumps(memory_of(args.memory_of, args, device)))
            return
        print(f"{pair}, compiled: {args.compiling} ({why})", flush=True)
        found = bench(args, device)
        show(found)
        write_json(path_of(args), found)
        print(path_of(args))


if __name__ == "__main__":
    main()
