"""What a run leaves to the machine, decided once: precision, CPU threads, and which nets are compiled.

A long run decides by a timed trial of a few steps (engine.trial), whose outcome serves the runs after it; a short one,
which would not earn a trial's seconds back, by rule. A run that goes on keeps what it began with.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

import distill.engine.trial as trial
import distill.parallel as parallel
import distill.runtime as runtime
from distill.config.run_spec import MachineSpec
from distill.engine.compiling import compile_forward, why_compile
from distill.files import first_line
from distill.models import FeatureNet

log = logging.getLogger(__name__)
TRIAL_FROM = 2000  # steps of a run from which a trial may pay
SECONDS_FROM = 120.0  # that its steps take: a trial takes some twenty of them
COMPILE_SECONDS = 1800.0  # from which compiling is tried too, which takes about a minute, once
CPU = torch.device("cpu")
OWN_TIME = time.process_time  # what else runs on the machine disturbs it less than the time of day


@dataclass(frozen=True)
class Choices:
    """What was decided. threads: None for torch's choice; trained, frozen: whether such nets are compiled."""

    precision: str
    threads: int | None
    trained: bool
    frozen: bool
    why: str

    def to_record(self) -> dict[str, Any]:
        """What a run's folder keeps of it."""
        return asdict(self)


def without_trial(asked: MachineSpec, device: torch.device) -> Choices:
    """Without a trial of its nets: bf16 where the device is faster in it; on CPUs frozen nets alone are compiled."""
    threads = asked.threads if isinstance(asked.threads, int) else None
    return Choices(trial.pick_precision(asked.precision, device), threads, device.type != "cpu", True, "by rule")


def decide(
    asked: MachineSpec,
    device: torch.device,
    steps: int,
    begun: Mapping[str, Any],
    make: Callable[[], tuple[FeatureNet, list[FeatureNet]]],
    batch: int,
) -> Choices:
    """Decide what is `auto` of a run of so many steps.

    begun: what an earlier session of the run was decided for. make: makes the student and its teachers, of any weights.
    """
    plain = without_trial(asked, device)
    plain = replace(plain, precision=_of_all(plain.precision))
    if begun:
        return _recorded_choices(plain, asked, begun)
    auto = [key for key in ("precision", "threads", "compile") if getattr(asked, key) == "auto"]
    if device.type != "cpu" or parallel.world() > 1 or steps < TRIAL_FROM or not auto:
        return plain
    before = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            found = _tried(plain, asked, steps, make, batch)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        log.info("no trial of this machine was made: %s", first_line(error))
        return plain
    finally:
        torch.set_num_threads(before)
    log.info("settings of this machine: %s", found.why)
    return found


def _of_all(precision: str) -> str:
    """The precision of all processes of a run, of which each has asked its own machine: fp32 where one is for that."""
    names = list(runtime.DTYPES)
    return names[-parallel.agreed(-names.index(precision))[0]]


def _recorded_choices(plain: Choices, asked: MachineSpec, begun: Mapping[str, Any]) -> Choices:
    """What the run began with, where it is still left to the machine and the record is whole."""
    kinds = {"precision": str, "threads": int | None, "trained": bool, "frozen": bool}
    if any(not isinstance(begun.get(key), kind) for key, kind in kinds.items()) or (
        begun["precision"] not in runtime.DTYPES
    ):
        return plain
    keys = [key for key in ("precision", "threads") if getattr(asked, key) == "auto"]
    keys += ["trained", "frozen"] if asked.compile == "auto" else []
    return replace(plain, why=str(begun.get("why")), **{key: begun[key] for key in keys})


