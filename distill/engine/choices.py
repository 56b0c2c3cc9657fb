"""What a run leaves to the machine, decided once: precision, CPU threads, and which nets are compiled.

A long run decides by a timed trial of a few steps of its own (engine.trial), whose outcome serves the runs after it; a
short one, which would not earn a trial's seconds back, by rule. What changes numbers, the precision, is decided by a
step of the student alone, so that the methods of a table share it. A run that goes on keeps what it began with.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch

import distill.engine.trial as trial
import distill.parallel as parallel
import distill.runtime as runtime
from distill.config.run_spec import MachineSpec
from distill.engine.compiling import why_compile
from distill.files import first_line
from distill.models import FeatureNet

log = logging.getLogger(__name__)
TRIAL_FROM = 2000  # steps of a run from which a trial may pay
SECONDS_FROM = 120.0  # that its steps take: a trial takes some twenty of them
COMPILE_SECONDS = 1800.0  # from which compiling is tried too, which takes about a minute, once
CPU = torch.device("cpu")
OWN_TIME = time.process_time  # what else runs on the machine disturbs it less than the time of day


class Timed(Protocol):
    """A step of which a trial takes a few. words: what it is of, for those who read the reasons. known_by: what sets it
    apart from others. count: how many of them the run takes.
    """

    words: str

    @property
    def known_by(self) -> dict[str, Any]: ...
    @property
    def count(self) -> float: ...
    def step(self, precision: str) -> trial.Pieces: ...


class Trial(Timed, Protocol):
    """A run's step; see rehearsal.MachineTrial. alone: that of its student without a method. teacher: the first one's
    name. length: what sets longer runs apart from shorter ones. batch: images of a step. What is not told by the
    command makes the method first.
    """

    teacher: str | None

    @property
    def alone(self) -> Timed: ...
    @property
    def length(self) -> list[int]: ...
    @property
    def batch(self) -> int: ...
    @property
    def teachers(self) -> list[FeatureNet]: ...
    def compile(self) -> None: ...


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
    asked: MachineSpec, device: torch.device, steps: int, begun: Mapping[str, Any], own: Trial,
    beside: Sequence[Trial] = (),
) -> Choices:
    """Decide what is `auto` of a run of so many steps.

    begun: what an earlier session of the run was decided for. own: its step, which is made where it is asked for.
    beside: steps of the runs that share what is decided: where they are not alike, one of them decides nothing.
    """
    plain = without_trial(asked, device)
    plain = replace(plain, precision=_of_all(plain.precision))
    if begun:
        return _recorded_choices(plain, asked, begun)
    auto = [key for key in ("precision", "threads", "compile") if getattr(asked, key) == "auto"]
    if device.type != "cpu" or parallel.world() > 1 or max(steps, own.alone.count) < TRIAL_FROM or not auto:
        return plain
    found = _or(plain, lambda: _by_precision(plain, asked, own.alone))
    if all(each.known_by == beside[0].known_by for each in beside):
        found = _or(found, lambda: _by_time(found, asked, steps, own))
    log.info("settings of this machine: %s", found.why)
    return found


def _or(known: Choices, make: Callable[[], Choices]) -> Choices:
    """What a trial decides, or what is known where none can be made; threads and random numbers stay as they were."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(known.threads or before)
        with torch.random.fork_rng(devices=[]):
            return make()
    except Exception as error:  # what a method cannot do it says once it is built for the run
        log.info("no trial of this machine was made: %s", first_line(error))
        return known
    finally:
        torch.set_num_threads(before)


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


def _by_time(plain: Choices, asked: MachineSpec, steps: int, own: Trial) -> Choices:
    """Choices of threads and compiling by the run's own step."""
    step, count = _step_of(plain, own) if steps >= TRIAL_FROM else (0.0, 0.0)
    if step * count < SECONDS_FROM:
        return plain
    chosen = _by_threads(plain, asked, own)
    if asked.compile != "auto" or not why_compile("auto", steps, CPU)[0] or step * count < COMPILE_SECONDS:
        return chosen
    return _compiling(chosen, own)


