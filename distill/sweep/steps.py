"""Estimates where no run has told: a timed step of a method on its pair, or on small nets and each net by itself.

What was timed is kept for the next time, and timed anew once it is a day old.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from typing import Any

from distill.config import RunSpec, frozen, thawed
from distill.content.image_record import cache_folder
from distill.files import SaveError, read_mapping, write_json

BUDGET = 2.0  # seconds for all timing of a plan, 0.4 of them for nets; those after that are estimated by others
DIRECT, SHARED = 16e9, 1.3e9  # multiply-accumulates of the nets in a method's step: on its own pair, on small nets
FRESH = 86_400.0  # seconds after which what was timed is timed again: the machine may have been busy
FEW_RUNS = 4  # runs, seeds apart, up to which the method of each is timed on its own pair
_AT, _OF_NET = "at", ("step", "forward", "macs")  # of what is kept: when it was timed, and NetSeconds
_SMALL_NET = "cifar_resnet8"
REFUSALS = (ValueError, RuntimeError, OSError, NotImplementedError, TypeError, AttributeError, LookupError)
_OF_STEPS = ("accumulate", "mixup", "cutmix", "loss", "label_smoothing", "optimizer")  # of a schedule
BY_METHOD = "by a timed step of method and pair, without evaluation"
BY_STEP = "by a timed step of each net"
SCALED = "by a timed step of other nets, scaled by multiply-accumulates"
ON_SMALL = ", and of the method on small nets, without evaluation"
NETS_ALONE = ", without the method's own terms and evaluation"


class Steps:
    """The time of a run by timed steps of its method and nets, in words too; None where nothing could be timed.

    budget: seconds; on a machine that is busy with other things, of computing.
    few: whether there is time for each method on its own pair; else it is timed on small nets, and each net by itself.
    """

    def __init__(self, budget: float = BUDGET, *, quiet: bool = False, few: bool = True) -> None:
        self._file = cache_folder() / "steps.json"
        self._known: dict[str, Any] = read_mapping(self._file)
        self._left = {"net": 0.4 * budget, "method": budget if few else 0.6 * budget}
        self._limit, self._said, self._quiet, self._few = budget, False, quiet, few
        self._timed_here: list[Any] = []  # NetSeconds of this plan's nets
        self._read = dict(self._known)
        self._by_hash: dict[str, tuple[float | None, str]] = {}  # by hash: seeds differ in nothing

    def seconds(self, spec: RunSpec) -> tuple[float | None, str]:
        """Of the whole run, without evaluation, and where that is from."""
        if spec.hash not in self._by_hash:
            self._by_hash[spec.hash] = (None, "")
            with suppress(*REFUSALS):
                self._by_hash[spec.hash] = self._seconds(spec)
        return self._by_hash[spec.hash]

    def _seconds(self, spec: RunSpec) -> tuple[float | None, str]:
        from distill.preflight import supposed  # imports torch

        info = None if spec.schedule.rule else supposed(spec.dataset)
        if info is None:
            return None, ""
        whole = spec.schedule.epochs, _images(spec, info)
        if method := self._of_method(spec, info, DIRECT, timed=self._few):
            return method.whole(*whole), BY_METHOD
        nets, scaled = self._of_nets(spec, info)
        if nets is None:
            return None, ""
        words = SCALED if scaled else BY_STEP
        small = _on_small_nets(spec)
        before, guessed = self._of_nets(small, info, "method")  # small nets take longer for their size: none is scaled
        method = None if guessed else self._of_method(small, info, SHARED)
        if method and before:
            return method.on(before, nets).whole(*whole), words + ON_SMALL
        if spec.method.is_data_free:
            return None, ""
        return math.prod(whole) * nets, words + NETS_ALONE

    def _of_nets(self, spec: RunSpec, info: Any, budget: str = "net") -> tuple[float | None, bool]:
        """Seconds an image of student and teachers, and whether they are scaled from those of other nets."""
        nets = [(spec.student, info, "step"), *((net, info.for_teacher, "forward") for net in spec.teachers)]
        found = [(self._of_net(spec, net, seen, budget), what) for net, seen, what in nets]
        if any(each is None for (each, _), _ in found):
            return None, False
        return sum(getattr(each, what) for (each, _), what in found), any(scaled for (_, scaled), _ in found)

    def _of_method(self, spec: RunSpec, info: Any, macs: float, *, timed: bool = True) -> Any:
        """MethodSeconds of a run's method with its nets, or None."""
        from distill.engine.trial import TooLong
        from distill.sweep.timed_method import MethodSeconds, method_seconds

        device, precision, known_by = _known_by(spec)
        nets = [[net.model, dict(net.args)] for net in (spec.student, *spec.teachers)]
        node = {key: value for key, value in thawed(spec.method.node).items() if key != "about"}
        schedule = [getattr(spec.schedule, key) for key in _OF_STEPS]
        rows = round(_images(spec, info))
        code = spec.hashed["method"].get("code")  # of a plugin's: its steps are others where that is
        key = _key([*known_by, nets, node, schedule, rows, *_shape(info), *([code] if code else [])])
        if not _is_fresh(self._known.get(key)) and timed and self._left["method"] > 0:
            self._say()
            with self._spent("method"):
                try:
                    limit = {"macs": macs, "limit": self._limit}
                    found = method_seconds(spec, info, rows, device=device, precision=precision, **limit)
                    self._known[key] = {**found.to_json(), _AT: time.time()}
                except TooLong:
                    self._known[key] = {"phases": [], _AT: time.time()}
                except REFUSALS:  # it takes no step of images drawn at random, or none with these nets
                    return None
        kept = MethodSeconds.read(self._known.get(key))
        return kept if kept and kept.phases else None

    def _of_net(self, spec: RunSpec, net: Any, info: Any, budget: str) -> tuple[Any, bool]:
        """NetSeconds, or None, and whether they are scaled from those of other nets."""
        from distill.timed_step import NetSeconds, macs_of, net_seconds

        device, precision, known_by = _known_by(spec)
        key = _key([*known_by, net.model, dict(net.args), *_shape(info)])
        kept: Any = self._known.get(key)
        if not (_is_timing(kept) and _is_fresh(kept)) and self._left[budget] > 0:
            self._say()
            with self._spent(budget):
                size = spec.schedule.batch_size
                found = net_seconds(net, info, device=device, precision=precision, batch_size=size)
                kept = self._known[key] = {**vars(found), _AT: time.time()}
        if _is_timing(kept):
            self._timed_here.append(NetSeconds(**{name: kept[name] for name in _OF_NET}))
            return self._timed_here[-1], False
        if not self._timed_here:
            return None, False
        if not _is_count(self._known.get(key)):
            self._known[key] = {"macs": macs_of(net, info)}
        macs = max(self._known[key]["macs"], 1)
        nearest = min(self._timed_here, key=lambda each: abs(math.log(max(each.macs, 1) / macs)))
        return nearest.of(macs), True

    def _say(self) -> None:
        if not self._said and not self._quiet:
            print("distill: no run has told how long this takes: a few steps are timed", file=sys.stderr)
        self._said = True

    @contextmanager
    def _spent(self, what: str) -> Iterator[None]:
        begun, computed = time.monotonic(), time.process_time()
        try:
            yield
        finally:
            self._left[what] -= min(time.monotonic() - begun, time.process_time() - computed)

    def keep(self) -> None:
        """Write down what was timed; a folder that cannot be written is none of the plan's business."""
        if self._known != self._read:
            with suppress(SaveError, OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._file, self._known)


