"""What is measured of the nets after an epoch, and told: at once, or beside the steps of the next one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

import distill.parallel as parallel
from distill.engine.average import Average
from distill.engine.beside import Beside
from distill.engine.cuda_graphs import GraphedStep
from distill.engine.rank_state import interruptible_alone
from distill.engine.saving import Saving
from distill.engine.state import Callback, Options, Position, Score, Speed
from distill.errors import Stopped
from distill.method import Method, Phase
from distill.models import FeatureNet
from distill.signals import StopSignals

log = logging.getLogger(__name__)
DEPLOYED = ""  # the name of the deployed net among those that are measured


class Loop(Protocol):
    """What a loop is asked for; see fit.Fit."""

    method: Method
    evaluate: Callable[[nn.Module], float] | None
    measure_more: Callable[[nn.Module], dict[str, float]] | None
    score_names: tuple[str, str]
    evaluated: int | None
    options: Options
    phases: list[Phase]
    at: Position
    score: Score
    speed: Speed
    saving: Saving
    stop: StopSignals
    callback: Callback
    average: Average | None
    graphed: GraphedStep | None

    def epochs(self, phase: Phase) -> int: ...
    def deployed(self) -> FeatureNet: ...
    def also_evaluated(self) -> dict[str, FeatureNet]: ...
    def join(self) -> None: ...
    def save(self, *, wait: bool = True) -> bool: ...


@dataclass
class Pending:
    """An epoch that is over and whose nets are being measured. row, speed: what is told of it; epoch: its
    number among those that are evaluated; step: the run's last.
    """

    beside: Beside
    row: dict[str, Any]
    speed: dict[str, float | None]
    epoch: int
    step: int


class Measuring:
    """A loop's evaluations. Rows, best weights and what is saved are the same whether steps wait for them or not.

    An epoch that is measured beside steps is told when the next losses are read, and before anything is saved. A run's
    first one is measured at once too: where the two differ, steps wait from then on.
    """

    def __init__(self, fit: Loop) -> None:
        self.fit = fit
        self.pending: Pending | None = None
        self.told_late = 0  # epochs that were measured beside steps

    def wanted(self, phase: Phase) -> bool:
        """Whether the net is evaluated after this epoch of a phase."""
        at, every = self.fit.at, self.fit.options.evaluate_every
        last = at.epoch == self.fit.epochs(phase)
        return bool(self.fit.evaluate and phase.evaluates) and (at.epoch % every == 0 or last)

    def epoch(self, phase: Phase, row: dict[str, Any]) -> None:
        """Measure an epoch whose steps are done, and tell its row."""
        fit = self.fit
        speed = fit.speed.to_row()
        if self.wanted(phase) and (beside := self._beside(phase)):
            fit.join()
            beside.begin(self._nets())
            self.pending = Pending(beside, row, speed, self._number, fit.at.total)
        else:
            fit.callback.epoch(row | (self._at_once() if self.wanted(phase) else {}) | speed)

    def advance(self) -> None:
        """A step has been taken: let the device measure a little."""
        if self.pending:
            self.pending.beside.advance()

    def settle(self) -> None:
        """Wait for what is measured beside steps, and tell that epoch's row."""
        pending, self.pending = self.pending, None
        if not pending:
            return
        found = self._checked(pending.beside)
        accuracy, self.fit.score.beside = found.pop(DEPLOYED), found
        more = self._note(accuracy, [], pending.beside.copies[DEPLOYED], pending.epoch, pending.step)
        self.fit.callback.epoch(pending.row | more | pending.speed)
        self.told_late += 1

    @property
    def _number(self) -> int:
        """The epoch, counted over the phases that are evaluated: one of several of them would not tell which."""
        fit = self.fit
        before = [phase for phase in fit.phases[: fit.at.phase] if phase.evaluates]
        return sum(map(fit.epochs, before)) + fit.at.epoch

    def _nets(self) -> dict[str, nn.Module]:
        return {**self.fit.also_evaluated(), DEPLOYED: self.fit.deployed()}

    def _beside(self, phase: Phase) -> Beside | None:
        """What measures this epoch beside the steps of the next; None where it is to be measured at once."""
        fit = self.fit
        replayed = fit.graphed and fit.graphed.why is None  # else the host has no time
        waits = fit.at.epoch == fit.epochs(phase) or fit.saving.due_after_epoch or fit.stop.received
        if not (replayed and fit.options.overlap) or waits or fit.measure_more or fit.method.candidate_nets():
            return None
        made = fit.deployed() is not fit.deployed()  # out of others, each time that it is asked for
        return None if made else getattr(fit.evaluate, "beside", None)

    def _checked(self, beside: Beside) -> dict[str, float]:
        """The accuracies that were found beside steps; of a run's first such epoch those that are found at once."""
        found, evaluate = beside.accuracies(), self.fit.evaluate
        if self.told_late or not evaluate:
            return found
        plain = {name: evaluate(beside.copies[name]) for name in found}
        if found == plain:
            log.info("epochs are measured beside the steps of the next ones")
            return found
        log.warning("beside steps %s was measured, at once %s: from now on steps wait", found, plain)
        self.fit.options.overlap = False
        return plain

    def _at_once(self) -> dict[str, Any]:
        """Evaluate; a signal cuts that off, and the epoch is saved as one that is still to be measured."""
        try:
            return self._evaluate()
        except Stopped:
            self.fit.save()
            raise

    def _evaluate(self) -> dict[str, Any]:
        fit, evaluate = self.fit, self.fit.evaluate
        assert evaluate
        if apart := parallel.different_buffers(fit.method):
            how = "keep it in a MemoryBank, write it by parallel.gathered or summed, or say one_process"
            raise ValueError(f"the method's {apart[0]} is another in each process, and one alone would be kept: {how}")
        parallel.same_buffers(fit.method)
        if fit.average:
            parallel.same_buffers(fit.average.net)
        net = fit.deployed()
        with interruptible_alone():
            fit.score.beside = {name: evaluate(other) for name, other in fit.also_evaluated().items()}
            accuracy = evaluate(net)
            candidates = [evaluate(other) for other in fit.method.candidate_nets()]
            more = fit.measure_more(net) if fit.measure_more else {}
        return self._note(accuracy, candidates, net, self._number, fit.at.total) | more

    def _note(self, accuracy: float, candidates: list[float], net: Any, epoch: int, step: int) -> dict[str, Any]:
        """Note an epoch's accuracy, with the weights of the best; what a row tells of it."""
        fit = self.fit
        fit.evaluated = step
        if fit.score.note(accuracy, candidates, epoch):
            fit.callback.best(net)
        row = dict(zip(fit.score_names, (accuracy, fit.score.best), strict=True))
        return row | {f"{name}_accuracy": value for name, value in fit.score.beside.items()}
