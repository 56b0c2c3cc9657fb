"""Online distillation by collaborative learning, KDCL (Guo, Wang, Wu, Yu, Liang, Hu, Luo, CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import distill.parallel as parallel
from distill.batch import Batch
from distill.data.pairs import PeerViews
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import FeatureNet
from distill.parts.choice import check_choice
from distill.parts.peers import feature_nets, make_peers, report_cohort

_VARIANTS = ("naive", "linear", "minlogit", "general")


def naive(logits: Tensor, labels: Tensor) -> Tensor:
    """Return for each sample the logits of the peer with the least cross-entropy: [P,B,K] -> [B,K]."""
    best = true_log_probability(logits, labels).argmax(0)
    return logits[best, torch.arange(len(labels), device=labels.device)]


def min_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Return min_p (z_p - z_p[label]), class by class: [P,B,K] -> [B,K]; no peer is surer of the label."""
    own = logits.gather(2, labels.expand(len(logits), -1)[..., None])
    return (logits - own).amin(0)


def linear(logits: Tensor, labels: Tensor) -> Tensor:
    """Return sum_p a_p z_p of least cross-entropy, a in the simplex, for each sample: [P,B,K] -> [B,K].

    The problem is convex. Each step moves weight from the used peer with the steepest rise to the one with
    the steepest fall, as far as pays (bisection on the slope): exact for two peers, close for more.
    """
    peers, rows = len(logits), torch.arange(len(labels), device=labels.device)
    share = torch.full(logits.shape[:2], 1 / peers, device=logits.device, dtype=logits.dtype)
    mixed = logits.mean(0)
    for _ in range(1 if peers == 2 else 5 * peers):
        slopes = ((mixed.softmax(1) * logits).sum(2)) - logits[:, rows, labels]  # d CE / d a_p, [P,B]
        gain = slopes.argmin(0)
        lose = torch.where(share > 0, slopes, float("-inf")).argmax(0)
        way = logits[gain, rows] - logits[lose, rows]
        length = descend(mixed, way, labels, share[lose, rows])
        share = share.index_put((gain, rows), length, accumulate=True)
        share = share.index_put((lose, rows), -length, accumulate=True)
        mixed = mixed + length[:, None] * way
    return mixed


def descend(logits: Tensor, way: Tensor, labels: Tensor, longest: Tensor, halvings: int = 24) -> Tensor:
    """Return s in [0, longest] [B] where CE(logits + s way) is least, for logits and way [B,K]."""
    target = way.gather(1, labels[:, None]).squeeze(1)
    low, high = torch.zeros_like(longest), longest

    def rises(s: Tensor) -> Tensor:
        return ((logits + s[:, None] * way).softmax(1) * way).sum(1) > target

    inside = rises(longest)
    for _ in range(halvings):
        middle = (low + high) / 2
        up = rises(middle)
        low, high = torch.where(up, low, middle), torch.where(up, middle, high)
    return torch.where(inside, (low + high) / 2, longest)


def true_log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log p(label) for each peer: [P,B,K] -> [P,B]."""
    return logits.log_softmax(2).gather(2, labels.expand(len(logits), -1)[..., None]).squeeze(2)


@full_precision
def _weighted(logits: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return sum_p w_p softmax(z_p / T): [P,B,K] and [P] -> [B,K]."""
    return torch.einsum("p,pbk->bk", weights, (logits / temperature).softmax(2))


def general_weights(errors: Tensor) -> Tensor:
    """Return w = C^-1 1 / 1' C^-1 1 [P], of least error of sum w_p f_p, with C = E[e_p e_q] [P,P].

    Weights below 0 are set to 0, since the sum has to be a distribution.
    """
    ridge = 1e-6 * errors.diagonal().mean() + torch.finfo(errors.dtype).tiny
    identity = torch.eye(len(errors), device=errors.device, dtype=errors.dtype)
    weights = torch.linalg.solve(errors + ridge * identity, torch.ones_like(errors[0])).clamp(min=0)
    return weights / weights.sum()


@full_precision
def soft_target_loss(logits: Tensor, target: Tensor, keep: Tensor | None, temperature: float) -> Tensor:
    """T^2 KL(target || softmax(z/T)), logits [B,K], probabilities [B,K], mean over the kept samples."""
    kl = F.kl_div((logits / temperature).log_softmax(1), target, reduction="none").sum(1)
    return mean_of(kl, keep) * temperature**2


