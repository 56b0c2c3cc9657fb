"""Graph-based knowledge distillation by multi-head attention (Lee, Song, BMVC 2019, arXiv:1907.02226)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.engine.synced import Synced
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.methods.kdsvd import ClippedStepper, check_stage_pairs, clipping, compress
from distill.models import Outputs
from distill.models.inits import scaled_by_fan_out
from distill.parts.svd import leading_vectors
from distill.parts.two_phase import CONSTANT


@full_precision
def graph_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student || teacher) of attention rows, summed over heads and rows.

    Graphs [heads,B,B] before softmax; both pass a tanh first. Direction, tanh and sum are those of the
    authors' code.
    """
    log_student = F.log_softmax(student.tanh(), dim=2)
    log_teacher = F.log_softmax(teacher.tanh(), dim=2)
    return F.kl_div(log_teacher, log_student, reduction="sum", log_target=True)


@full_precision
def estimate_loss(estimate: Tensor, vectors: Tensor) -> Tensor:
    """Mean over the batch of 1 - cosine of two sets of vectors [B,C]."""
    return (1 - F.cosine_similarity(estimate, vectors, dim=1)).mean()


def normed(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """BatchNorm of x [B,D]; a batch of one, which has no statistics, takes the running ones."""
    if len(x) > 1 or not norm.training or isinstance(norm, Synced):
        return norm(x)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def head_layer(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """A layer drawn as the authors' heads are, by its outputs; a bias is 0."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    scaled_by_fan_out(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Several heads' relations between the samples of a batch, from the vectors of two adjacent stages."""

    def __init__(self, shallow: int, deep: int, heads: int) -> None:
        super().__init__()
        self.heads, width = heads, (shallow + deep) // 2
        self.sender, self.sender_norm = (
            head_layer(deep, width * heads),
            nn.BatchNorm1d(width * heads),
        )
        self.receiver = head_layer(shallow, width * heads)
        self.receiver_norm = nn.BatchNorm1d(width * heads)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """Return graphs [heads,B,B] before softmax; rows deep vectors [B,C'], columns shallow [B,C]."""
        send = normed(self.sender_norm, self.sender(deep)).unflatten(1, (self.heads, -1))
        receive = normed(self.receiver_norm, self.receiver(shallow)).unflatten(1, (self.heads, -1))
        return torch.einsum("ihd,jhd->hij", send, receive)


class Estimator(nn.Module):
    """Predicts a sample's deep vector from all samples' shallow vectors and the graph between them."""

    def __init__(self, shallow: int, deep: int, heads: int) -> None:
        super().__init__()
        width = (shallow + deep) // 2
        self.embed, self.norm = head_layer(shallow, width), nn.BatchNorm1d(width)
        self.out = head_layer(width * heads, deep, bias=True)

    def forward(self, shallow: Tensor, graph: Tensor) -> Tensor:
        """Return an estimate [B,C'] from vectors [B,C] and graphs [heads,B,B]; about half the heads drop."""
        noise = torch.randn(*graph.shape[:2], 1, device=graph.device)
        kept = graph.softmax(2) * (noise > noise.mean(0))
        gathered = kept @ F.relu(normed(self.norm, self.embed(shallow))).to(kept.dtype)
        return self.out(gathered.transpose(0, 1).flatten(1))


class MHGD(Method):
    """Attention heads learn how the teacher's stages relate samples; then the student learns those relations.

    Each map is compressed to its leading singular vector, as in KD-SVD. In the first phase the heads of every
    pair of adjacent stages are trained, with an estimator, to predict the teacher's deep vector from the
    shallow ones; then they are frozen, and the student is trained on labels and on the KL of its graphs from
    the teacher's.

    Taken from the authors' TensorFlow code: tanh, direction and sum of the KL, widths, dropped heads,
    clipping. Deviations: signs and gradients of the SVD (see distill.parts.svd), and the run's schedule (theirs: 40
    epochs of heads and 100 of student). The sum grows with the batch, and graphs
    hold the samples of one device's batch only.
    """

    def __init__(
        self, *nets: *Nets, weight: float, heads: int, clip: bool, heads_weight_decay: float, init_epochs: int,
        **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if init_epochs < 1:
            raise ValueError(
                "method.init_epochs is 0, but mhgd compares graphs of heads that were trained: use 30."
            )
        clipping(clip, self.ce, self.kd, "mhgd")
        check_stage_pairs(student, self.teacher, 1, "mhgd")
        self.weight, self.clip, self.init_epochs = weight, clip, init_epochs
        self.heads_weight_decay = heads_weight_decay
        widths = list(pairwise(self.teacher.channels))
        self.attention = nn.ModuleList(Attention(*pair, heads) for pair in widths)
        self.estimators = nn.ModuleList(Estimator(*pair, heads) for pair in widths)

    def estimate(self, batch: Batch) -> Losses:
        """Loss of the first phase: how far the teacher's deep vectors are from their estimates."""
        vectors = [leading_vectors(feature, 1)[0].squeeze(2) for feature in self.teach(batch).features]
        losses = []
        for (shallow, deep), attend, estimator in zip(
            pairwise(vectors), self.attention, self.estimators, strict=True
        ):
            losses.append(estimate_loss(estimator(shallow, attend(shallow, deep)), deep))
        return {"heads": torch.stack(losses).sum()}

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        pairs = zip(student.features, teacher.features, strict=True)
        vectors = [tuple(v.squeeze(2) for v in compress(s, t, 1)) for s, t in pairs]
        losses = []
        for (shallow, deep), attend in zip(pairwise(vectors), self.attention, strict=True):
            losses.append(graph_loss(attend(shallow[0], deep[0]), attend(shallow[1], deep[1])))
        return {"mhgd": self.weight * torch.stack(losses).sum()}

    def freeze(self) -> None:
        """Fix the heads; the loop then keeps them in eval mode."""
        self.attention.requires_grad_(False)
        self.estimators.requires_grad_(False)

    def phases(self) -> list[Phase]:
        decay = {"weight_decay": self.heads_weight_decay}
        heads = Update("heads", self.estimate, [self.attention, self.estimators], decay)
        student = Update("student", self.loss, [self.student], stepper=ClippedStepper if self.clip else None)
        return [
            Phase("heads", [heads], self.init_epochs, dict(CONSTANT), evaluates=False),
            Phase("distill", [student], begin=self.freeze),
        ]