def _is_count(kept: Any) -> bool:
    """Whether this tells multiply-accumulates, of a net that was not timed yet."""
    return isinstance(kept, dict) and set(kept) == {"macs"} and isinstance(kept["macs"], int) and kept["macs"] >= 0


def _is_timing(kept: Any) -> bool:
    """Whether this is what NetSeconds holds: the file may be another version's, or changed by somebody."""
    values = [kept.get(name) for name in _OF_NET] if isinstance(kept, dict) else [None]
    return all(isinstance(value, (int, float)) and value > 0 for value in values)


def _is_fresh(kept: Any) -> bool:
    """Whether this was timed within a day; a clock that was set back has timed nothing."""
    at = kept.get(_AT) if isinstance(kept, dict) else None
    return isinstance(at, (int, float)) and 0 <= time.time() - at < FRESH


def _on_small_nets(spec: RunSpec) -> RunSpec:
    """The run with the smallest net for its student and each of its teachers."""
    plain: dict[str, Any] = {"model": _SMALL_NET, "args": frozen({}), "pretrained": False}
    student = replace(spec.student, **plain, weights=None, upstream=None)
    teachers = [replace(each, **plain, weights="none", size=None, training=None) for each in spec.teachers]
    return replace(spec, student=student, teachers=tuple(teachers))


def _key(known_by: list[Any]) -> str:
    return hashlib.sha256(json.dumps(known_by, default=str).encode()).hexdigest()[:16]


def _shape(info: Any) -> tuple[int, int, int]:
    return info.num_classes, info.in_chans, info.size


def _known_by(spec: RunSpec) -> tuple[Any, str, list[Any]]:
    """Device, precision, and what sets this machine's timings apart, the batch on a GPU among it."""
    name, device, precision, *machine = _machine(spec.machine.device, spec.machine.precision)
    return device, precision, [name, precision, *machine, 0 if name.startswith("cpu") else spec.schedule.batch_size]


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
