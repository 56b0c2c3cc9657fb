"""Every job of a plan, checked as its start would be: composed, resolved and tried without training, over all cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from distill.config import RunSpec, resolve
from distill.config.check import check
from distill.config.groups import config_unchanged
from distill.content.memo import memoised
from distill.run_folder import RunFolder
from distill.sweep.compose import Plan
from distill.sweep.spread import over_cores
from distill.terminal import counted

_OF_LOSSES = ("accumulate", "repeats", "last_batch", "mixup", "cutmix", "loss", "label_smoothing")  # of a schedule


@dataclass(frozen=True)
class Checked:
    """The run of a job, None where there is none, and the reason that it cannot be, or nothing.

    by_seed: whether the seed reaches more than the run's own draws and folder, as by teacher.seed=${seed}.
    """

    spec: RunSpec | None
    reason: str = ""
    by_seed: bool = False


def checked_all(plan: Plan) -> list[Checked]:
    """The run of each job. What differs in the seed alone is composed, resolved and tried once."""
    keys = [seed_and_rest(job) for job, _ in plan]
    first = {rest: number for number, (_, rest) in reversed(list(enumerate(keys)))}
    rests = list(dict.fromkeys(rest for _, rest in keys))
    seeds = {rest: [seed for seed, each in keys if each == rest] for rest in rests}

    def work(number: int) -> Checked:
        rest = rests[number]
        return _checked(plan[first[rest]][1](), seeds[rest])

    found = chain(map(work, range(min(len(rests), 1))), over_cores(lambda n: work(n + 1), len(rests) - 1))
    known = dict(zip(rests, counted(found, len(rests), "runs checked without training"), strict=True))
    return [
        _checked(job[1](), [None]) if known[rest].by_seed else _of_seed(known[rest], seed)
        for job, (seed, rest) in zip(plan, keys, strict=True)
    ]


def _checked(cfg: DictConfig, seeds: Sequence[int | None]) -> Checked:
    by_seed = reached_by_seed(cfg)
    try:
        spec = resolved(cfg)
    except ValueError as error:
        return Checked(None, str(error), by_seed)
    places = (spec if seed is None else with_seed(spec, seed) for seed in seeds)
    if all(RunFolder(place.folder).begun for place in places):
        return Checked(spec, "", by_seed)
    return Checked(spec, memoised(("refusal", spec.hash), partial(_refusal, spec)), by_seed)


def _refusal(spec: RunSpec) -> str:
    """Why a run cannot be, as a step of an own method says too; nothing where it can."""
    from distill.preflight import refusal_of_command  # imports torch: of a large plan once, by its first run

    return refusal_of_command(spec) or memoised(("losses", _of_losses(spec)), partial(_refused_losses, spec))


def _refused_losses(spec: RunSpec) -> str:
    """What is wrong with the losses of an own method, by a step; nothing where they are sound, or none can be taken."""
    from distill.own_losses import check_losses
    from distill.preflight import supposed

    try:
        if not spec.schedule.rule and (info := supposed(spec.dataset)) is not None:
            check_losses(spec, info)
    except ValueError as error:
        return str(error)
    return ""


def _of_losses(spec: RunSpec) -> str:
    """What decides which losses a step has: all but the rates, which jobs of a sweep often differ in alone."""
    nets = [(net.model, net.args) for net in (spec.student, *spec.teachers)]
    steps = [getattr(spec.schedule, key) for key in ("epochs", "init_epochs", "batch_size", "rule", *_OF_LOSSES)]
    return repr((spec.hashed["method"], nets, spec.dataset, steps))


def reached_by_seed(cfg: DictConfig) -> bool:
    """Whether the seed reaches more than the run's own draws and folder."""
    return "${seed}" in str(OmegaConf.to_container(cfg, resolve=False))


def resolved(cfg: DictConfig) -> RunSpec:
    """The run that a configuration describes. Raises ValueError where there is none."""
    with config_unchanged(cfg):
        check(cfg)
        return resolve(cfg)


def _of_seed(checked: Checked, seed: int | None) -> Checked:
    if seed is None or checked.spec is None:
        return checked
    spec = with_seed(checked.spec, seed)
    return Checked(spec, "" if RunFolder(spec.folder).begun else checked.reason)


def seed_and_rest(job: Sequence[str]) -> tuple[int | None, tuple[str, ...]]:
    """The seed of a job where it has one that is a number, and its other overrides."""
    seed = next((int(text[5:]) for text in job if text.startswith("seed=") and text[5:].isdecimal()), None)
    return seed, tuple(text for text in job if seed is None or not text.startswith("seed="))


def with_seed(spec: RunSpec, seed: int) -> RunSpec:
    """The same run from another seed, which no hash depends on."""
    below = str(Path(spec.below).with_name(f"s{seed}"))
    alone = spec.alone.with_name(f"s{seed}") if spec.alone else None
    upstream = with_seed(spec.student.upstream, seed) if spec.student.upstream else None
    student = replace(spec.student, upstream=upstream)
    folder = spec.folder.with_name(f"s{seed}")
    return replace(spec, seed=seed, below=below, folder=folder, alone=alone, student=student)


def before(spec: RunSpec) -> Iterator[tuple[str, RunSpec]]:
    """The runs that must be done before one, each with a name: its teachers, and its student's first training."""
    yield from ((_teacher_name(teacher), teacher) for teacher in _teachers(spec))
    if (upstream := spec.student.upstream) is not None:
        yield f"upstream {upstream.student.name} seed={spec.seed}", upstream


def _teachers(spec: RunSpec) -> Iterator[RunSpec]:
    """The runs that train a run's teachers, those that they learn from first."""
    for teacher in (each.training for each in spec.teachers if each.training):
        yield from _teachers(teacher)
        yield teacher


def _teacher_name(spec: RunSpec) -> str:
    taught = f" taught by {spec.teacher}" if spec.teacher else ""
    return f"teacher {spec.student.name}{taught} seed={spec.seed}"