def _tried(
    plain: Choices,
    asked: MachineSpec,
    steps: int,
    make: Callable[[], tuple[FeatureNet, list[FeatureNet]]],
    batch: int,
) -> Choices:
    student, teachers = make()
    if trial.fastest({"": trial.training_step(student, batch, plain.precision)}, 2)[""] * steps < SECONDS_FROM:
        return plain
    chosen, seconds = _by_precision(plain, asked, student, batch)
    chosen = _by_threads(chosen, asked, student, batch)
    if asked.compile != "auto" or not why_compile("auto", steps, CPU)[0] or seconds * steps < COMPILE_SECONDS:
        return chosen
    return _compiling(chosen, student, teachers, batch)


def _by_precision(plain: Choices, asked: MachineSpec, student: FeatureNet, batch: int) -> tuple[Choices, float]:
    """Choices with the precision that is fastest, and the seconds of a step."""
    torch.set_num_threads(plain.threads or torch.get_num_threads())
    names = ["fp32", "bf16"] if asked.precision == "auto" else [plain.precision]

    def make() -> dict[str, float]:
        return trial.fastest({name: trial.training_step(student, batch, name) for name in names}, clock=OWN_TIME)

    found = trial.cached_trial(f"precision {' '.join(names)} {torch.get_num_threads()} threads", student, batch, make)
    precision = _best(found, names[0])
    why = f"a step of {student.name}: {_timings(found)}"
    return replace(plain, precision=precision, why=why), found[precision] / torch.get_num_threads()


def _by_threads(chosen: Choices, asked: MachineSpec, student: FeatureNet, batch: int) -> Choices:
    """Choices with the number of threads that is fastest, where nothing else keeps the machine busy."""
    most = torch.get_num_threads()
    if asked.threads != "auto" or "OMP_NUM_THREADS" in os.environ or most == 1 or trial.busy():
        return chosen
    step = trial.training_step(student, batch, chosen.precision)
    counts = [most, *(count for count in (most // 2, most // 4) if count)]

    def make() -> dict[str, float]:
        return trial.fastest({str(count): trial.with_threads(count, step) for count in counts})

    found = trial.cached_trial(f"threads {most} {chosen.precision}", student, batch, make)
    best = _best(found, str(most))
    why = f"{chosen.why}; by threads: {_timings(found)}"
    return replace(chosen, threads=None if best == str(most) else int(best), why=why)


def _compiling(chosen: Choices, student: FeatureNet, teachers: list[FeatureNet], batch: int) -> Choices:
    """Whether a training net and a frozen one are faster compiled; another batch than the trial's tells the same."""
    torch.set_num_threads(chosen.threads or torch.get_num_threads())
    what = f"compile {chosen.precision} {torch.get_num_threads()}"

    def trained() -> dict[str, Any]:
        eager = trial.training_step(student, batch, chosen.precision)
        seconds = trial.fastest({"eager": eager}, clock=OWN_TIME)
        compile_forward(student, batch)
        compiled = trial.training_step(student, batch, chosen.precision)
        return {**seconds, **trial.fastest({"compiled": compiled}, clock=OWN_TIME)}

    def frozen(net: FeatureNet) -> dict[str, Any]:
        eager, compiled = (trial.frozen_forward(net, batch, chosen.precision, compiled=how) for how in (False, True))
        return trial.fastest({"eager": eager, "compiled": compiled}, clock=OWN_TIME)

    of_student = trial.cached_trial(f"{what} trained", student, batch, trained)
    reasons, gains = f"{chosen.why}; compiled: {_timings(of_student)}", _best(of_student, "eager") == "compiled"
    if not teachers:
        return replace(chosen, trained=gains, why=reasons)
    of_teacher = trial.cached_trial(f"{what} frozen", teachers[0], batch, lambda: frozen(teachers[0]))
    reasons += f"; {teachers[0].name} {_timings(of_teacher)}"
    return replace(chosen, trained=gains, frozen=_best(of_teacher, "eager") == "compiled", why=reasons)


def _best(seconds: Mapping[str, float], plain: str) -> str:
    """The fastest, where it is faster than what is plain by more than noise."""
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] * trial.GAIN < seconds[plain] else plain


def _timings(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items())
