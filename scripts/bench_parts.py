"""What of a step is data, teacher, student, method and optimiser; and how much memory a loop takes."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

from distill.engine.cost import pieces
from distill.engine.fit import Fit
from distill.engine.optim import trainable
from distill.engine.update import train_mode

Result = TypeVar("Result")


def shares(fit: Fit, rounds: int = 5) -> dict[str, float]:
    """The parts of a step of a loop's last phase, 0 to 1, each timed alone; on a GPU a step may overlap them.

    data: gather, augment, normalise. teacher: its forward. student: forward, cross-entropy, backward. method: what
    remains of the method's losses and their backward. optimiser: the update of the weights.
    """
    train_mode(fit.method, fit.phases[-1])
    batches = islice(fit.source.epoch(1), rounds + 1)
    plain = torch.optim.SGD(trainable([fit.method]), lr=0.0, momentum=0.9, weight_decay=5e-4, fused=True)
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        batch, spent = timed(lambda: next(batches))
        seconds.setdefault("data", []).append(spent)
        work = pieces(fit.method, fit.phases[-1], batch, fit.options.autocast)
        for name, piece in {**work, "optimiser": plain.step}.items():
            seconds.setdefault(name, []).append(timed(piece)[1])
            if name != "whole":  # whose gradients the optimiser takes
                plain.zero_grad(set_to_none=True)
    typical = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    whole = typical.pop("whole")
    parts = {**typical, "method": max(whole - typical["teacher"] - typical["student"], 0.0)}
    return {name: value / sum(parts.values()) for name, value in parts.items()}


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What some work returns, and the seconds until the device is done with it."""
    wait()
    start = time.perf_counter()
    result = work()
    wait()
    return result, time.perf_counter() - start


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mib(device: torch.device) -> float | None:
    """The most memory that this process has held, in MiB: the GPU's where it uses one, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.exists() else "")
    return int(found[1]) / 2**10 if found else None
