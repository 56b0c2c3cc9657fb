"""Deep mutual learning (Zhang, Xiang, Hospedales, Lu, CVPR 2018, arXiv:1706.00384)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import kl_div
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models.reading import frozen_statistics
from distill.parts.peers import make_peers, report_cohort


class DML(Method):
    """A cohort learns together: CE(k) + 1/(P-1) sum_{j != k} KL(p_j || p_k) for each peer k (eq. 7-8), T = 1.

    The paper alternates: each peer in turn is updated against the others as they are now. `alternate=False`
    takes all predictions from one forward pass, as most re-implementations do. The first peer is the student
    that is evaluated; every peer starts from its own random weights and has its own optimiser. All peers and
    their ensemble are reported.
    """

    def __init__(
        self, *nets: *Nets, peers: int, models: Sequence[str], rates: Sequence[float] | None, alternate: bool,
        **common: Any
    ) -> None:
        student, _, data = nets
        super().__init__(student, (), data, **common)
        self.others = make_peers(student, peers, models, rates)
        self.alternate = alternate

    @property
    def cohort(self) -> list[nn.Module]:
        """All peers, the student first."""
        return [self.student, *self.others]

    def peer_loss(self, k: int, logits: Sequence[Tensor], batch: Batch) -> Losses:
        """Return cross-entropy and mimicry of peer k, given everyone's logits [B,K]."""
        logits_k = logits[k]
        mimic = [kl_div(logits_k, other.detach(), self.temperature) for j, other in enumerate(logits) if j != k]
        kl = sum(mimic, logits_k.new_zeros(())) / len(mimic) * self.temperature**2
        name = "" if k == 0 else f"_{k}"
        return {f"ce{name}": self.ce * self.criterion(logits_k, batch), f"kd{name}": self.kd * kl}

    def peer_logits(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """Return a peer's current logits [B,K], without gradients and without moving its statistics."""
        with torch.no_grad(), frozen_statistics(net):
            return net(inputs).logits

    def update_loss(self, k: int, batch: Batch) -> Losses:
        """Loss of one turn of the alternating algorithm: peer k against the others as they are now."""
        net = self.cohort[k]
        x = batch.inputs
        logits = [net(x).logits if j == k else self.peer_logits(peer, x) for j, peer in enumerate(self.cohort)]
        if k == 0:
            self.count(logits[0], batch.labels)
        return self.peer_loss(k, logits, batch)

    def loss(self, batch: Batch) -> Losses:
        """Loss of all peers from one forward pass each."""
        logits = [net(batch.inputs).logits for net in self.cohort]
        self.count(logits[0], batch.labels)
        losses: Losses = {}
        for k in range(len(logits)):
            losses |= self.peer_loss(k, logits, batch)
        return losses

    def phases(self) -> list[Phase]:
        if not self.alternate:
            return [Phase("mutual", [Update("cohort", self.loss, [self])])]

        def turn(k: int) -> Update:
            return Update(f"peer_{k}", lambda batch: self.update_loss(k, batch), [self.cohort[k]])

        return [Phase("mutual", [turn(k) for k in range(len(self.cohort))])]

    def reported(self) -> dict[str, nn.Module]:
        return report_cohort(self.cohort)
