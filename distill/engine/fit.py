"""The loop: phases > epochs > batches > updates; it saves, resumes, evaluates and logs, and knows no method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

import distill.parallel as parallel
from distill.batch import Batch, Source
from distill.config import ScheduleSpec
from distill.engine.average import Average
from distill.engine.checkpoint import Checkpoints
from distill.engine.cuda_graphs import GraphedStep, Measures
from distill.engine.measuring import Measuring
from distill.engine.meter import Meter, measured
from distill.engine.optim import Stepper
from distill.engine.rank_state import interruptible_alone, others_state, restore_own
from distill.engine.saving import Saving
from distill.engine.state import Callback, Options, Position, Score, Speed
from distill.engine.static_buffers import StaticBuffers
from distill.engine.update import begin_reading, joined, take_step, train_mode
from distill.method import Method, Phase
from distill.models import FeatureNet
from distill.runtime import rng_state
from distill.signals import StopSignals, deferred, stopped


class Fit:
    """One method's training. `for _ in fit.steps(): pass` runs it; each turn is one step of the loop."""

    def __init__(
        self,
        method: Method,
        source: Source,
        evaluate: Callable[[nn.Module], float] | None,
        schedule: ScheduleSpec,
        options: Options,
        checkpoints: Checkpoints,
        callback: Callback,
        stop: StopSignals,
    ) -> None:
        self.method, self.source, self.evaluate = method, source, evaluate
        self.schedule, self.options, self.callback, self.stop = schedule, options, callback, stop
        self.phases = method.phases()
        self.at, self.score, self.meter, self.speed = Position(), Score(), Meter(), Speed()
        self.steppers: list[Stepper] = []
        self.average: Average | None = None
        self._steps = 0  # of an epoch
        self.graphed: GraphedStep | None = None
        self.evaluated: int | None = None  # after which step the deployed net was
        self.score_names = ("test_accuracy", "best_accuracy")  # of what `evaluate` returns, and of the best of it
        self.measure_more: Callable[[nn.Module], dict[str, float]] | None = None  # for the row of an epoch
        self.buffers = StaticBuffers()  # where a graph finds a step's batch
        self._resumed = False
        self.saving = Saving(checkpoints, options)
        self.measuring = Measuring(self)

    def steps(self) -> Iterator[None]:
        """Train from where `restore` left it, or the start, to the end; yield after each step.

        Raises NonFinite for a loss that is not, Stopped after a signal once the state is saved.
        """
        while self.at.phase < len(self.phases):
            phase = self.phases[self.at.phase]
            if not self._resumed:
                self._begin(phase)
            self._resumed = False
            source = phase.source(self.source) if phase.source else self.source
            if parallel.world() > 1:
                source = parallel.PartSource(source)
            with deferred(), closing(self.saving):  # from the first step on there is something to save
                while self.at.epoch <= self.epochs(phase):
                    yield from self._epoch(phase, source)
            self.at.phase, self.at.epoch = self.at.phase + 1, 1

    def epochs(self, phase: Phase) -> int:
        """Return the epochs of a phase."""
        return self.schedule.epochs if phase.epochs is None else phase.epochs

    def epochs_left(self) -> int:
        """Return the epochs still to be run, in all phases, the current one included."""
        return sum(self.epochs(phase) for phase in self.phases[self.at.phase :]) - self.at.epoch + 1

    def _begin(self, phase: Phase) -> None:
        if phase.begin:
            phase.begin()
        schedule = self.schedule.merged(phase.schedule)
        make = self.options.graph
        options = {"scale": self.options.scale, "on_device": make is not None}
        self.average = self._averaged()
        self.steppers = [
            (update.stepper or Stepper)(update.trains, schedule.merged(update.optimizer), **options)
            for update in phase.updates
        ]
        if make:
            roots = {"method": self.method, "steppers": self.steppers}
            device = self.steppers[0].parameters[0].device
            why = None if self.method.steps_alike else "what a step does is drawn on the host"
            if self.schedule.ema_warmup:
                why = "the average's decay is another at each step"
            self.graphed = GraphedStep(partial(self._work, phase), roots, device, make, self.buffers, why=why)

    def _averaged(self) -> Average | None:
        """The average that follows the net that is deployed in the phase that begins, if there is to be one."""
        if not self.schedule.ema:
            return None
        return Average(self.method.deployed(), self.schedule.ema, self.schedule.ema_warmup)

    def deployed(self) -> FeatureNet:
        """Return the net that is evaluated and exported: the average of the method's own, or that itself."""
        if self.average and self.schedule.ema_export:
            return self.average.net
        return self.method.deployed()

    def also_evaluated(self) -> dict[str, FeatureNet]:
        """Return the other of the two where there is an average: what is told beside what is exported."""
        if not self.average:
            return {}
        own = self.method.deployed()
        return {"student": own} if self.schedule.ema_export else {"ema": self.average.net}

    def _epoch(self, phase: Phase, source: Source) -> Iterator[None]:
        method, at = self.method, self.at
        self._steps = source.steps
        method.epoch, method.epochs = at.epoch, self.epochs(phase)
        if at.step == 0:
            self.meter = Meter()
            with interruptible_alone():
                method.before_epoch()
        train_mode(method, phase)
        if self.graphed:
            self.graphed.begin_epoch()
        epochs, left = self.epochs(phase), self.epochs_left()
        self.callback.begin_epoch(phase.name, at.epoch, epochs, left, source.steps, at.step)
        self.speed.resume(source, self.graphed.stream if self.graphed else None)
        waiting = 0
        for batch in source.epoch(at.epoch, at.step):
            if at.step + 1 == source.steps and self.measuring.wanted(phase):
                begin_reading(self.evaluate, "begin")
            self._step(phase, batch, source.steps)
            waiting += parallel.whole_size(batch)
            if self._reads:
                self._read(phase, waiting)
                waiting = 0
            self._save_or_stop(phase)
            yield
        if not at.over:
            method.after_epoch()
            at.over = True
        if at.epoch < self.epochs(phase):
            begin_reading(source, "read_ahead", at.epoch + 1)  # while this one is measured and saved
        self._finish_epoch(phase)

    @property
    def _reads(self) -> bool:
        """Whether losses are read after the step that was taken last."""
        return self.at.step % self.options.log_every == 0 or self.at.step == self._steps

    def _step(self, phase: Phase, batch: Batch, steps: int) -> None:
        """Run every update of the phase on one batch; nothing here waits for the device."""
        at, prepare = self.at, partial(self._set_rates, phase, steps)
        self.method.step = at.step
        if self.graphed:
            names, values = self.graphed(batch, prepare)
        else:
            prepare()
            names, values = self._work(phase, batch)
        self.meter.add(at.step, len(batch), names, values)
        self.measuring.advance()
        at.step, at.total = at.step + 1, at.total + 1

    def _set_rates(self, phase: Phase, steps: int) -> None:
        done = (self.at.epoch - 1) * steps + self.at.step
        for stepper in self.steppers:
            before = stepper.lr
            rate = stepper.set_lr(done, steps, self.epochs(phase))
            if self.graphed and rate != before and not stepper.rate_on_device:
                self.graphed.begin_epoch()  # what was recorded has the rate of before in it

    def _work(self, phase: Phase, batch: Batch) -> Measures:
        """What a step computes; the same operations at every step, so that they can be recorded."""
        noted: dict[str, torch.Tensor] = {}
        self.method.counted = None
        parts = self.schedule.accumulate, self.schedule.batch_size
        for update, stepper in zip(phase.updates, self.steppers, strict=True):
            own: dict[str, torch.Tensor] = {}
            for _ in range(update.repeat):
                own |= take_step(self.method, update, stepper, batch, self.options.autocast, *parts)
            noted = joined(noted, own)
        self.method.after_step()
        if self.average:
            self.average.update(self.at.step + 1 + (self.at.epoch - 1) * self._steps)
        counted, self.method.counted = self.method.counted, None
        return measured(noted, counted)

    def join(self) -> None:
        """Let what follows wait for the steps that the device still computes."""
        if self.graphed:
            self.graphed.join()

    def _read(self, phase: Phase, images: int) -> None:
        self.measuring.settle()
        self.join()
        self.meter.flush(phase.name, self.at.epoch)
        self.speed.read(images)
        row = {"phase": phase.name, "epoch": self.at.epoch, "epoch_step": self.at.step, "step": self.at.total}
        self.callback.step(row | self.speed.to_row(lately=True) | self.meter.means())

    def _save_or_stop(self, phase: Phase) -> None:
        due, received = self._stop_requested()
        if not due and received is None:
            return
        self.join()
        self.meter.flush(phase.name, self.at.epoch)
        saved = self.save(wait=received is not None)
        if received is not None:
            parallel.barrier()  # torchrun gives the first process 30 seconds from where another has left
            raise stopped(received, "its state is saved" if saved else "its last step is not saved")

    def _stop_requested(self) -> tuple[bool, int | None]:
        """Whether to save, and the signal to stop for; several processes agree on both whenever losses are read."""
        if parallel.world() > 1 and not self._reads:
            return False, None
        due, received = parallel.agreed(self.saving.due, self.stop.received or 0)
        return bool(due), received or None

    def _finish_epoch(self, phase: Phase) -> None:
        at, epochs = self.at, self.epochs(phase)
        row: dict[str, Any] = {"phase": phase.name, "epoch": at.epoch, "epochs": epochs, "step": at.total}
        row |= {"epochs_left": self.epochs_left() - 1, "lr": self.steppers[0].lr, **self.meter.means()}
        self.measuring.epoch(phase, row)
        at.epoch, at.step, at.over = at.epoch + 1, 0, False
        left = self.stop.received is not None  # what prepares the next epoch is cut off, and this one is not to be lost
        if any(parallel.agreed(left or at.epoch > epochs or self.saving.due_after_epoch)):
            self.save(wait=False)

    def save(self, *, wait: bool = True) -> bool:
        """Save the state between two steps whose losses have been read; False where the disk refuses it.

        wait: until it is written; else it is while training goes on.
        """
        self.measuring.settle()
        others = others_state(self.meter)
        self.saving.begin()
        if parallel.rank() > 0:
            return True
        state = {
            "at": asdict(self.at),
            "score": asdict(self.score),
            "meter": self.meter.state_dict(),
            "speed": self.speed.state_dict(),
            "method": self.method.state_dict(),
            "steppers": [stepper.state_dict() for stepper in self.steppers],
            **({"average": self.average.state_dict()} if self.average else {}),
            "rng": rng_state(),
            "others": others,
            "threads": torch.get_num_threads(),
        }
        return self.saving.write(state, self.at.total, self.callback.flush, wait=wait)

    def restore(self) -> int | None:
        """Load the newest checkpoint and return its global step, or None where there is none.

        Phases up to its own are begun first, since they shape what is trained. Raises NoValidCheckpoint, of which
        OtherVersion is a case: a state that is whole and fits no run of this program.
        """
        state = self.saving.latest()
        if state is None:
            return None
        with self.saving.fitting(state):
            self.at, self.score = Position(**state["at"]), Score(**state["score"])
        for phase in self.phases[: self.at.phase + 1]:
            self._begin(phase)
        with self.saving.fitting(state):
            self.method.load_state_dict(self.method.migrated(state["method"]))
            for stepper, saved in zip(self.steppers, state["steppers"], strict=True):
                stepper.load_state_dict(saved)
            if self.average:
                self.average.load_state_dict(state["average"])
            restore_own(state, self.meter, self.at.total)
            if "speed" in state:  # of versions before, none
                self.speed.load_state_dict(state["speed"])
        self._resumed = True
        return self.at.total
