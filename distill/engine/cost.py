"""What a method costs beyond its student and teacher: its share of a training step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn import functional as F

import distill.parallel as parallel
from distill.batch import Batch, Source
from distill.engine.fit import Fit
from distill.engine.update import train_mode
from distill.method import Method, Phase

log = logging.getLogger(__name__)
Autocast = Callable[[], AbstractContextManager[Any]]
STEPS_A_TURN = 500  # of a run, for each further turn: they are not to be a share of its time


def step_share(fit: Fit) -> float | None:
    """Return which part of a step's forward and backward is neither the student's nor its teachers'.

    The fastest of some turns (two, and up to four as runs are longer) of the last phase's updates is set against the
    fastest student step with labels alone plus a forward of each teacher, one after the other on the same batch.
    Weights do not change, but BatchNorm statistics and what a method notes of a batch do: call it once the run is over.
    None, and a note, where it cannot be measured: a run that is done is not to be lost for it. None too where several
    processes share the steps.
    """
    if parallel.world() > 1:
        return None
    try:
        turns = min(2 + fit.at.total // STEPS_A_TURN, 4)
        return _measure(fit.method, fit.phases[-1], fit.source, fit.options.autocast, turns)
    except Exception as error:
        log.info("the method's share of a step was not measured (%s)", error)
        return None


def _measure(method: Method, phase: Phase, source: Source, autocast: Autocast, turns: int) -> float:
    source = phase.source(source) if phase.source else source
    batch = next(source.epoch(1))
    train_mode(method, phase)
    work = pieces(method, phase, batch, autocast)

    def plain() -> None:
        work["teacher"]()
        work["student"]()

    times = [(_seconds(work["whole"], method), _seconds(plain, method)) for _ in range(turns)]
    full, base = (min(column) for column in zip(*times, strict=True))
    return max(0.0, 1 - base / full)


def pieces(method: Method, phase: Phase, batch: Batch, autocast: Autocast) -> dict[str, Callable[[], None]]:
    """What computes on a batch: the teachers' forward, a student step with labels alone (without any, with its
    embedding), the whole of the losses.
    """

    def teacher() -> None:
        with autocast():
            for each in method.teachers:
                method.teach(batch, each)

    def student() -> None:
        with autocast():
            seen = method.student(batch.inputs)
            loss = seen.embedding.mean() if batch.labels is None else F.cross_entropy(seen.logits, batch.labels)
        loss.backward()

    def whole() -> None:
        for update in phase.updates:
            for _ in range(update.repeat):
                with autocast():
                    losses = update.loss(batch)
                torch.stack(list(losses.values())).sum().backward()

    return {"teacher": teacher, "student": student, "whole": whole}


def _seconds(work: Callable[[], None], method: Method) -> float:
    method.zero_grad(set_to_none=True)
    _wait(method)
    start = time.perf_counter()
    work()
    _wait(method)
    return time.perf_counter() - start


def _wait(method: Method) -> None:
    device = next(method.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
