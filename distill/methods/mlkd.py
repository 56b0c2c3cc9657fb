"""Multi-level logit distillation (Jin, Wang, Lin, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.data import DataInfo
from distill.data.strong import StrongSource
from distill.losses import full_precision, kd_loss
from distill.method import Batch, Losses, Method, Phase, Update
from distill.methods.kd import standardize as z_score
from distill.models import FeatureNet


def less_sure(confidence: Tensor) -> Tensor:
    """Return 1 where a confidence [N] is at most the median of its batch, else 0."""
    return (confidence <= confidence.quantile(0.5)).to(confidence.dtype)


@full_precision
def instance_loss(student: Tensor, teacher: Tensor, temperature: float, kept: Tensor) -> Tensor:
    """T^2 (1/B) sum_i kept_i KL(p_t,i || p_s,i) of logits [B,K] (instance level); kept [B]."""
    log_s, log_t = (F.log_softmax(z / temperature, dim=1) for z in (student, teacher))
    kl = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * (kept * kl).mean()


@full_precision
def batch_loss(student: Tensor, teacher: Tensor, temperature: float, kept: Tensor) -> Tensor:
    """(1/B) ||P_t P_t' - P_s P_s'||^2 of predictions P [B,K] (batch level); columns of samples `kept` [B]
    count.
    """
    p_s, p_t = (F.softmax(z / temperature, dim=1) for z in (student, teacher))
    return ((p_t @ p_t.T - p_s @ p_s.T).square() * kept).sum() / len(kept)


@full_precision
def class_loss(student: Tensor, teacher: Tensor, temperature: float, kept: Tensor) -> Tensor:
    """(1/K) ||P_t' P_t - P_s' P_s||^2 of predictions P [B,K] (class level); columns of classes `kept` [K]
    count.
    """
    p_s, p_t = (F.softmax(z / temperature, dim=1) for z in (student, teacher))
    return ((p_t.T @ p_t - p_s.T @ p_s).square() * kept).sum() / len(kept)


class MLKD(Method):
    """Predictions at several temperatures agree per sample, between samples and between classes.

    ce x CE on both views + kd x instance level on both views + weight x (batch + class level) on the weak
    view, each summed over `temperatures`. The strong view is a crop and flip of its own with RandAugment and
    Cutout (StrongSource). With `mask` the weak view counts samples (classes) of which the teacher is no surer than the
    median; false gives the paper's plain sums. `standardize` z-scores the logits of the instance level
    (arXiv:2403.01427).

    Two bugs of the authors' code are not copied: there the masks multiply losses that are scalars already, so
    that they do nothing but scale by their mean (about 1/2), and the strong view's terms for two of the five
    temperatures read the weak view's logits. Nor are its strong batch- and class-level terms, which it
    computes and drops. The batch and class levels relate the samples of one batch: over several devices, of
    each device's own part.
    """

    refuses = {"mixup": "its strong view shows one image, not the mixed one"}

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        ce: float = 0.1,
        kd: float = 0.9,
        weight: float = 0.9,
        temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
        mask: bool = True,
        standardize: bool = False,
    ) -> None:
        super().__init__(student, teachers, data, ce=ce, kd=kd)
        if not temperatures or min(temperatures) <= 0:
            raise ValueError(f"method.temperatures is {list(temperatures)}: name one or more, all above 0.")
        self.weight, self.temperatures = weight, tuple(temperatures)
        self.mask, self.standardize = mask, standardize

    def phases(self) -> list[Phase]:
        return [Phase("distill", [Update("student", self.loss, [self])], source=StrongSource)]

    def loss(self, batch: Batch) -> Losses:
        weak, strong = self.student(batch.images).logits, self.student(batch.views["strong"]).logits
        batch.logits = weak.detach()
        with torch.no_grad():
            teacher_weak = self.teach(batch).logits
            teacher_strong = self.teacher(batch.views["strong"]).logits
        losses: Losses = {}
        if self.ce:
            losses["ce"] = self.ce * (self.criterion(weak, batch) + self.criterion(strong, batch))
        if self.kd:
            strong_view = self._strong(strong, teacher_strong)
            losses["kd"] = self.kd * (self._weak(weak, teacher_weak) + strong_view)
        if self.weight:
            losses |= self._correlations(weak, teacher_weak)
        return losses

    def _weak(self, student: Tensor, teacher: Tensor) -> Tensor:
        kept = self._kept_samples(teacher)
        student, teacher = self._scaled(student, teacher)
        return total([instance_loss(student, teacher, t, kept) for t in self.temperatures])

    def _strong(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = self._scaled(student, teacher)
        return total([kd_loss(student, teacher, t) for t in self.temperatures])

    def _correlations(self, student: Tensor, teacher: Tensor) -> Losses:
        samples, classes = self._kept_samples(teacher), self._kept_classes(teacher)
        between_samples = total([batch_loss(student, teacher, t, samples) for t in self.temperatures])
        between_classes = total([class_loss(student, teacher, t, classes) for t in self.temperatures])
        return {"batch": self.weight * between_samples, "class": self.weight * between_classes}

    def _scaled(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return (z_score(student), z_score(teacher)) if self.standardize else (student, teacher)

    def _kept_samples(self, teacher: Tensor) -> Tensor:
        confidence = teacher.softmax(dim=1).amax(dim=1)
        return less_sure(confidence) if self.mask else torch.ones_like(confidence)

    def _kept_classes(self, teacher: Tensor) -> Tensor:
        confidence = teacher.softmax(dim=1).sum(dim=0)
        return less_sure(confidence) if self.mask else torch.ones_like(confidence)


def total(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of scalars."""
    return torch.stack(list(terms)).sum()
