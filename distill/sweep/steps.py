"""Estimates where no run has told: one timed step of each net of a plan, kept for the next time."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from contextlib import suppress
from functools import cache
from typing import Any

from distill.config import RunSpec
from distill.content.image_record import cache_folder
from distill.files import SaveError, read_mapping, write_json

BUDGET = 2.5  # seconds for all nets of a plan; those after that are estimated by their multiply-accumulates
BY_STEP = "by a timed step of each net, without the method's own terms and evaluation"
SCALED = "by a timed step of other nets, scaled by multiply-accumulates"


class Steps:
    """The time of a run by timed steps of its nets, in words too; None where nothing could be timed."""

    def __init__(self, budget: float = BUDGET, *, quiet: bool = False) -> None:
        self._file = cache_folder() / "steps.json"
        self._known: dict[str, Any] = read_mapping(self._file)
        self._left, self._said, self._quiet = budget, False, quiet
        self._timed_here: list[Any] = []  # NetSeconds of this plan's nets
        self._macs: dict[str, int] = {}
        self._by_hash: dict[str, tuple[float | None, str]] = {}  # by hash: seeds differ in nothing

    def seconds(self, spec: RunSpec) -> tuple[float | None, str]:
        """Of the whole run, without evaluation, and where that is from."""
        if spec.hash not in self._by_hash:
            self._by_hash[spec.hash] = (None, "")
            with suppress(ValueError, RuntimeError, OSError, NotImplementedError, TypeError):
                self._by_hash[spec.hash] = self._seconds(spec)
        return self._by_hash[spec.hash]

    def _seconds(self, spec: RunSpec) -> tuple[float | None, str]:
        from distill.preflight import supposed  # imports torch

        if spec.schedule.rule or (spec.method.node.get("about") or {}).get("kind") == "data-free":
            return None, ""
        info = supposed(spec.dataset)
        if info is None:
            return None, ""
        nets = [(spec.student, info, "step"), *((net, info.for_teacher, "forward") for net in spec.teachers)]
        found = [(self._of_net(spec, net, seen), what) for net, seen, what in nets]
        if any(each is None for (each, _), _ in found):
            return None, ""
        whole = sum(getattr(each, what) for (each, _), what in found) * _images(spec, info) * spec.schedule.epochs
        return whole, SCALED if any(scaled for (_, scaled), _ in found) else BY_STEP

    def _of_net(self, spec: RunSpec, net: Any, info: Any) -> tuple[Any, bool]:
        """NetSeconds, or None, and whether they are scaled from those of other nets."""
        from distill.timed_step import NetSeconds, macs_of

        name, device, precision, *machine = _machine(spec.machine.device, spec.machine.precision)
        batch = 0 if name.startswith("cpu") else spec.schedule.batch_size
        shape = info.num_classes, info.in_chans, info.size
        whole = [name, precision, *machine, net.model, dict(net.args), *shape, batch]
        key = hashlib.sha256(json.dumps(whole, default=str).encode()).hexdigest()[:16]
        if not _is_timing(self._known.get(key)) and self._left > 0:
            self._known[key] = self._timed(net, info, device, precision, spec.schedule.batch_size)
        if _is_timing(self._known.get(key)):
            self._timed_here.append(NetSeconds(**self._known[key]))
            return self._timed_here[-1], False
        if not self._timed_here:
            return None, False
        if key not in self._macs:
            self._macs[key] = macs_of(net, info)
        nearest = min(self._timed_here, key=lambda each: abs(math.log(max(each.macs, 1) / max(self._macs[key], 1))))
        return nearest.of(self._macs[key]), True

    def _timed(self, net: Any, info: Any, device: Any, precision: str, batch_size: int) -> dict[str, float]:
        from distill.timed_step import net_seconds

        if not self._said and not self._quiet:
            print("distill: no run has told how long this takes: a step of each net is timed", file=sys.stderr)
        self._said = True
        begun = time.monotonic()
        try:
            return vars(net_seconds(net, info, device=device, precision=precision, batch_size=batch_size))
        finally:
            self._left -= time.monotonic() - begun

    def keep(self) -> None:
        """Write down what was timed; a folder that cannot be written is none of the plan's business."""
        if self._said:
            with suppress(SaveError, OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._file, self._known)


def _is_timing(kept: Any) -> bool:
    """Whether this is what NetSeconds holds: the file may be another version's, or changed by somebody."""
    if not isinstance(kept, dict) or set(kept) != {"step", "forward", "macs"}:
        return False
    return all(isinstance(value, (int, float)) and value > 0 for value in kept.values())


@cache
def _machine(asked: str, precision: str) -> tuple[Any, ...]:
    import torch

    import distill.runtime as runtime
    from distill.engine import trial

    device = runtime.pick_device(asked)
    name = runtime.describe_machine(device)["device"]
    more = os.cpu_count(), torch.get_num_threads(), torch.__version__
    return name, device, trial.pick_precision(precision, device), *more


def _images(spec: RunSpec, info: Any) -> float:
    """Training images of an epoch."""
    data = spec.dataset
    count = info.num_classes * data.shots if data.shots else info.num_train * data.fraction
    return float(count) * (1 - data.holdout)
