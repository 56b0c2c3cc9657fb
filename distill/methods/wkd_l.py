"""WKD-L: Wasserstein distance of predicted classes (Lv, Yang, Li, NeurIPS 2024, arXiv:2412.08139, section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch, Source
from distill.data.plain import training_images
from distill.losses import full_precision
from distill.method import Losses, Nets, Phase, Update
from distill.methods.nkd import weighted_target_loss
from distill.models import Outputs
from distill.parts.choice import check_choice, check_one_view
from distill.parts.decaying import Decaying
from distill.parts.probing import linear_layer

_RELATIONS = ("logits", "features", "weights")
_FLOOR = 1e-8  # of costs and of Sinkhorn's divisors, as in the authors' code


def non_target_softmax(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the softmax [B,K] of logits at a temperature among the classes that are not the label [B], which has 0."""
    label = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    return F.softmax((logits / temperature).masked_fill(label, -torch.inf), dim=1)


@full_precision
def wasserstein_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, cost: Tensor, temperature: float, entropy: float, steps: int
) -> Tensor:
    """<plan, cost> of the student's and the teacher's classes but the label, mean over the batch.

    Logits [B,K], labels [B], cost [K,K] of moving a unit of probability from class i to class j. The plan is what
    `steps` of Sinkhorn's iteration leave at the entropic weight `entropy`; gradients pass through them.
    """
    p_s, p_t = (non_target_softmax(logits, labels, temperature) for logits in (student, teacher))
    kernel = torch.exp(-cost / entropy)
    label = torch.arange(len(cost), device=cost.device) == labels[:, None]
    u = torch.full_like(p_s, 1 / (len(cost) - 1)).masked_fill(label, 0.0)
    v = u
    for _ in range(steps):
        v = p_t / (u @ kernel + _FLOOR)
        u = p_s / (v @ kernel.T + _FLOOR)
    return ((u @ (kernel * cost)) * v).sum(dim=1).mean()


@full_precision
def class_cka(samples: Tensor) -> Tensor:
    """Return the linear CKA [K,K] of each two classes' samples [K,N,D], paired in their order (Kornblith et al., ICML
    2019, arXiv:1905.00414): |X_j^T X_i|^2 / (|X_i^T X_i| |X_j^T X_j|) of samples less their class's mean.
    """
    centred = samples - samples.mean(dim=1, keepdim=True)
    classes, count, width = samples.shape
    if count <= width:
        grams = (centred @ centred.mT).flatten(1)
        products = grams @ grams.T
    else:
        products = samples.new_zeros(classes, classes)
        for k in range(classes):
            products[k, k:] = (centred[k].T @ centred[k:]).square().sum(dim=(1, 2))
        products = products.triu() + products.triu(1).T
    norms = products.diagonal().clamp_min(1e-24).sqrt()
    return products / (norms[:, None] * norms)


class WKDL(Decaying):
    """CE + target x weighted_target_loss + logits_weight x wasserstein_loss.

    Probability that the student gives to a wrong class costs the less, the more alike the classes are to the teacher.

    The cost is 1 - exp(-sharpen (1 - r)). relation: r is the linear CKA of the classes' training images, of their
    "logits" (the authors' for ImageNet) or of their last map's positions, "features" (CIFAR-100), or the cosine of the
    classifier's "weights". The images are seen once before the first epoch, as evaluation shows them.
    samples: how many of a class's images that takes; 0: as many as the smallest class has.
    """

    cost: Tensor  # [K,K]
    known: Tensor

    def __init__(
        self, *nets: *Nets, logits_weight: float, target: float, entropy: float, steps: int, relation: str,
        sharpen: float, samples: int, **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        student, _, data = nets
        self.logits_weight, self.target, self.entropy, self.steps = logits_weight, target, entropy, steps
        self.relation, self.sharpen = relation, sharpen
        check_choice("relation", relation, _RELATIONS)
        if student.num_classes < 3:
            raise ValueError(f"wkd-l compares classes that are not the label, of which {data.name} has one: take kd.")
        if steps < 1 or entropy <= 0:
            raise ValueError(f"method.steps is {steps} and method.entropy {entropy}: one step, and an entropy above 0.")
        self.samples = self._samples(samples) if relation != "weights" else 0
        if self.samples:
            check_one_view("wkd-l", "the teacher, whose answers tell which classes are alike,", data)
        if relation == "weights":
            linear_layer(self.teacher)
        self.register_buffer("cost", torch.zeros(data.num_classes, data.num_classes))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))

    def _samples(self, asked: int) -> int:
        """How many images of each class are compared."""
        data = self.data
        least = int(data.classes.bincount(minlength=data.num_classes).min())
        if min(least, asked or least) < 2:
            raise ValueError(
                f"wkd-l compares the images of each two classes of {data.name}, of which one has {least} and "
                f"method.samples asks for {asked or 'all'}: two are needed; method.relation=weights needs none."
            )
        if asked > least:
            raise ValueError(f"method.samples={asked}: a class of {data.name} has {least} images: give at most that.")
        if self.relation == "features" and not self.teacher.shapes:
            raise ValueError(f"method.relation=features reads maps, and {self.teacher.name} has none: take logits.")
        return min(least, asked or least)

    def measure(self, source: Any) -> Source:
        """Find the cost of confusing two classes, unless that is done."""
        if not bool(self.known):
            alike = class_cka(self.collect(source)) if self.relation != "weights" else self.cosines()
            self.cost.copy_(1 - torch.exp(-self.sharpen * (1 - alike)))
            self.cost.fill_diagonal_(0).clamp_min_(0).add_(_FLOOR)
            self.known.fill_(True)
        kept: Source = source
        return kept

    def cosines(self) -> Tensor:
        """The cosines [K,K] of the teacher's class weights."""
        weights = F.normalize(linear_layer(self.teacher).weight.detach().flatten(1).float(), dim=1)
        return weights @ weights.T

    def collect(self, source: Any) -> Tensor:
        """What the teacher says of the first `samples` images of each class, [K,N,D]; a map's positions are rows."""
        by_class: list[list[Tensor]] = [[] for _ in range(self.data.num_classes)]
        with torch.no_grad():
            for images, labels in training_images(source):
                outputs = self.teacher.read(images)
                rows = outputs.logits if self.relation == "logits" else outputs.features[-1].flatten(2).mT
                for label, row in zip(labels.tolist(), rows.float(), strict=True):
                    if len(by_class[label]) < self.samples:
                        by_class[label].append(row)
        return torch.stack([torch.stack(each).flatten(0, -2) for each in by_class])

    def phases(self) -> list[Phase]:
        return [Phase("distill", [Update("student", self.loss, [self])], source=self.measure)]

    def moved(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The Wasserstein loss of logits [B,K] and labels [B] at the costs that were found."""
        return wasserstein_loss(student, teacher, labels, self.cost, self.temperature, self.entropy, self.steps)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        logits = student.logits, teacher.logits
        target = self.by_label(lambda labels: weighted_target_loss(*logits, labels), batch)
        moved = self.by_label(lambda labels: self.moved(*logits, labels), batch)
        own: Losses = {"target": self.target * target, "moved": self.logits_weight * self.strength() * moved}
        return own | super().distill(student, teacher, batch)
