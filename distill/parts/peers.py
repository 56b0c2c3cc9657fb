"""What methods that train several nets share: the cohort, its ensemble, and the ramp of their mimicry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from distill.models import FeatureNet, build


class Ensemble(nn.Module):
    """The mean of several nets' probabilities, as logarithms [B,K]; each net gives logits or Outputs."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = [net(inputs) for net in self.nets]
        logits = [each if isinstance(each, Tensor) else each.logits for each in outputs]
        return mean_log_probability(logits)


def mean_log_probability(logits: Sequence[Tensor]) -> Tensor:
    """Return log mean_k softmax(z_k) of logits [B,K]."""
    stacked = torch.stack([each.float().log_softmax(1) for each in logits])
    return stacked.logsumexp(0) - math.log(len(logits))


def make_peers(
    student: FeatureNet, peers: int, models: Sequence[str] = (), rates: Sequence[float] | None = None
) -> nn.ModuleList:
    """Return the nets beside the student, of its architecture or the named ones, with random weights each.

    rates: of the named ones, as shares of the student's learning rate; optimisers keep to it (`lr_scale`).
    Raises ValueError for fewer than two peers in all, and for lists that are not one name, or one rate, a peer.
    """
    if peers < 2:
        raise ValueError(f"method.peers is {peers}: mutual learning needs at least 2 nets.")
    more = peers - 1
    if models and len(models) != more:
        raise ValueError(
            f"method.models names {len(models)} nets: with {peers} peers, name {more} beside the student."
        )
    chans, size, inits = student.in_chans, student.size, student.inits
    made = [build(name, student.num_classes, in_chans=chans, size=size, inits=inits) for name in models]
    if rates is not None and len(rates) != len(made):
        raise ValueError(f"method.rates has {len(rates)} shares for {len(made)} nets in method.models: give one each.")
    for net, rate in zip(made, rates or (), strict=False):
        net.lr_scale = float(rate)  # type: ignore[assignment]
    return nn.ModuleList(made or [student.twin() for _ in range(more)])


def feature_nets(nets: Iterable[nn.Module]) -> list[FeatureNet]:
    """Return the peers as what they are."""
    found = []
    for net in nets:
        assert isinstance(net, FeatureNet)
        found.append(net)
    return found


def report_cohort(cohort: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Return the peers after the first, which is deployed, and the ensemble of all."""
    others: dict[str, nn.Module] = {f"peer_{k}": net for k, net in enumerate(cohort) if k}
    return {**others, "ensemble": Ensemble(cohort)}


def sigmoid_ramp(epoch: int, length: float) -> float:
    """Return exp(-5 (1 - e/length)^2), then 1, for e = epoch - 1 (Laine & Aila, arXiv:1610.02242)."""
    if length <= 0:
        return 1.0
    left = 1 - min(epoch - 1, length) / length
    return math.exp(-5 * left * left)
