"""On-the-fly native ensemble, ONE (Lan, Zhu, Gong, NeurIPS 2018, arXiv:1806.04606)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import FeatureNet
from distill.parts.branches import Branch
from distill.parts.peers import sigmoid_ramp


class Gate(nn.Module):
    """How much each branch counts: pooled map before the branches, linear, BatchNorm, ReLU, softmax."""

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, branches)
        self.norm = nn.BatchNorm1d(branches)

    def forward(self, feature: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,M], rows that sum to 1."""
        return F.relu(self.norm(self.linear(feature.mean((2, 3))))).softmax(1)


@full_precision
def gated(logits: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the ensemble's logits sum_m g_m z_m, of M branches' logits [B,K] and weights [B,M]."""
    return torch.einsum("mbk,bm->bk", torch.stack(list(logits)), weights)


class Branched(nn.Module):
    """A net and its further branches; gives logits [B,K] of one of them, or of the gated ensemble."""

    def __init__(self, net: FeatureNet, branches: nn.ModuleList, gate: nn.Module, which: int | None) -> None:
        super().__init__()
        self.net, self.branches, self.gate, self.which = net, branches, gate, which

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.net(inputs)
        logits = [out.logits, *(branch(out.features[-2]) for branch in self.branches)]
        return logits[self.which] if self.which is not None else gated(logits, self.gate(out.features[-2]))


class ONE(Method):
    """sum_m CE(m) + CE(ensemble) + r kd T^2 sum_m KL(ensemble || m) over M branches, the target a constant.

    The last stage and the classifier are replicated; the first branch is the student itself, which is
    deployed. r rises as exp(-5 (1 - e/80)^2). The authors add 1e-7 to the target before its logarithm; this
    does not.
    """

    def __init__(self, *nets: *Nets, branches: int, ramp_epochs: int, **common: Any) -> None:
        student, _, data = nets
        super().__init__(student, (), data, **common)
        if branches < 2:
            raise ValueError(f"method.branches is {branches}: an ensemble needs at least 2.")
        if len(student.shapes) < 2:
            raise ValueError(
                f"{student.name} has one stage, {student.shapes}, with none before it: use method=dml."
            )
        self.ramp_epochs = ramp_epochs
        self.branches = nn.ModuleList(Branch(student) for _ in range(branches - 1))
        self.gate = Gate(student.channels[-2], branches)

    def loss(self, batch: Batch) -> Losses:
        out = self.student(batch.inputs)
        logits = [out.logits, *(branch(out.features[-2]) for branch in self.branches)]
        ensemble = gated(logits, self.gate(out.features[-2]))
        kd = torch.stack([self.soft_targets(each, ensemble.detach()) for each in logits]).sum()
        return self.supervised(out.logits, batch, *logits[1:]) | {
            "ce_ensemble": self.ce * self.criterion(ensemble, batch),
            "kd": self.kd * sigmoid_ramp(self.epoch, self.ramp_epochs) * kd,
        }

    def reported(self) -> dict[str, nn.Module]:
        def net(which: int | None) -> nn.Module:
            return Branched(self.student, self.branches, self.gate, which)

        others = {f"branch_{m}": net(m) for m in range(1, len(self.branches) + 1)}
        return {**others, "ensemble": net(None)}
