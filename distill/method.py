"""The one plug-in mechanism: a method says what the losses are, and which phases and updates use them.

Shape letters: B batch, K classes, D embedding width, C channels, H W map size, N training images, T temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from distill.batch import Batch, Source, view_at
from distill.config.refusals import refuse_keys
from distill.criterion import Criterion, CrossEntropy
from distill.losses import full_precision, kd_loss

if TYPE_CHECKING:
    from distill.data import DataInfo
    from distill.models import FeatureNet, Outputs

Losses = dict[str, Tensor]
"""Scalars, already weighted; the loop sums them and logs each under its key."""

Nets = tuple["FeatureNet", Sequence["FeatureNet"], "DataInfo"]
"""What every method is made of, whatever its settings: the student, the teachers, and what is known of the data."""


TeacherForward = Callable[["FeatureNet", Batch], "Outputs"]
"""The forward of a frozen teacher for a batch; teachers.forward and teachers.cache have faster ones."""


def teacher_forward(teacher: FeatureNet, batch: Batch) -> Outputs:
    """Run a teacher on the view of the batch that is meant for it: at its own size, where there is one."""
    larger = batch.views.get(view_at(teacher.size)) if getattr(teacher, "resizes", False) else None
    return teacher(batch.views.get("teacher", batch.inputs) if larger is None else larger)


@dataclass
class Update:
    """One optimiser and what it minimises."""

    name: str
    loss: Callable[[Batch], Losses]
    trains: Sequence[nn.Module]
    optimizer: dict[str, Any] = field(default_factory=dict)  # overrides of schedule keys: lr, weight_decay, name, ...
    repeat: int = 1  # times a batch
    stepper: Callable[..., Any] | None = None  # another way to turn losses into a step than optim.Stepper


@dataclass
class Phase:
    """A stretch of epochs in which the same updates run."""

    name: str
    updates: Sequence[Update]
    epochs: int | None = None  # None: the schedule's
    schedule: dict[str, Any] = field(default_factory=dict)  # overrides of schedule keys: lr, milestones, ...
    source: Callable[[Any], Source] | None = None  # how this phase sees the data
    begin: Callable[[], None] | None = None  # called when the phase starts, and before its state is loaded on resume
    evaluates: bool = True  # whether the deployed net's accuracy means something in this phase


class Method(nn.Module):
    """Base of every method; most override `distill` alone.

    steps_alike: False where what a step does is drawn on the host, so that no CUDA graph can repeat it.
    refuses: keys of the schedule that the method cannot honour (mixup, label_smoothing), each with the reason; those
        that are a matter of the recipe (accumulate, repeats, ema) stand in about.refuses of its YAML alone, as does
        `drawn`, batches that a rule draws with replacement.
    one_process: why the method runs in one process only, or None.
    unsynced: why BatchNorms of several processes cannot share statistics (not all call the same ones), or None.
    renamed: entries of the state that older checkpoints have under another name, {old: new}.

    A method's constructor takes `*nets`, its own settings as keywords without defaults (those are in its YAML), and
    `**common`, the settings of the classes above it; it hands both on: `super().__init__(*nets, **common)`.

    Losses are `ce` x cross-entropy + `kd` x T^2 KL(teacher || student) + the method's own terms (the field's
    gamma, alpha, beta). Teachers are held outside the module tree: they are frozen, and no part of the state.
    """

    steps_alike = True
    refuses: Mapping[str, str] = {}  # of the class; a setting may change it
    one_process: ClassVar[str | None] = None
    unsynced: ClassVar[str | None] = None
    renamed: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        ce: float,
        kd: float,
        temperature: float,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"method.temperature is {temperature}: a temperature is positive; the usual value is 4.")
        self.student = student
        self._teachers = tuple(teachers)
        self.data = data
        self.ce, self.kd, self.temperature = ce, kd, temperature
        self.criterion: Criterion = CrossEntropy()  # the one home of what counts as right; peers and exits take it too
        self.counted: tuple[Tensor, Tensor] | None = None  # logits [B,K] and labels [B], until the loop has read them
        self.epoch, self.epochs, self.step = 1, 1, 0  # where the loop is
        self.teacher_forward: TeacherForward = teacher_forward

    @property
    def step(self) -> int:
        """The step of the epoch, 0-based. A step that asks for its number is another one each time: this leaves a
        trace, by which it is not replayed as a CUDA graph.
        """
        self._asked_step = self._step
        return self._step

    @step.setter
    def step(self, number: int) -> None:
        self._step = number

    @classmethod
    def refused(cls, settings: Mapping[str, Any]) -> Mapping[str, str]:
        """Return what the method refuses of a schedule under these settings of its YAML; default: `refuses`."""
        return cls.refuses

    def migrated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the method's part of an older checkpoint under the names of today."""
        return {self.renamed.get(name, name): value for name, value in state.items()}

    @property
    def teachers(self) -> tuple[FeatureNet, ...]:
        """The frozen teachers, strongest claim first."""
        return self._teachers

    @property
    def teacher(self) -> FeatureNet:
        """The only teacher, or the first."""
        if not self._teachers:
            raise ValueError(
                f"{type(self).__name__} needs a teacher: pass teacher=<name>, for example teacher=resnet56."
            )
        return self._teachers[0]

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        """Return the method's own weighted losses."""
        return {}

    def loss(self, batch: Batch) -> Losses:
        """Return all losses of a batch: cross-entropy, soft targets where asked for, and `distill`."""
        student = self.student(batch.inputs)
        losses = self.supervised(student.logits, batch)
        if not self._teachers:
            return losses
        teacher = self.teach(batch)
        if self.kd:
            losses["kd"] = self.kd * self.soft_targets(student.logits, teacher.logits)
        own = loss_dict(self.distill(student, teacher, batch))
        if twice := losses.keys() & own.keys():
            which = f"method={type(self).__name__}: '{min(twice)}'"
            raise MalformedLosses(f"{which} is the base class's loss: rename its own")
        return losses | own

    def supervised(self, logits: Tensor, batch: Batch, *more: Tensor, weight: float | None = None) -> Losses:
        """Return the weighted cross-entropy of logits [B,K], "ce"; they are also what the running accuracy counts.

        more: logits of peers, exits or further views, whose cross-entropies are added. weight: in place of `ce`; where
        that is 0 nothing is returned, and neither logits nor labels need be there.
        """
        self.count(logits, batch.labels)
        weight = self.ce if weight is None else weight
        if not weight:
            return {}
        costs = [self.criterion(each, batch) for each in (logits, *more)]
        return {"ce": weight * (torch.stack(costs).sum() if more else costs[0])}

    def labels_alone(self, batch: Batch, net: FeatureNet | None = None) -> Losses:
        """Return the cross-entropy of the student, or of another net, at weight 1: of phases without a teacher."""
        return self.supervised((net or self.student)(batch.inputs).logits, batch, weight=1.0)

    def count(self, logits: Tensor, labels: Tensor | None) -> None:
        """Have the running accuracy say how many logits [B,K] name their label [B]; a step's last call stands.

        Nothing is said of images without labels, nor by a net without a classifier, whose logits are None.
        """
        if logits is not None and labels is not None:
            self.counted = logits.detach(), labels

    def by_label(self, loss: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        """Return `loss(labels [B])`; of mixed images the mean of that of either label, weighted by their shares.

        For losses that are defined for one label an image. A cross-entropy gives what it gives with mixed targets
        (Zhang et al., ICLR 2018, arXiv:1710.09412, section 2: it is linear in the label).
        """
        mixed = batch.targets
        if mixed is None:
            return loss(batch.classes)
        return mixed.share * loss(batch.classes) + (1 - mixed.share) * loss(mixed.others)

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the unweighted soft-target loss of logits [B,K] that `kd` weighs."""
        return kd_loss(student, teacher, self.temperature)

    def teach(self, batch: Batch, teacher: FeatureNet | None = None) -> Outputs:
        """Run a teacher (default: the only one) on the view meant for it, without gradients."""
        with torch.no_grad():
            return self.teacher_forward(teacher or self.teacher, batch)

    def phases(self) -> list[Phase]:
        """Return what is trained, in which order; default one phase that trains everything trainable."""
        return [Phase("distill", [Update("student", self.loss, [self])])]

    def before_epoch(self) -> None:
        """Prepare an epoch; `self.epoch` of `self.epochs` is already set."""

    def after_step(self) -> None:
        """Refresh averages and banks, after the optimisers have stepped."""

    def after_epoch(self) -> None:
        """Refresh what is kept from epoch to epoch."""

    def deployed(self) -> FeatureNet:
        """Return the net that is evaluated and exported."""
        return self.student

    def reported(self) -> dict[str, nn.Module]:
        """Return further nets whose accuracy is told (peers, exits, ensembles); they give logits or Outputs.

        One with `measure(logits, labels)` tells what that returns, in place of its accuracy.
        """
        return {}

    def candidate_nets(self) -> Sequence[nn.Module]:
        """Return nets beside the deployed one among which the paper's numbers are the best, each epoch anew.

        They are evaluated as often as it is; the best of them all is told as "best_net".
        """
        return ()

    def ramp(self, epochs: int) -> float:
        """Return min(epoch / epochs, 1) with 1-based epochs: a linear warm-up that starts at 1/epochs."""
        return min(self.epoch / epochs, 1.0) if epochs > 0 else 1.0


class MalformedLosses(ValueError):
    """What a method returns is no dictionary of named scalars: said of any batch, one of images drawn at random too."""


def loss_dict(losses: Any) -> Losses:
    """The losses that a method returns. Raises MalformedLosses for what is no dictionary, such as a tensor alone."""
    if not isinstance(losses, dict):
        kind = type(losses).__name__
        raise MalformedLosses(f"the method's losses are a {kind}: return a dictionary, {{'own': self.weight * loss}}")
    return losses


def refuse(
    method: Method | type[Method],
    name: str,
    schedule: Mapping[str, Any],
    processes: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Raise ValueError where the schedule asks for something that the method cannot honour, or more than one process
    works on a run that takes one. settings: of a method that is not built yet.
    """
    if method.one_process and processes > 1:
        raise ValueError(f"method={name} cannot be shared by {processes} processes: {method.one_process}; start one.")
    stated = ((settings or {}).get("about") or {}).get("refuses") or {}
    refuses = method.refuses if isinstance(method, Method) else method.refused(settings or {})
    refuse_keys(name, {**stated, **refuses}, schedule)


__all__ = ["Batch", "Losses", "Method", "Nets", "Phase", "Source", "Update", "full_precision", "loss_dict", "refuse"]
