"""Be your own teacher: exits along a net, taught by its end (Zhang et al., ICCV 2019, arXiv:1905.08094)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import FeatureNet
from distill.parts.heads import Shape, he_by_fan_out
from distill.parts.peers import Ensemble


class Exit(nn.Module):
    """A classifier on a stage's map: bottleneck down to the last stage's resolution, pooling, linear layer.

    1x1, kxk with stride k, 1x1 convolutions with BatchNorm and ReLU, drawn by He's rule as the net's own are in the
    re-implementation; `width` is the net's embedding width D.
    """

    def __init__(self, stage: Shape, last: Shape, width: int, classes: int) -> None:
        super().__init__()
        k, middle = max(stage[1] // last[1], 1), max(width // 4, 1)
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in ((stage[0], middle, 1), (middle, middle, k), (middle, width, 1)):
            conv = nn.Conv2d(inputs, outputs, kernel, stride=kernel, bias=False)
            layers += [he_by_fan_out(conv), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.bottleneck = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, classes)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding [B,D] and logits [B,K] for a stage's map [B,C,H,W]."""
        embedding = self.bottleneck(feature).mean((2, 3))
        return embedding, self.classifier(embedding)


class ExitNet(nn.Module):
    """A net up to one of its exits, as it is evaluated; gives logits [B,K]."""

    def __init__(self, net: FeatureNet, stage: int, head: nn.Module) -> None:
        super().__init__()
        self.net, self.stage, self.head = net, stage, head

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.net(inputs).features[self.stage])[1]
        return logits


@full_precision
def hint_loss(exit_embedding: Tensor, last_embedding: Tensor) -> Tensor:
    """||F_exit - F_last||^2 of pooled features [B,D] (loss 3 of section 3.2), summed over the batch.

    The sum is what the published weight, 1e-6 at batches of 128, belongs to.
    """
    return (exit_embedding - last_embedding).pow(2).sum()


class BYOT(Method):
    """ce x sum CE + kd x sum T^2 KL(last || exit) + weight x sum ||F_exit - F_last||^2, F pooled.

    An exit after every stage but the last; the deepest classifier is the student's own, which is deployed,
    and teaches without receiving gradients. Bottlenecks follow the re-implementation that published weights
    (luanyunteng/pytorch-be-your-own-teacher). Every exit is reported, and the ensemble of all.
    """

    def __init__(self, *nets: *Nets, weight: float, **common: Any) -> None:
        student, _, data = nets
        super().__init__(student, (), data, **common)
        *shallow, last = student.shapes
        if not shallow:
            raise ValueError(
                f"{student.name} has one stage, {last}, and so no place for an exit: use method=tf-kd-reg."
            )
        self.weight = weight
        width, classes = student.embedding_dim, student.num_classes
        self.exits = nn.ModuleList(Exit(shape, last, width, classes) for shape in shallow)

    def loss(self, batch: Batch) -> Losses:
        student = self.student(batch.inputs)
        exits = [head(feature) for head, feature in zip(self.exits, student.features[:-1], strict=True)]
        logits = [each[1].float() for each in exits]
        losses = self.supervised(student.logits, batch, *logits)
        if self.kd:
            kd = [self.soft_targets(each, student.logits.detach()) for each in logits]
            losses["kd"] = self.kd * torch.stack(kd).sum()
        if self.weight:
            hints = [hint_loss(embedding, student.embedding.detach()) for embedding, _ in exits]
            losses["hint"] = self.weight * torch.stack(hints).sum()
        return losses

    def reported(self) -> dict[str, nn.Module]:
        nets: dict[str, nn.Module] = {}
        for stage, head in enumerate(self.exits):
            nets[f"exit_{stage + 1}"] = ExitNet(self.student, stage, head)
        return {**nets, "ensemble": Ensemble([*nets.values(), self.student])}
