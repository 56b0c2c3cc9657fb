"""Timed steps: which precision, how many threads, and whether it is worth compiling, on this machine.

For a run that is too short for that, a convolution tells whether bf16 pays here, which takes a tenth of a second once.

A trial takes a few steps of each candidate in turn, so that a machine whose speed drifts slows all of them, and counts
the fastest. What it found is kept in the user's cache for this CPU, these versions, this method, these nets and batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from filelock import FileLock
from torch.nn import functional as F

import distill.runtime as runtime
from distill.content.image_record import cache_folder
from distill.cores import cores
from distill.engine.compiling import compile_forward, fold_batchnorm, half_weights
from distill.files import best_effort, read_mapping, write_json
from distill.models import FeatureNet

GAIN = 1.05  # what a candidate must be faster by to be taken over what is plain
ROUNDS = 5  # of each candidate, the first of which warms up
WAIT = 300.0  # seconds for the trial of another process
Pieces = list[tuple[Callable[[], None], int]]  # what a step consists of, and how often it does each


class TooLong(RuntimeError):
    """A phase does more before or in a step than there is time for: it synthesises images for minutes, say."""


def training_step(net: FeatureNet, batch: int, precision: str) -> Callable[[], None]:
    """A step of `net` in train mode on one random batch: forward, cross-entropy (or, of a backbone, the size
    of its embedding), backward, SGD.
    """
    net.train()
    images, labels = _batch(net, batch)
    sgd = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)

    def step() -> None:
        with runtime.autocast(images.device, precision):
            seen = net(images)
        sgd.zero_grad(set_to_none=True)
        cost = F.cross_entropy(seen.logits.float(), labels) if net.num_classes else seen.embedding.square().mean()
        cost.backward()
        sgd.step()

    return step


def frozen_forward(net: FeatureNet, batch: int, precision: str, *, compiled: bool = False) -> Callable[[], None]:
    """The forward of a frozen net on one random batch, prepared as a teacher's is."""
    images, _ = _batch(net, batch)
    net = fold_batchnorm(net.requires_grad_(False).eval())
    if precision != "fp32":
        half_weights(net, runtime.DTYPES[precision])
    if compiled:
        compile_forward(net, batch)

    def step() -> None:
        with torch.no_grad(), runtime.autocast(images.device, precision):
            net(images)

    return step


def _batch(net: FeatureNet, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    one = net.probe()[:1]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *one.shape[1:], generator=generator).contiguous(memory_format=torch.channels_last)
    return images.to(one.device), (torch.arange(batch) % max(net.num_classes, 1)).to(one.device)


def fastest(
    candidates: Mapping[str, Callable[[], None]], rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds of each candidate by a clock: its fastest round after the first, all in turn."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, step in candidates.items():
            start = clock()
            step()
            found[name].append(clock() - start)
    return {name: min(seconds[1:]) for name, seconds in found.items()}


def fastest_steps(
    candidates: Mapping[str, Pieces], rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """`fastest` of steps in pieces."""
    works = {f"{name}/{k}": work for name, pieces in candidates.items() for k, (work, _) in enumerate(pieces)}
    found = fastest(works, rounds, clock)
    return {
        name: sum(times * found[f"{name}/{k}"] for k, (_, times) in enumerate(pieces))
        for name, pieces in candidates.items()
    }


def busy() -> bool:
    """Whether other work keeps more than half of the cores from this process, as far as the system tells."""
    try:
        return os.getloadavg()[0] > 1 + (os.cpu_count() or 1) / 2
    except (AttributeError, OSError):
        return False


def with_threads(count: int, pieces: Pieces) -> Pieces:
    """The step with so many CPU threads."""

    def done(piece: Callable[[], None]) -> None:
        torch.set_num_threads(count)
        piece()

    return [(partial(done, piece), times) for piece, times in pieces]


def cached(known_by: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a trial found on a machine like this one; `make()` where none has been made, by one process at a time.

    known_by: says what was tried, and with what. The file tells what it is of, and may be deleted at any time.
    """
    known_by = known_by | machine()
    digest = hashlib.sha256(json.dumps(known_by, sort_keys=True).encode()).hexdigest()[:16]
    file = cache_folder() / "trials" / f"{digest}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock"), timeout=WAIT):
            stored = read_mapping(file)
            if stored.get("of") == known_by and isinstance(stored.get("found"), dict):
                return dict(stored["found"])
            found = make()
            best_effort(lambda: write_json(file, {"of": known_by, "found": found}))
            return found
    except (OSError, TimeoutError):  # no cache can be kept, or another's trial hangs
        return make()


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve `auto`: bf16 where the device computes faster in it, which a CPU is asked. Raises ValueError."""
    if name != "auto":
        if name not in runtime.DTYPES:
            raise ValueError(f"precision={name} is unknown: use auto, fp32, bf16 or fp16.")
        return name
    if device.type == "cuda":
        with torch.cuda.device(device):  # the run's own, and not the first: a machine may have two kinds
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and bf16_pays(torch.get_num_threads()) else "fp32"


@cache
def bf16_pays(threads: int) -> bool:
    """Whether a convolution, forward and backward, takes this CPU less time in bf16, casts included."""

    def make() -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            return fastest({name: convolution(name) for name in ("fp32", "bf16")}, 2 * ROUNDS, time.process_time)

    found = cached({"what": f"convolution {threads} threads"}, make)
    return bool(found["bf16"] * GAIN < found["fp32"])


def convolution(precision: str) -> Callable[[], None]:
    """A convolution of a mean net's size in a precision: forward and backward."""
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    maps = torch.randn(8, 64, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()

    def step() -> None:
        with torch.enable_grad(), runtime.autocast(maps.device, precision):
            seen = layer(maps)
        torch.autograd.grad(seen.float().sum(), [maps, *layer.parameters()])

    return step


def machine() -> dict[str, Any]:
    """What decides how fast a net is here: the CPU with its cores, what limits them, and torch."""
    limits = {key: os.environ[key] for key in ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
              if key in os.environ}  # fmt: skip
    return {"cpu": cpu_model(), "cores": cores(), "torch": torch.__version__, **limits}


def cpu_model() -> str:
    """The processor's name, family and what it can do, as far as Linux and torch tell."""
    entries = runtime.cpu_entries()
    words = [entries.get(key, "?") for key in ("model name", "cpu family", "model", "stepping")]
    kinds = sorted(runtime.cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    return " ".join([*words, torch.backends.cpu.get_cpu_capability(), *kinds])
