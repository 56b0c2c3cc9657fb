"""Agree to Disagree: adaptive ensemble distillation in gradient space (Du et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.choice import check_choice
from distill.parts.heads import conv_regressor, stage
from distill.parts.min_norm import MinNorm
from distill.parts.one_class import OneClassSVM
from distill.parts.several import SeveralTeachers, kl_rows


@full_precision
def logit_gradients(student: Tensor, teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """Batch mean of d KL_m / d z_s, [M,K], up to the common factor T/B: softmax(z_s/T) - softmax(z_m/T)."""
    p_s = (student.detach() / temperature).softmax(1)
    return torch.stack([(p_s - (logits / temperature).softmax(1)).mean(0) for logits in teachers])


SOLVERS = ("exact", "authors")


class AEKD(SeveralTeachers):
    """ce x CE + kd x sum_m w_m T^2 KL(p_m || p_s): w makes sum_m w_m g_m shortest, 0 <= w_m <= C, sum_m w_m = 1.

    g_m is the gradient of teacher m's loss at the student's logits, averaged over the batch as in the authors'
    code; `cap` is the paper's tolerance C (one-class SVM with nu = 1 / (C M)). The gradient is written down, not
    obtained by M backward passes. solver="exact" solves the paper's small quadratic programme. Theirs,
    "authors", hands scikit-learn gradients whose products are about 4e-7 at batches of 64, below its tolerance
    of 1e-6: it stops where it starts, at (C, 1 - C, 0, ...), so that the published numbers are very probably those
    of the first two teachers at 0.6 and 0.4. With `weight` the same is done for FitNet hints (one regressor a
    teacher, gradients at the student's map and normalised, where both solvers agree; from epoch 2 on).
    """

    def __init__(self, *nets: *Nets, cap: float, solver: str, weight: float, hint_stage: int, **common: Any) -> None:
        student, teachers, _ = nets
        super().__init__(*nets, **common)
        if cap <= 0:
            raise ValueError(f"method.cap is {cap}: a teacher's largest weight is above 0; the usual value is 0.6.")
        check_choice("solver", solver, SOLVERS)
        self.weight, self.hint_stage = weight, hint_stage
        exact = solver == "exact"
        self.solve = MinNorm(len(teachers), cap) if exact else OneClassSVM(len(teachers), cap)
        self.solve_hints = MinNorm(len(teachers), cap) if weight else None
        hinting = teachers if weight else ()
        self.regressors = nn.ModuleList(
            conv_regressor(stage(student.shapes, hint_stage, student.name), stage(t.shapes, hint_stage, t.name))
            for t in hinting
        )

    def learn(self, student: Outputs, teachers: Sequence[Outputs], batch: Batch) -> Losses:
        logits = [teacher.logits for teacher in teachers]
        weights = self.weights(student.logits, logits)
        kl = kl_rows(student.logits, logits, self.temperature).mean(1)
        losses = {"kd": self.kd * (weights * kl).sum()}
        if self.weight:
            losses["hint"] = self.weight * (self.epoch > 1) * self.hint(student, teachers)
        return losses

    def weights(self, student: Tensor, teachers: Sequence[Tensor]) -> Tensor:
        """Return what each teacher counts [M], of logits [B,K]; gradients are those of T^2 KL over the batch."""
        gradients = logit_gradients(student, teachers, self.temperature).double()
        gradients = gradients * (self.temperature / len(student))
        return self.solve(gradients @ gradients.T).float()

    def hint(self, student: Outputs, teachers: Sequence[Outputs]) -> Tensor:
        """Return the hints' losses, weighted by their gradients at the student's map."""
        assert self.solve_hints is not None
        at = self.hint_stage - 1
        guided = student.features[at]
        pairs = zip(self.regressors, teachers, strict=True)
        losses = [(head(guided).float() - t.features[at].float()).square().mean() for head, t in pairs]
        rows = [torch.autograd.grad(loss, guided, retain_graph=True)[0] for loss in losses]
        gradients = torch.stack([row.double().mean(0).flatten() for row in rows])
        norms = gradients.norm(dim=1).clamp_min(1e-30)
        unit = gradients / norms[:, None]
        weights = self.solve_hints(unit @ unit.T) / norms
        return (torch.stack(losses) * (weights / weights.sum()).float()).sum()
