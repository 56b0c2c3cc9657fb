"""A generalist and specialists for confusable classes, distilled into one net (Hinton et al., arXiv:1503.02531)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch, Source
from distill.losses import full_precision, kd_loss
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import FeatureNet
from distill.parts.choice import check_one_view
from distill.parts.clusters import balanced_start, k_means


@full_precision
def with_dustbin(logits: Tensor, members: Tensor) -> Tensor:
    """[B,K] -> [B,K+1]: the classes that `members` [K] (bool) does not name are -inf, their sum is class K.

    The dustbin's logit is the log of the sum of exponentials of theirs, so that a copy of the generalist starts
    with the generalist's own belief in it.
    """
    dustbin = logits.masked_fill(members, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([logits.masked_fill(~members, -torch.inf), dustbin], dim=1)


@full_precision
def specialist_loss(logits: Tensor, labels: Tensor, members: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy over the special classes and the dustbin, as if half of the data were special.

    logits [B,K], labels [B], members [K]; share: the special classes' part of the training images. Each image
    counts 0.5 / share or 0.5 / (1 - share), which has the gradient of drawing half the batch from each part.
    """
    special = members[labels]
    targets = torch.where(special, labels, logits.shape[1])
    weights = torch.where(special, 0.5 / share, 0.5 / (1 - share))
    return (weights * F.cross_entropy(with_dustbin(logits, members), targets, reduction="none")).mean()


@full_precision
def ensemble(generalist: Tensor, specialists: Tensor, members: Tensor, active: Tensor, steps: int) -> Tensor:
    """The q [B,K] that minimises KL(p_g, q) + sum over active m of KL(p_m, q) (eq. 5).

    generalist: p_g [B,K]. specialists: p_m [B,M,K+1], 0 outside their classes, the dustbin last. members [M,K] and
    active [B,M] are bool. KL(p_m, q) compares p_m's dustbin with the sum of q over the other classes. The paper
    descends on logits; the objective is convex in q and this is its EM iteration: every p_m's dustbin is spread
    over its classes as q has them, and q is the mean of all. It never goes up and needs no step size.
    """
    inside, act = members.double(), active.double()
    p_g, p_m = generalist.double(), specialists.double()
    known = (act[:, :, None] * p_m[:, :, :-1] * inside).sum(1) + p_g
    dustbins = act * p_m[:, :, -1]
    total = 1 + act.sum(1, keepdim=True)
    q = p_g
    for _ in range(steps):
        outside = (q @ (1 - inside).T).clamp_min(1e-30)  # [B,M]
        q = (known + q * ((dustbins / outside) @ (1 - inside))) / total
    return q


class _Ensemble(nn.Module):
    """Generalist and specialists as one net: inputs [B,C,H,W] to log q [B,K]."""

    members: Tensor  # [M,K] bool
    bias: Tensor  # [M], of the dustbins

    def __init__(
        self, generalist: FeatureNet, experts: nn.ModuleList, members: Tensor, bias: Tensor, steps: int
    ) -> None:
        super().__init__()
        self.generalist, self.experts, self.steps = generalist, experts, steps
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        p_g = self.generalist(inputs).logits.softmax(1)
        rows = []
        for expert, members, bias in zip(self.experts, self.members, self.bias, strict=True):
            logits = with_dustbin(expert(inputs).logits, members)
            rows.append(torch.cat([logits[:, :-1], logits[:, -1:] + bias], dim=1).softmax(1))
        active = self.members[:, p_g.argmax(1)].T  # those whose classes hold the generalist's first choice
        return ensemble(p_g, torch.stack(rows, 1), self.members, active, self.steps).clamp_min(1e-30).log().float()


