"""The machine: device, precision, threads, seeds, and what a result says of them."""

from __future__ import annotations

import ctypes
import platform
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@cache
def keep_pages() -> None:
    """Ask glibc to keep freed memory instead of giving it back at every step, which costs as much as a teacher does.

    malloc maps nothing by itself, which it does for what is larger than 32 MiB whatever its thresholds say, and trims
    nothing; elsewhere nothing happens.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 64 << 20)
    mallopt(mmap_max, 0)


@contextmanager
def threads_kept() -> Iterator[None]:
    """A block after which torch has as many threads as before: a run's choice is not its caller's, nor the next run's.
    """
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pick_device(name: str) -> torch.device:
    """Resolve `auto`, `cpu`, `cuda`, `cuda:1`; ValueError where the device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name} is no device: use auto, cpu, cuda or cuda:<number>.") from error
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ValueError(f"device={name} is not here ({torch.cuda.device_count()} CUDA devices seen): use device=cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={name} is not here (it is of Apple's machines): use device=cpu.")
    return device


@cache
def cpu_entries() -> dict[str, str]:
    """What Linux says of the first processor, by name; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in reversed([*lines])}


def cpu_flags() -> frozenset[str]:
    """What Linux says the processor can do; nothing elsewhere."""
    return frozenset(cpu_entries().get("flags", "").split())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the autocast context of a precision; losses leave it through `full_precision`."""
    enabled = precision != "fp32"
    return torch.autocast(device.type, dtype=DTYPES[precision] if enabled else None, enabled=enabled)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the host's tensor on the device; from pinned memory, since a plain copy waits for all that is queued."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy and random."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the state of torch's generators: all randomness of a run comes from them."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore `rng_state()`; states of devices that are not here are left out."""
    torch.set_rng_state(state["cpu"].cpu())
    for index, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(one.cpu(), index)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what a result should say of the machine and the versions it came from."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("distill", "torch", "torchvision", "timm", "hydra-core"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    plain = cpu_entries().get("model name") or platform.processor() or platform.machine()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else plain
    return {"device": f"{device.type}: {name}", "threads": torch.get_num_threads(), "versions": versions}
