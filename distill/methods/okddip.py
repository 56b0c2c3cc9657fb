"""Online knowledge distillation with diverse peers, OKDDip (Chen et al., AAAI 2020, arXiv:1912.00350)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.parts.branches import Branch, BranchedOutput
from distill.parts.peers import Ensemble, feature_nets, make_peers, sigmoid_ramp


@full_precision
def attended(logits: Sequence[Tensor], queries: Sequence[Tensor], keys: Sequence[Tensor]) -> list[Tensor]:
    """Return each peer's target t_a = sum_b alpha_ab z_b, of P peers' logits [B,K].

    alpha_ab = softmax over b, a itself included, of q_a . k_b, with queries and keys [B,E] for each peer.
    """
    q, k = torch.stack(list(queries), 1), torch.stack(list(keys), 1)
    attention = torch.einsum("bae,bce->bac", q, k).softmax(2)
    return list(torch.einsum("bac,bck->bak", attention, torch.stack(list(logits), 1)).unbind(1))


class OKDDip(Method):
    """Auxiliary peers teach each other through attention, and their mean teaches a leader, which is deployed.

    sum CE + r kd T^2 (sum_a KL(t_a || p_a) + KL(mean of peers || leader)). form="branches", the authors' main
    one: all share the stages before the last, of which the leader, the student, and `branches` - 1 peers have
    one each with a classifier. form="networks": each peer is a whole net. As in the authors' code the mixtures
    are of logits, and nothing is a constant: a target is moved towards those who learn from it, the mixed
    logits too. r is that of ONE. They add 1e-7 to the target before its logarithm; this does not.
    """

    def __init__(
        self, *nets: *Nets, form: str, branches: int, models: Sequence[str], rates: Sequence[float] | None, factor: int,
        ramp_epochs: int, **common: Any
    ) -> None:
        student, _, data = nets
        super().__init__(student, (), data, **common)
        if branches < 3:
            raise ValueError(f"method.branches is {branches}: okddip needs a leader and 2 peers, so 3.")
        self.form, self.ramp_epochs = form, ramp_epochs
        self.peers = self._peers(branches, models, rates)
        width = student.embedding_dim
        self.query = nn.Linear(width, max(width // factor, 1), bias=False)
        self.key = nn.Linear(width, max(width // factor, 1), bias=False)

    def _peers(self, branches: int, models: Sequence[str], rates: Sequence[float] | None) -> nn.ModuleList:
        if self.form == "branches":
            if models:
                raise ValueError("method.models names whole nets: set method.form=networks, or leave them out.")
            if len(self.student.shapes) < 2:
                raise ValueError(f"{self.student.name} has one stage, with none before it: set method.form=networks.")
            return nn.ModuleList(Branch(self.student) for _ in range(branches - 1))
        if self.form != "networks":
            raise ValueError(f"method.form is {self.form!r}: give branches or networks.")
        peers = make_peers(self.student, branches, models, rates)
        widths = sorted({peer.embedding_dim for peer in feature_nets([self.student, *peers])})
        if len(widths) > 1:
            raise ValueError(
                f"method.models have embeddings of widths {widths}, which one attention cannot compare: name "
                "nets of the student's width, or use method=dml."
            )
        return peers

    def forward_all(self, batch: Batch) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The leader's logits [B,K], and of each peer logits [B,K] and embedding [B,D]."""
        leader, peers = self.student(batch.inputs), list[Any](self.peers)
        if self.form == "branches":
            shared = leader.features[-2]
            return leader.logits, [peer.finish(shared) for peer in peers]
        outputs = [peer(batch.inputs) for peer in peers]
        return leader.logits, [(out.logits, out.embedding) for out in outputs]

    def loss(self, batch: Batch) -> Losses:
        leader, peers = self.forward_all(batch)
        logits = [each for each, _ in peers]
        queries, keys = ([project(embedding) for _, embedding in peers] for project in (self.query, self.key))
        pairs = zip(logits, attended(logits, queries, keys), strict=True)
        first = torch.stack([self.soft_targets(each, target) for each, target in pairs]).sum()
        second = self.soft_targets(leader, torch.stack(logits).mean(0))
        weight = self.kd * sigmoid_ramp(self.epoch, self.ramp_epochs)
        losses = self.supervised(leader, batch, *logits)
        return losses | {"kd_peers": weight * first, "kd_leader": weight * second}

    def reported(self) -> dict[str, nn.Module]:
        whole, each = self.form == "networks", list[Any](self.peers)
        nets: list[nn.Module] = [peer if whole else BranchedOutput(self.student, peer) for peer in each]
        peers: dict[str, nn.Module] = {f"peer_{k + 1}": net for k, net in enumerate(nets)}
        return {**peers, "ensemble": Ensemble(nets)}
