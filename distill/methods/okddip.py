"""Online knowledge distillation with diverse peers, OKDDip (Chen et al., AAAI 2020, arXiv:1912.00350)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.data import DataInfo
from distill.losses import full_precision
from distill.method import Batch, Losses, Method
from distill.models import FeatureNet
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

    sum CE + r kd T^2 (sum_a KL(t_a || p_a) + KL(mean of peers || leader)), the network-based form: each peer
    is a whole net. The student is the leader, beside `branches` - 1 peers. As in the authors' code the
    mixtures are of logits. The gradient reaches a target only through the attention, without which the
    projections could not learn; the logits that are mixed, and the leader's target, are constants. r is that
    of ONE.
    """

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        ce: float = 1.0,
        kd: float = 1.0,
        temperature: float = 3.0,
        branches: int = 4,
        models: Sequence[str] = (),
        factor: int = 8,
        ramp_epochs: int = 80,
    ) -> None:
        super().__init__(student, (), data, ce=ce, kd=kd, temperature=temperature)
        if branches < 3:
            raise ValueError(f"method.branches is {branches}: okddip needs a leader and 2 peers, so 3.")
        self.ramp_epochs = ramp_epochs
        self.peers = make_peers(student, branches, models)
        width, *more = sorted({peer.embedding_dim for peer in feature_nets(self.peers)})
        if more:
            raise ValueError(
                f"method.models have embeddings of widths {[width, *more]}, which one attention cannot "
                "compare: name nets of one width, or use method=dml."
            )
        self.query = nn.Linear(width, max(width // factor, 1), bias=False)
        self.key = nn.Linear(width, max(width // factor, 1), bias=False)

    def loss(self, batch: Batch) -> Losses:
        leader = self.student(batch.images).logits
        batch.logits = leader.detach()
        peers = [peer(batch.images) for peer in self.peers]
        logits = [peer.logits for peer in peers]
        constants = [each.detach() for each in logits]
        queries, keys = ([project(peer.embedding) for peer in peers] for project in (self.query, self.key))
        targets = attended(constants, queries, keys)
        ce = torch.stack([self.criterion(each, batch) for each in (leader, *logits)]).sum()
        pairs = zip(logits, targets, strict=True)
        first = torch.stack([self.soft_targets(each, target) for each, target in pairs]).sum()
        second = self.soft_targets(leader, torch.stack(constants).mean(0))
        weight = self.kd * sigmoid_ramp(self.epoch, self.ramp_epochs)
        return {"ce": self.ce * ce, "kd_peers": weight * first, "kd_leader": weight * second}

    def reported(self) -> dict[str, nn.Module]:
        peers: dict[str, nn.Module] = {f"peer_{k + 1}": peer for k, peer in enumerate(self.peers)}
        return {**peers, "ensemble": Ensemble(list(self.peers))}
