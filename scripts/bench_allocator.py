"""Does it matter how memory is taken from the system? `python scripts/bench_allocator.py --nets resnet20 wrn_40_2`.

CPU milliseconds, page faults and the system's part of a training step with glibc's own thresholds (plain), with those
that runtime.keep_pages sets (kept), and with these and transparent huge pages (kept, huge), which torch asks for where
THP_MEM_ALLOC_ENABLE is set. Each takes a process of its own, in turn, so that a machine whose speed drifts slows all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from distill import runtime
from distill.engine import trial
from distill.files import write_json
from distill.models import build
from distill.record.progress import final_table

VARIANTS: dict[str, dict[str, str]] = {"plain": {}, "kept": {}, "kept, huge": {"THP_MEM_ALLOC_ENABLE": "1"}}


def one(args: argparse.Namespace) -> dict[str, float]:
    """Time one variant of one net in this process."""
    torch.set_num_threads(1)
    if args.one != "plain":
        runtime.keep_pages()
    (name,) = args.nets
    net = build(f"cifar_{name}", 100, seed=1).to(memory_format=torch.channels_last)
    step, seconds = trial.training_step(net, args.batch, args.precision), []
    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(args.steps):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ms": 1e3 * statistics.median(seconds),
        "system_ms": 1e3 * (after.ru_stime - before.ru_stime) / args.steps,
        "faults": (after.ru_minflt - before.ru_minflt) / args.steps,
        "peak_mib": after.ru_maxrss / 1024,
    }


def main() -> None:
    """All variants of all nets in turn, then a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["resnet20", "wrn_40_2"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args)))
        return
    found: dict[str, Any] = {"machine": trial.machine(), "batch": args.batch, "precision": args.precision, "nets": {}}
    shared = [f"--{key}={getattr(args, key)}" for key in ("batch", "precision", "steps")]
    for _ in range(args.rounds):
        for name in args.nets:
            for variant, more in VARIANTS.items():
                command = [sys.executable, __file__, "--one", variant, "--nets", name, *shared]
                done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True, check=True)
                row = found["nets"].setdefault(name, {}).setdefault(variant, {})
                for key, value in json.loads(done.stdout.splitlines()[-1]).items():
                    row.setdefault(key, []).append(round(value, 2))
                write_json(args.out / "allocator-cpu.json", found)
    columns = ("ms", "system_ms", "faults", "peak_mib")
    rows = [(name, variant, *(f"{statistics.median(row[c]):.1f}" for c in columns))
            for name, each in found["nets"].items() for variant, row in each.items()]  # fmt: skip
    final_table(rows, ("net", "memory", *columns), title="medians; CPU time of a training step")


if __name__ == "__main__":
    main()