def _cached(own: Timed, what: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a trial of a run's step found on a machine like this one."""
    return trial.cached({"what": f"{what} {torch.get_num_threads()} threads", **own.known_by}, make)


def _step_of(plain: Choices, own: Trial) -> tuple[float, float]:
    """Seconds of a step, and how many the run takes; nothing where one takes too long to be tried again and again."""

    def make() -> dict[str, float]:
        try:
            return {"step": trial.fastest_steps({"": own.step(plain.precision)}, 2)[""], "count": own.count}
        except trial.TooLong as error:
            log.info("no trial of this machine is made: a step takes %s", error)
            return {"step": 0.0, "count": 0.0}

    found = _cached(own, f"step {plain.precision} {own.length}", make)
    return found["step"], found["count"]


def _by_precision(plain: Choices, asked: MachineSpec, alone: Timed) -> Choices:
    """Choices with the precision that the student alone is fastest in, where its training would be long."""
    if asked.precision != "auto" or alone.count < TRIAL_FROM:
        return plain
    names = ["fp32", "bf16"]

    def once() -> dict[str, float]:
        return {"step": trial.fastest_steps({"": alone.step(plain.precision)}, 2)[""]}

    def make() -> dict[str, float]:
        return trial.fastest_steps({name: alone.step(name) for name in names}, clock=OWN_TIME)

    if _cached(alone, f"step {plain.precision}", once)["step"] * alone.count < SECONDS_FROM:
        return plain
    found = _cached(alone, f"precision {' '.join(names)}", make)
    return replace(plain, precision=_best(found, names[0]), why=f"a step of {alone.words}: {_timings(found)}")


def _by_threads(chosen: Choices, asked: MachineSpec, own: Trial) -> Choices:
    """Choices with the number of threads that is fastest, where nothing else keeps the machine busy."""
    most = torch.get_num_threads()
    if asked.threads != "auto" or "OMP_NUM_THREADS" in os.environ or most == 1 or trial.busy():
        return chosen
    counts = [most, *(count for count in (most // 2, most // 4) if count)]

    def make() -> dict[str, float]:
        step = own.step(chosen.precision)
        return trial.fastest_steps({str(count): trial.with_threads(count, step) for count in counts})

    found = _cached(own, f"threads {chosen.precision}", make)
    best = _best(found, str(most))
    why = f"{chosen.why}; {own.words} by threads: {_timings(found)}"
    return replace(chosen, threads=None if best == str(most) else int(best), why=why)


def _compiling(chosen: Choices, own: Trial) -> Choices:
    """Whether a step gains by compiling what it trains, and a frozen net its forward; another batch than the trial's
    tells the same.
    """
    torch.set_num_threads(chosen.threads or torch.get_num_threads())

    def frozen() -> dict[str, float]:
        given = own.teachers[0], own.batch, chosen.precision
        eager, compiled = (trial.frozen_forward(*given, compiled=how) for how in (False, True))
        return trial.fastest({"eager": eager, "compiled": compiled}, clock=OWN_TIME)

    def trained() -> dict[str, float]:
        step = own.step(chosen.precision)
        seconds = trial.fastest_steps({"eager": step}, clock=OWN_TIME)
        own.compile()
        return {**seconds, **trial.fastest_steps({"compiled": step}, clock=OWN_TIME)}

    whole = _cached(own, f"compile {chosen.precision}", trained)
    reasons = f"{chosen.why}; {own.words} compiled: {_timings(whole)}"
    gains = _best(whole, "eager") == "compiled"
    if own.teacher is None:
        return replace(chosen, trained=gains, why=reasons)
    of_teacher = _cached(own, f"compile frozen {chosen.precision}", frozen)
    reasons += f"; {own.teacher} {_timings(of_teacher)}"
    return replace(chosen, trained=gains, frozen=_best(of_teacher, "eager") == "compiled", why=reasons)


def _best(seconds: Mapping[str, float], plain: str) -> str:
    """The fastest, where it is faster than what is plain by more than noise."""
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] * trial.GAIN < seconds[plain] else plain


def _timings(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items())
