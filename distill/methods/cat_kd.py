"""Class attention transfer (Guo, Yan, Li, Lin, CVPR 2023, arXiv:2304.12777)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import FeatureNet, Outputs
from distill.models.reading import evaluating, frozen_statistics, without_tf32
from distill.parts.probing import linear_layer, probe_outputs


@full_precision
def cat_loss(student: Tensor, teacher: Tensor, size: int, normalize: bool = True) -> Tensor:
    """Mean squared error of class activation maps [B,K,H,W], pooled to size x size and, map by map, scaled to
    unit length (eq. 5-6). The two nets' H and W may differ."""
    student, teacher = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
    if normalize:
        student, teacher = unit_maps(student), unit_maps(teacher)
    return F.mse_loss(student, teacher)


def unit_maps(maps: Tensor) -> Tensor:
    """[B,K,H,W], each of the B x K maps divided by its length, or by 1e-12 where that is more."""
    return F.normalize(maps.flatten(2), dim=2).view(maps.shape)


def weight_cams(net: FeatureNet, feature: Tensor) -> Tensor:
    """The classifier's weight [K,C] as a 1x1 convolution over a map [B,C,H,W] -> [B,K,H,W] (eq. 1)."""
    return F.conv2d(feature, linear_layer(net).weight.flatten(1)[:, :, None, None])


def pointwise_cams(net: FeatureNet, feature: Tensor) -> Tensor:
    """As weight_cams, with what the net has between its last stage and the pooling (BatchNorm and ReLU of a
    WRN, the last convolution of a MobileNet): every position is classified as if it were the whole map,
    without the bias."""
    b, c, h, w = feature.shape
    with frozen_statistics(net):
        scores = net.classify(feature.permute(0, 2, 3, 1).reshape(-1, c, 1, 1))
    bias = linear_layer(net).bias
    return (scores if bias is None else scores - bias).view(b, h, w, -1).permute(0, 3, 1, 2)


def without_bias(net: FeatureNet) -> None:
    """Fix the classifier's bias at zero, so that the logits are the class activation maps' means and no more."""
    bias = linear_layer(net).bias
    if bias is not None:
        nn.init.zeros_(bias)
        bias.requires_grad_(False)


def as_a_convolution_starts(net: FeatureNet) -> None:
    """Draw the classifier's weight [K,C] from N(0, sqrt(2 / K)), as the authors' 1x1 convolution is.

    Their vgg and ShuffleNets, and MobileNetV1 on ImageNet, leave it to torch's default, uniform within 1 / sqrt(C).
    """
    weight = linear_layer(net).weight
    if any(family in net.name for family in ("vgg", "Shuffle", "mobilenetv1")):
        nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
    else:
        nn.init.normal_(weight, std=(2 / len(weight)) ** 0.5)


class CATKD(Method):
    """CE + weight L_CAT: the student's class activation maps become the teacher's. `ce=0` is the paper's CAT.

    The maps come from the nets as they are: the authors' nets have the classifier as a 1x1 convolution
    without bias before the pooling, so that others' checkpoints must be converted. Their student therefore has no
    bias, and ours loses it (it stays at zero) unless `bias` says otherwise, and starts as their convolution does,
    unless the student begins with weights of its own. Where the logits are not
    the mean over positions (ViT's class token, ConvNeXt's norm after pooling) the classifier's weight is laid
    on the last map.
    """

    def __init__(self, *nets: *Nets, weight: float, size: int, normalize: bool, bias: bool, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if not bias:
            without_bias(student)
            if not student.begun:
                as_a_convolution_starts(student)
        self.weight, self.size, self.normalize = weight, size, normalize
        for net in (student, self.teacher):
            if min(net.shapes[-1][1:]) < size:
                raise ValueError(
                    f"cat-kd pools class activation maps to {size}x{size}, but the last map of {net.name} is "
                    f"{net.shapes[-1]}: lower method.size, or take method=srrl."
                )
        self._student_pointwise, self._teacher_pointwise = (
            self._is_pointwise(net) for net in (student, self.teacher)
        )

    def _is_pointwise(self, net: FeatureNet) -> bool:
        """Whether the logits are the mean over positions; ValueError where there are no class activation maps
        at all."""
        seen, bias = probe_outputs(net), linear_layer(net).bias
        try:
            with torch.no_grad(), evaluating(net), without_tf32():
                means = pointwise_cams(net, seen.features[-1]).mean((2, 3))
                logits = means if bias is None else means + bias
            if torch.allclose(logits, seen.logits, rtol=1e-3, atol=1e-4):
                return True
        except (ValueError, RuntimeError):
            pass  # a classifier that does not read the map alone
        if net.channels[-1] != net.embedding_dim:
            raise ValueError(
                f"cat-kd finds no class activation maps in {net.name}: its last map {net.shapes[-1]} and its "
                f"classifier's input of {net.embedding_dim} do not fit, so take method=srrl."
            )
        return False

    def cams(self, net: FeatureNet, feature: Tensor, pointwise: bool) -> Tensor:
        """Last map [B,C,H,W] -> class activation maps [B,K,H,W]."""
        return (pointwise_cams if pointwise else weight_cams)(net, feature)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        cams_s = self.cams(self.student, student.features[-1], self._student_pointwise)
        with torch.no_grad():
            cams_t = self.cams(self.teacher, teacher.features[-1], self._teacher_pointwise)
        return {"cat": self.weight * cat_loss(cams_s, cams_t, self.size, self.normalize)}
