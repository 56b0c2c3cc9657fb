"""Which settings are fastest on this machine: ms a step of our loop by precision, compiling and cuDNN's search.

`python scripts/gpu/variants.py --device cuda --out OUT` times each variant in a process of its own, within its limit
and that of all (--total), and writes OUT/variants.json as results come. `--profile` adds the kernels of a step: how
often, and how long each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
VARIANTS = (("bf16", False, False), ("bf16", False, True), ("fp32", False, False), ("bf16", True, False))
LOOPS = ("none:resnet20,resnet20", "none:resnet56,resnet56", "kd:resnet56,resnet20")


def one(args: argparse.Namespace) -> dict[str, Any]:
    """Time one variant of one loop in this process."""
    from bench_loops import own, random_data, stepping

    from distill import config, runtime

    config.register()
    runtime.keep_pages()
    device = runtime.pick_device(args.device)
    torch.backends.cudnn.benchmark = args.search
    method, pair = args.loop.split(":")
    args.teacher, args.student = pair.split(",")
    args.compiling, args.compile = args.compiled, "true" if args.compiled else "false"
    fit = own(args, device, random_data(device), method)
    run, start = stepping([fit]), time.perf_counter()
    run(8)
    wait(device)
    found: dict[str, Any] = {"first_steps_s": time.perf_counter() - start, "ms": []}
    for _ in range(3):
        start = time.perf_counter()
        run(args.steps)
        wait(device)
        found["ms"].append(1e3 * (time.perf_counter() - start) / args.steps)
    found["graph"] = fit.graphed.why or "recorded" if fit.graphed else None
    if args.profile:
        found["kernels"] = kernels(fit, device)
    return found


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def kernels(fit: Any, device: torch.device) -> list[tuple[str, int, float]]:
    """(name, calls, microseconds each) of the kernels of four eager steps, those that take most first."""
    from torch.profiler import ProfilerActivity, profile

    phase, batches = fit.phases[0], fit.source.epoch(9)
    with profile(activities=[ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]) as seen:
        for _, batch in zip(range(4), batches, strict=False):
            fit._work(phase, batch)
        wait(device)
    rows = [(e.key[:90], e.count, getattr(e, "self_device_time_total", 0) or e.self_cpu_time_total)
            for e in seen.key_averages()]
    return [(name, count, total / count) for name, count, total in sorted(rows, key=lambda row: -row[2])[:40]]


def variants(args: argparse.Namespace) -> None:
    """Time all variants, one process each."""
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    end = time.monotonic() + args.total
    for loop, (precision, compiled, search) in product(args.loops, VARIANTS):
        name = f"{loop} {precision}{' compiled' if compiled else ''}{' search' if search else ''}"
        command = [sys.executable, __file__, "--loop", loop, "--precision", precision, "--device", args.device,
                   "--steps", str(args.steps)] + ["--compiled"] * compiled + ["--search"] * search
        command += ["--profile"] if args.profile and not compiled and not search and precision == "bf16" else []
        limit = min(args.limit, end - time.monotonic())
        if limit < 1:
            print(name, "was not begun: --total", flush=True)
            continue
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
            last = done.stdout.strip().splitlines()[-1:] or ["null"]
            why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            found[name] = json.loads(last[0]) if done.returncode == 0 else why[0]
        except subprocess.TimeoutExpired:
            found[name] = f"cut off after {limit:.0f} s"
        row = found[name]
        print(name, [round(ms, 2) for ms in row["ms"]] if isinstance(row, dict) else row, flush=True)
        (args.out / "variants.json").write_text(json.dumps(found, indent=1))


def main() -> None:
    """One variant where --loop says which, else all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--limit", type=int, default=60, help="seconds for each variant")
    parser.add_argument("--total", type=int, default=180, help="seconds for all of them")
    parser.add_argument("--loops", nargs="+", default=LOOPS, help="method:teacher,student of each")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    for switch in ("compiled", "search", "profile"):
        parser.add_argument(f"--{switch}", action="store_true")
    args = parser.parse_args()
    if args.loop:
        print(json.dumps(one(args)))
    else:
        variants(args)


if __name__ == "__main__":
    main()
