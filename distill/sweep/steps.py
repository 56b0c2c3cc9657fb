"""Estimates where no run has told: one timed step of each net of a plan, kept for the next time."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from functools import cache
from typing import Any

from distill.config import RunSpec
from distill.content.image_record import cache_folder
from distill.files import SaveError, read_mapping, write_json

BUDGET = 6.0  # seconds for all nets of a plan; what comes after that has no estimate this time


class Steps:
    """The time of a run by timed steps of its nets; None where there are none, or no time is left for one."""

    def __init__(self, budget: float = BUDGET) -> None:
        self._file = cache_folder() / "steps.json"
        self._known: dict[str, Any] = read_mapping(self._file)
        self._left, self._said = budget, False
        self._told: dict[str, float | None] = {}  # by hash: seeds differ in nothing

    def seconds(self, spec: RunSpec) -> float | None:
        """Of the whole run, without evaluation."""
        if spec.hash not in self._told:
            self._told[spec.hash] = None
            with suppress(ValueError, RuntimeError, OSError, NotImplementedError, TypeError):
                self._told[spec.hash] = self._seconds(spec)
        return self._told[spec.hash]

    def _seconds(self, spec: RunSpec) -> float | None:
        from distill.preflight import supposed  # imports torch

        if spec.schedule.rule or (spec.method.node.get("about") or {}).get("kind") == "data-free":
            return None
        info = supposed(spec.dataset)
        if info is None:
            return None
        nets = [(spec.student, info, "step"), *((net, info.for_teacher, "forward") for net in spec.teachers)]
        parts = [self._of_net(spec, net, seen).get(what) for net, seen, what in nets]
        known = [float(part) for part in parts if isinstance(part, (int, float)) and part > 0]
        return sum(known) * _images(spec, info) * spec.schedule.epochs if len(known) == len(parts) else None

    def _of_net(self, spec: RunSpec, net: Any, info: Any) -> dict[str, Any]:
        """What a net takes for an image; nothing where that is not known."""
        name, device, precision, *machine = _machine(spec.machine.device, spec.machine.precision)
        batch = 0 if name.startswith("cpu") else spec.schedule.batch_size
        shape = info.num_classes, info.in_chans, info.size
        whole = [name, precision, *machine, net.model, dict(net.args), *shape, batch]
        key = hashlib.sha256(json.dumps(whole, default=str).encode()).hexdigest()[:16]
        if key not in self._known and self._left > 0:
            self._known[key] = self._timed(net, info, device, precision, spec.schedule.batch_size)
        found = self._known.get(key)
        return found if isinstance(found, dict) else {}

    def _timed(self, net: Any, info: Any, device: Any, precision: str, batch_size: int) -> dict[str, float]:
        from distill.timed_step import net_seconds

        if not self._said:
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


@cache
def _machine(asked: str, precision: str) -> tuple[Any, ...]:
    import torch

    from distill import runtime

    device = runtime.pick_device(asked)
    name = runtime.describe_machine(device)["device"]
    more = os.cpu_count(), torch.get_num_threads(), torch.__version__
    return name, device, runtime.pick_precision(precision, device), *more


def _images(spec: RunSpec, info: Any) -> float:
    """Training images of an epoch."""
    data = spec.dataset
    count = info.num_classes * data.shots if data.shots else info.num_train * data.fraction
    return float(count) * (1 - data.holdout)