class Specialists(Method):
    """Clusters, then specialists, then the student: ce x CE + kd x T^2 KL(q || p_s).

    The teacher is the generalist. Classes that it confuses, the columns of the covariance of its predictions, are
    clustered by k-means; one specialist a cluster starts as a copy of it. Deviations from the paper: the k-means
    is not on-line; special classes are made half of the data by weights and not by sampling, in expectation the
    same; and the dustbin is the sum of the other classes and not a unit of its own. As in the paper, the dustbin's
    logit is then corrected by the log of the oversampling, log((1 - share) / share). Since the clusters hold every
    class, exactly one specialist is active for an image.
    """

    refuses = {"label_smoothing": "its specialists know some of the classes and a dustbin"}

    cluster: Tensor  # [K] int64, which specialist knows the class
    clustered: Tensor
    counts: Tensor  # [K], training images

    def __init__(
        self, *nets: *Nets, specialists: int, specialist_epochs: int, specialist_lr: float, inner_steps: int,
        **common: Any
    ) -> None:
        _, _, data = nets
        super().__init__(*nets, **common)
        check_one_view("specialists", "generalist and specialists", data)
        classes = data.num_classes
        if not 2 <= specialists <= classes or specialist_epochs < 1:
            raise ValueError(
                f"method.specialists is {specialists} for {classes} classes and method.specialist_epochs is "
                f"{specialist_epochs}: give 2 to as many specialists as there are classes, and at least 1 epoch."
            )
        self.specialist_epochs, self.specialist_lr, self.inner_steps = (
            specialist_epochs,
            specialist_lr,
            inner_steps,
        )
        self.experts = nn.ModuleList(copy.deepcopy(self.teacher).requires_grad_(True) for _ in range(specialists))
        cluster = balanced_start(classes, specialists)
        self.register_buffer("cluster", cluster)
        self.register_buffer("clustered", torch.zeros((), dtype=torch.bool))
        self.register_buffer("counts", torch.bincount(data.classes, minlength=classes).double(), persistent=False)

    @property
    def members(self) -> Tensor:
        """[M,K] bool: the classes of each specialist."""
        return self.cluster == torch.arange(len(self.experts), device=self.cluster.device)[:, None]

    @property
    def shares(self) -> Tensor:
        """[M]: the part of the training images that each specialist's classes are."""
        share = (self.members * self.counts).sum(1) / self.counts.sum()
        return share.clamp(1e-6, 1 - 1e-6).float()

    def cluster_classes(self, source: Any) -> Source:
        """Cluster the classes by what the generalist says of one epoch's images, unless that is done."""
        if not bool(self.clustered):
            with torch.no_grad():
                probabilities = torch.cat([self.teach(batch).logits.softmax(1).double() for batch in source.epoch(1)])
            centred = probabilities - probabilities.mean(0)
            self.cluster.copy_(k_means(centred.T @ centred / len(probabilities), len(self.experts)))
            self.clustered.fill_(True)
        kept: Source = source
        return kept

    def expert_loss(self, m: int, batch: Batch) -> Losses:
        """Loss of one specialist."""
        logits = self.experts[m](batch.inputs).logits
        members, share = self.members[m], self.shares[m]
        loss = self.by_label(lambda labels: specialist_loss(logits, labels, members, share), batch)
        return {f"specialist_{m}": loss}

    def combined(self) -> _Ensemble:
        """Generalist and specialists with corrected dustbins, as one net in eval mode."""
        shares = self.shares
        bias = torch.log((1 - shares) / shares)
        return _Ensemble(self.teacher, self.experts, self.members, bias, self.inner_steps).eval()

    def loss(self, batch: Batch) -> Losses:
        logits = self.student(batch.inputs).logits
        with torch.no_grad():
            logits_t = self.combined()(batch.views.get("teacher", batch.inputs))
        return self.supervised(logits, batch) | {"kd": self.kd * kd_loss(logits, logits_t, self.temperature)}

    def phases(self) -> list[Phase]:
        def update(m: int) -> Update:
            return Update(f"specialist_{m}", lambda batch: self.expert_loss(m, batch), [self.experts[m]])

        experts = [update(m) for m in range(len(self.experts))]
        slow = {"lr": self.specialist_lr, "decay": "constant", "milestones": [], "warmup_epochs": 0}
        return [
            Phase(
                "specialists",
                experts,
                epochs=self.specialist_epochs,
                schedule=slow,
                source=self.cluster_classes,
                begin=lambda: self.train_experts(True),
                evaluates=False,
            ),
            Phase(
                "distill",
                [Update("student", self.loss, [self.student])],
                source=self.cluster_classes,
                begin=lambda: self.train_experts(False),
            ),
        ]

    def train_experts(self, wanted: bool) -> None:
        """Open the specialists for training, or freeze them."""
        self.experts.requires_grad_(wanted)

    def reported(self) -> dict[str, nn.Module]:
        return {"ensemble": self.combined()}