def mean_of(values: Tensor, keep: Tensor | None) -> Tensor:
    """Return the mean over the samples [B] that are kept; 0 where none is."""
    return values.mean() if keep is None else (values * keep).sum() / keep.sum().clamp(min=1)


class KDCL(Method):
    """CE + kd T^2 KL(soft target || p_k) for every peer k, each on an augmentation of its own.

    variant: "naive" takes the peer with the least cross-entropy, "linear" the best convex combination of
    logits, "minlogit" the least logits relative to the label's (all three sample by sample), "general" the
    probabilities weighted for the least generalisation error, once an epoch. For that a share `held` of the
    training images is set apart: they enter no loss, and the errors on them, as they pass by in the epoch,
    give the weights of the next. There is no code by the authors: temperature and kd are those of ONE.
    """

    refuses = {"mixup": "each peer has its own view of an image, and peers are compared by its one class"}

    held: Tensor
    errors: Tensor
    weights: Tensor

    def __init__(
        self, *nets: *Nets, peers: int, models: Sequence[str], rates: Sequence[float] | None, variant: str, held: float,
        **common: Any
    ) -> None:
        student, _, data = nets
        super().__init__(student, (), data, **common)
        check_choice("variant", variant, _VARIANTS)
        self.variant = variant
        self._seen: tuple[Tensor, Batch] | None = None
        self.others = make_peers(student, peers, models, rates)
        if variant == "general":
            self._set_apart(held, data.num_train, peers)

    def _set_apart(self, held: float, images: int, peers: int) -> None:
        count = round(held * images)
        if not 0 < count < images:
            raise ValueError(f"method.held is {held}: hold out some, but not all, of the {images} images.")
        self.register_buffer("held", torch.zeros(images, dtype=torch.bool))
        self.held[torch.randperm(images)[:count]] = True
        self.register_buffer("errors", torch.zeros(peers, peers))
        self.register_buffer("weights", torch.full((peers,), 1 / peers))

    @property
    def cohort(self) -> list[FeatureNet]:
        """All peers, the student first."""
        return [self.student, *feature_nets(self.others)]

    def target(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the soft target [B,K], probabilities at the temperature, of all peers' logits [P,B,K]."""
        if self.variant == "general":
            return _weighted(logits, self.weights, self.temperature)
        made = {"naive": naive, "linear": linear, "minlogit": min_logit}[self.variant](logits, labels)
        return (made / self.temperature).softmax(1)

    def loss(self, batch: Batch) -> Losses:
        views = [batch.inputs, *(batch.views[f"peer_{k + 1}"] for k in range(len(self.others)))]
        logits = [net(view).logits for net, view in zip(self.cohort, views, strict=True)]
        self.count(logits[0], batch.labels)
        keep = (~self.held[batch.index]).float() if self.variant == "general" else None
        with torch.no_grad():
            constants = torch.stack([each.detach() for each in logits])
            target = self.target(constants, batch.classes)
            self._seen = (constants, batch) if self.variant == "general" else None
        ce = [mean_of(self.criterion(each, batch, "none"), keep) for each in logits]
        kd = [soft_target_loss(each, target, keep, self.temperature) for each in logits]
        return {"ce": self.ce * torch.stack(ce).sum(), "kd": self.kd * torch.stack(kd).sum()}

    def after_step(self) -> None:
        if self._seen:
            (logits, batch), self._seen = self._seen, None
            error = logits.softmax(2) - F.one_hot(batch.classes, logits.shape[2])
            products = torch.einsum("pbk,qbk,b->pq", error, error, self.held[batch.index].float())
            self.errors += parallel.summed(products)

    def after_epoch(self) -> None:
        if self.variant == "general":
            self.weights.copy_(general_weights(self.errors))
            self.errors.zero_()

    def phases(self) -> list[Phase]:
        source = partial(PeerViews, count=len(self.others))
        return [Phase("distill", [Update("cohort", self.loss, [self])], source=source)]

    def reported(self) -> dict[str, nn.Module]:
        return report_cohort(self.cohort)
