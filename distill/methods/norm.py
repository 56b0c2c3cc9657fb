"""NORM: N-to-one representation matching (Liu, Li, Zhao, Yao et al., ICLR 2023, arXiv:2305.13803)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.files import first_line
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import FeatureNet, Outputs
from distill.models.cifar_net import CifarNet
from distill.models.reading import evaluating, frozen_statistics
from distill.parts.grown import GrownModel, GrownNet
from distill.parts.heads import he_by_fan_out
from distill.parts.stages import used_parameters

_EPS = 1e-7
Step = Callable[[Tensor], Tensor]


@full_precision
def norm_loss(expanded: Tensor, teacher: Tensor, copies: int) -> Tensor:
    """Sum over N copies of the mean squared error of a part of `expanded` [B,N*C,H,W] and the teacher's map [B,C,H,W].

    The larger of two maps is max-pooled first.
    """
    pooled, target = max_pool_to(expanded, teacher)
    return (pooled.unflatten(1, (copies, -1)) - target[:, None]).square().mean() * copies


def max_pool_to(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Max-pool the larger of two maps [B,C,H,W] to the size of the smaller, each side on its own."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    pooled = (x if tuple(x.shape[2:]) == size else F.adaptive_max_pool2d(x, size) for x in (a, b))
    return tuple(pooled)  # type: ignore[return-value]


@full_precision
def normalised(logits: Tensor, scale: float) -> Tensor:
    """Logits [B,K] of mean 0 and variance 1 over the classes, times `scale`."""
    return F.layer_norm(logits, logits.shape[1:], eps=_EPS) * scale


class Transform(nn.Module):
    """The student's feature transform: 1x1 convolution and BatchNorm to `wide` channels, the same back, and a skip."""

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(he_by_fan_out(nn.Conv2d(channels, wide, 1, bias=False)), nn.BatchNorm2d(wide))
        self.back = nn.Sequential(he_by_fan_out(nn.Conv2d(wide, channels, 1, bias=False)), nn.BatchNorm2d(channels))

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """[B,C,H,W] -> the expanded map [B,wide,H,W], which is matched, and the map that the student goes on with."""
        expanded = self.widen(feature)
        return expanded, feature + self.back(expanded)


def after_last_map(net: FeatureNet) -> tuple[Step, Step]:
    """What a net does with its last map, before the transform and after it.

    The transform stands where the map is as wide as what enters the classifier: at the last map itself or, of nets
    with a convolution behind it (MobileNetV2, ShuffleNetV2), behind that. ValueError for nets that have no such map.
    """
    model, reader = net.model, net.reader if hasattr(net, "reader") else None
    if net.embedding_dim == net.channels[-1]:
        steps: tuple[Step, Step] = (nn.Identity(), net.classify)
    elif isinstance(model, CifarNet):
        steps = (model.tail, model.forward_head)
    else:
        tail: Any = getattr(reader, "tail", None)
        head: Any = model.forward_head
        steps = (partial(tail, model) if tail else net.classify, head)
    device = next(net.parameters()).device
    try:
        with torch.no_grad(), evaluating(net):
            shape = steps[0](torch.zeros(1, *net.shapes[-1], device=device)).shape
            steps[1](torch.zeros(shape, device=device))
        if len(shape) != 4 or shape[1] != net.embedding_dim:
            raise ValueError(f"{shape[1]} channels and {net.embedding_dim} features")
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"norm puts its transform between the last map and the classifier, and {net.name} has no such place "
            f"({first_line(error).rstrip('.')}): take method=kd-proj, which matches a projection."
        ) from error
    return steps


class ExpandedModel(GrownModel):
    """The student with its transform: inputs [B,C,H,W] -> logits [B,K]."""

    def __init__(self, student: FeatureNet, transform: Transform, steps: tuple[Step, Step]) -> None:
        super().__init__(student, set())
        self.transform, self.num_classes = transform, student.num_classes
        self._student, self._steps = (student,), steps  # in tuples: nothing of them is counted twice

    def forward_features(self, inputs: Tensor) -> Tensor:
        return self.transform(self._steps[0](self.last_map(inputs)))[1]

    def finish(self, feature: Tensor) -> Tensor:
        return self._steps[1](feature)

    def classifier(self) -> nn.Module:
        return self._student[0].classifier


class NORM(Method):
    """ce x CE + kd KLT + w(epoch) x weight x N-to-one matching, both nets' logits normalised and times `scale` in the
    first two.

    The student's last map is expanded to `copies` times the teacher's channels, each of which is to be the teacher's
    last map, and led back into the student (eq. 4-6): the transform is part of the student and is deployed with it.
    `weight_by_epoch` holds (epoch, factor) pairs for a run of as many epochs as the last pair says: the factor holds
    up to the end of that epoch; runs of other lengths are stretched. As published for ImageNet, one stage is matched.
    """

    def __init__(
        self, *nets: *Nets, weight: float, copies: int, scale: float, weight_by_epoch: Sequence[Sequence[float]],
        **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if copies < 1:
            raise ValueError(f"method.copies is {copies}: the teacher's map is matched once or more; 8 is usual.")
        ends = [pair[0] for pair in weight_by_epoch]
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0:
            raise ValueError(f"method.weight_by_epoch has the epochs {ends}: give rising ones, such as [[241, 1.0]].")
        self.weight, self.copies, self.scale = weight, copies, scale
        self.weight_by_epoch = [(float(end), float(factor)) for end, factor in weight_by_epoch]
        steps = after_last_map(student)
        self.transform = Transform(student.embedding_dim, copies * self.teacher.channels[-1])
        self._steps, self._behind = steps, (self._norms_after(),)
        model = ExpandedModel(student, self.transform, steps)
        name = f"{student.name}+norm"
        self._deployed = (GrownNet(model, name=name, size=student.size, in_chans=student.in_chans),)

    def _norms_after(self) -> nn.ModuleList:
        """BatchNorms behind the student's last map; they run on the transformed map, and only that moves them."""
        net = self.student
        used = used_parameters(net.model, lambda: net.read(net.probe()).features[-1])
        norms = {
            name: module for name, module in net.model.named_modules() if isinstance(module, nn.BatchNorm2d)
        }
        return nn.ModuleList(norm for name, norm in norms.items() if f"{name}.weight" not in used)

    def factor(self) -> float:
        """The weight of the matching in this epoch, relative to `weight`."""
        total = self.weight_by_epoch[-1][0]
        factors = [factor for end, factor in self.weight_by_epoch if (self.epoch - 1) * total < end * self.epochs]
        return factors[0] if factors else self.weight_by_epoch[-1][1]

    def loss(self, batch: Batch) -> Losses:
        with frozen_statistics(self._behind[0]):
            feature = self.student(batch.inputs).features[-1]
        expanded, grown = self.transform(self._steps[0](feature))
        return self.losses(self._steps[1](grown), expanded, self.teach(batch), batch)

    def losses(self, logits: Tensor, expanded: Tensor, teacher: Outputs, batch: Batch) -> Losses:
        """All losses of the student's logits [B,K] and expanded map [B,N*C,H,W]."""
        scaled = normalised(logits, self.scale)
        losses = self.supervised(scaled, batch)
        if self.kd:
            losses["kd"] = self.kd * self.soft_targets(scaled, normalised(teacher.logits, self.scale))
        matched = norm_loss(expanded, teacher.features[-1], self.copies)
        return losses | {"norm": self.factor() * self.weight * matched}

    def deployed(self) -> FeatureNet:
        net = self._deployed[0]
        net.renormalize_as(self.student)
        return net
