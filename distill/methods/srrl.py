"""Softmax regression representation learning (Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021, openreview
ZzwDy_wiWv)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.choice import check_choice
from distill.parts.heads import BatchNorm, he_by_fan_out
from distill.parts.probing import is_signed, linear_layer, probe_outputs

_FORMS = ("map", "pooled")


@full_precision
def feature_matching_loss(projected: Tensor, embedding: Tensor) -> Tensor:
    """Mean squared error of the projected student embedding and the teacher's, both [B,D] (L_FM)."""
    return F.mse_loss(projected, embedding)


@full_precision
def softmax_regression_loss(reclassified: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean squared error of the teacher classifier's logits on the student's projected embedding and on its
    own, both [B,K] (L_SR; of the losses the paper compares, the one it chose)."""
    return F.mse_loss(reclassified, teacher_logits)


class SRRL(Method):
    """CE + kd KLT + weight (L_FM + L_SR), L_SR through the teacher's frozen classifier.

    A 1x1 convolution, BatchNorm and ReLU bring the student to the teacher's embedding width. form="map", the
    authors': its last map, which is pooled afterwards; the convolution starts from N(0, sqrt(2 / C_t)).
    form="pooled", the code behind the CIFAR-100 rows of the SimKD tables: what enters its classifier. The ReLU is
    left out for teachers whose embedding has negative entries (ViT, ConvNeXt), which it could never match.
    `regression` is the weight of L_SR relative to L_FM, 1 in the authors' code.
    """

    def __init__(self, *nets: *Nets, weight: float, regression: float, form: str, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        check_choice("form", form, _FORMS)
        self.weight, self.regression, self.form = weight, regression, form
        linear_layer(self.teacher)
        width = self.teacher.embedding_dim
        conv = nn.Conv2d(student.channels[-1] if form == "map" else student.embedding_dim, width, 1, bias=False)
        if form == "map":
            he_by_fan_out(conv)
        relu = [] if is_signed(probe_outputs(self.teacher).embedding) else [nn.ReLU()]
        self.connector = nn.Sequential(conv, BatchNorm(width), *relu)

    def projected(self, student: Outputs) -> Tensor:
        """The student at the teacher's embedding width [B,D]."""
        source = student.features[-1] if self.form == "map" else student.embedding[:, :, None, None]
        return self.connector(source).mean((2, 3))

    def reclassify(self, projected: Tensor) -> Tensor:
        """Embeddings [B,D] -> logits [B,K] by the teacher's classifier, be it linear or a 1x1 convolution."""
        layer = linear_layer(self.teacher)
        return F.linear(projected, layer.weight.flatten(1), layer.bias)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        projected = self.projected(student)
        losses = {"match": self.weight * feature_matching_loss(projected, teacher.embedding)}
        if self.regression:
            scale = self.weight * self.regression
            losses["regress"] = scale * softmax_regression_loss(self.reclassify(projected), teacher.logits)
        return losses
