"""How fast a pair is on this kind of CPU, and where its time goes: `python scripts/bench_cpu.py --kinds native AVX2`.

For each precision: a training step of the student and a forward of the teacher, eager and compiled, all in turn, and
what part of an eager step is spent in convolutions, which oneDNN computes. A kind other than native is this CPU held to
an older instruction set (ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY), and is called so: caches and clock stay its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch

from distill import runtime
from distill.engine import trial
from distill.engine.compiling import compile_forward
from distill.files import write_json
from distill.models import FeatureNet, build
from distill.record.progress import final_table

ISA = {"AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
       "AVX512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "AVX512-BF16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
       "native": {}}  # fmt: skip


def net(name: str, seed: int) -> FeatureNet:
    return build(f"cifar_{name}", 100, seed=seed).to(memory_format=torch.channels_last)


def of_convolutions(step: Callable[[], None]) -> float:
    """The part of a step's time that convolutions take, forward and backward."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(3):
            step()
    spent = {row.key: row.self_cpu_time_total for row in seen.key_averages()}
    return sum(us for key, us in spent.items() if "convolution" in key) / sum(spent.values())


def timed(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Seconds of each step: of one thread its own CPU seconds, which what else runs here disturbs less."""
    return trial.fastest(steps, rounds, time.process_time if torch.get_num_threads() == 1 else time.perf_counter)


def one(args: argparse.Namespace) -> dict[str, Any]:
    """Time the pair in this process."""
    found: dict[str, Any] = {"machine": trial.machine(), "threads": torch.get_num_threads()}
    for precision in args.precisions:
        makers: dict[str, Callable[[], Callable[[], None]]] = {
            "student": lambda p=precision: trial.training_step(net(args.student, 1), args.batch, p),
            "teacher": lambda p=precision: trial.frozen_forward(net(args.teacher, 0), args.batch, p),
        }
        row: dict[str, Any] = {f"{name}_convolutions": of_convolutions(make()) for name, make in makers.items()}
        steps = {name: make() for name, make in makers.items()}
        if args.compiled:
            student = net(args.student, 1)
            compile_forward(student, args.batch)
            steps["student_compiled"] = trial.training_step(student, args.batch, precision)
            steps["teacher_compiled"] = trial.frozen_forward(net(args.teacher, 0), args.batch, precision, compiled=True)
        found[precision] = row | {f"{name}_ms": 1e3 * s for name, s in timed(steps, args.rounds + 1).items()}
    return found


def show(found: dict[str, Any]) -> None:
    """Print a row for each kind and precision."""
    columns = ("student_ms", "student_compiled_ms", "student_convolutions", "teacher_ms", "teacher_compiled_ms",
               "teacher_convolutions")  # fmt: skip
    rows = [(kind, precision, *(f"{row[c]:.2f}" if c in row else "" for c in columns))
            for kind, each in found.items() for precision, row in each.items() if isinstance(row, dict)
            and precision in runtime.DTYPES]  # fmt: skip
    final_table(rows, ("CPU held to", "precision", *columns), title="ms, the fastest round; convolutions: share of 1")


def main() -> None:
    """One kind after the other, each precision in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["native", "AVX2"], choices=list(ISA))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    runtime.keep_pages()
    if args.one:
        print(json.dumps(one(args)))
        return
    found: dict[str, Any] = {kind: {} for kind in args.kinds}
    given = [f"--{name}={getattr(args, name)}" for name in ("teacher", "student", "batch", "rounds")]
    given.append("--compiled" if args.compiled else "--no-compiled")
    for kind, precision in product(args.kinds, args.precisions):  # written each, for what is cut off later
        done = subprocess.run([sys.executable, __file__, *given, "--one", "--precisions", precision],
                              env=os.environ | ISA[kind], capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        found[kind] |= json.loads(done.stdout.splitlines()[-1])
        print(kind, precision, found[kind][precision], flush=True)
        write_json(args.out / f"cpu-{args.teacher}-{args.student}.json", found)
    show(found)


if __name__ == "__main__":
    main()
