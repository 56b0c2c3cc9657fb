"""One trial: a run on the held-out part of the training images, stopped when the others were better by then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna

from distill.config import RunSpec
from distill.errors import NonFinite
from distill.files import persist
from distill.locking import run_lock
from distill.models import FeatureNet
from distill.record.reporter import Reporter
from distill.result import Result
from distill.run import Experiment
from distill.run_folder import RunFolder, score_in
from distill.signals import StopSignals

HOLDOUT = 0.1


def with_holdout(spec: RunSpec) -> list[str]:
    """The override that keeps a search off the test set, where the command has none of its own."""
    return [] if spec.dataset.holdout > 0 else [f"dataset.holdout={HOLDOUT}"]


def run_trial(trial: optuna.Trial, spec: RunSpec) -> float | None:
    """Run `spec` to its end, or from where it was cut off, and return its last held-out accuracy in percent, of a net
    without a classifier that of its features' neighbours.

    None for a trial that was stopped early. Raises what run() raises, ValueError for a run that measures neither.
    """
    assert spec.dataset.holdout > 0, "a search never looks at the test set"
    folder = spec.folder
    trial.set_user_attr("folder", str(folder))
    with StopSignals(at_once=True) as stop, run_lock(folder):
        pruning, run = PruningCallback(trial), RunFolder(folder)
        pruning.report_earlier(folder)
        result = run.result
        if result is None and not (run.given_up and trial.should_prune()):  # else its values are drawn once more
            try:
                result = _train(pruning, spec, stop)
            except NonFinite:
                persist(run.give_up)
                raise
        if result is None:
            persist(run.give_up)
    if result is not None and result.score.last is None:
        raise ValueError("the run has no accuracy, which trials are compared by: leave evaluate.knn null, or true")
    return None if result is None else result.score.last


def _train(pruning: PruningCallback, spec: RunSpec, stop: StopSignals) -> Result | None:
    experiment = Experiment(spec, stop, quiet=True)
    assert experiment.inputs.data.info.evaluated_on == "holdout" and isinstance(experiment.callback, Reporter)
    pruning.callback, experiment.fit.callback = experiment.callback, pruning
    with experiment.logged():
        for _ in experiment.fit.steps():
            if pruning.pruned:
                return None
        return experiment.finish()


class PruningCallback:
    """A callback that hands each epoch's accuracy to the pruner; `pruned` once that has given the trial up."""

    callback: Reporter

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.pruned = False
        self._seen: set[tuple[str, int]] = set()

    def report_earlier(self, folder: Path) -> None:
        """Report the epochs that the run had before, all of them where it is done."""
        for row in RunFolder(folder).rows("epoch"):
            self._report(row)

    def epoch(self, row: dict[str, Any]) -> None:
        self.callback.epoch(row)
        if self._report(row):
            self.pruned = self.trial.should_prune()

    def _report(self, row: dict[str, Any]) -> bool:
        """Report an epoch once: one that was logged right before a kill is run, and logged, again."""
        where = (row["phase"], row["epoch"])
        if (score := score_in(row)) is None or where in self._seen:  # None: phases in which it means nothing
            return False
        self._seen.add(where)
        self.trial.report(score, len(self._seen))
        return True

    def begin_epoch(self, phase: str, epoch: int, epochs: int, epochs_left: int, steps: int, done: int) -> None:
        self.callback.begin_epoch(phase, epoch, epochs, epochs_left, steps, done)

    def step(self, row: dict[str, Any]) -> None:
        self.callback.step(row)

    def best(self, net: FeatureNet) -> None:
        self.callback.best(net)

    def flush(self) -> None:
        self.callback.flush()
