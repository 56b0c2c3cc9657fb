"""ScaleKD (Fan, Li, Liu, Yao, NeurIPS 2024, arXiv:2411.06786): vision transformers as teachers of any student."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import FeatureNet, Outputs
from distill.models.reading import is_self_contained
from distill.parts.choice import check_choice
from distill.parts.heads import BatchNorm, Shape
from distill.parts.probing import probe_outputs

_HEAD_WIDTH = 64  # channels of a head where their number is not given


@full_precision
def direction_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the unit channel vectors of maps [B,C,H,W], summed over positions, mean over the batch."""
    maps_s, maps_t = (F.normalize(maps, dim=1) for maps in (student, teacher))
    return (maps_s - maps_t).square().sum() / len(student)


@full_precision
def alternating_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """`direction_distance` of maps [B,C,H,W] without their constant part.

    The authors take it out of the discrete cosine transform; what is left is the map less its mean over positions.
    """
    return direction_distance(*(maps - maps.mean((2, 3), keepdim=True) for maps in (student, teacher)))


class LayerNorm(nn.LayerNorm):
    """Over the channels of each position of maps [B,C,H,W]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


_NORMS = {"batch": BatchNorm, "layer": LayerNorm}


class AttentionProjector(nn.Module):
    """Cross-attention from the teacher's positions to the student's map.

    The student's map [B,Cs,H,W] passes a 3x3 convolution, a norm (batch or layer) and ReLU and gets a learned embedding
    of each position; the queries, [B,C,Ht,Wt] or learned, pass a linear map and ReLU. The result [B,C,Ht,Wt] has gone
    through a LayerNorm and a feed-forward block with a residual. sharpness: what the logits are multiplied by.
    """

    def __init__(
        self, student: Shape, teacher: Shape, heads: int, sharpness: float, *, queries: bool, norm: str = "batch"
    ) -> None:
        super().__init__()
        check_choice("student_norm", norm, _NORMS)
        (inputs, *size), (width, *grid) = student, teacher
        self.grid, self.heads, self.sharpness = tuple(grid), heads, sharpness
        self.student = nn.Sequential(nn.Conv2d(inputs, inputs, 3, padding=1), _NORMS[norm](inputs), nn.ReLU())
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, inputs, *size), std=0.02))
        self.queries = nn.Parameter(torch.randn(1, width, *grid)) if queries else None
        self.prepare = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(inputs, width), nn.Linear(inputs, width)
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.forward_block = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, student: Tensor, queries: Tensor | None = None) -> Tensor:
        asked = self.queries if queries is None else queries
        assert asked is not None
        keys = (self.student(student) + self.positions).flatten(2).mT
        q = self.q(self.prepare(asked.flatten(2).mT)).expand(len(student), -1, -1)
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, self.k(keys), self.v(keys)))
        scale = self.sharpness * q.shape[-1] ** -0.5
        seen = F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)
        normed = self.norm(self.out(seen))
        return (normed + self.forward_block(normed)).mT.unflatten(2, self.grid)


class ScaleKD(Method):
    """ce x CE + kd x soft targets + spatial x direction_distance + frequency x alternating_distance.

    The student's last map but one, projected to the teacher's, runs through the teacher's last stage (teacher parameter
    perception); what comes out is compared with what the teacher has there, and asks the questions by which the
    student's last map is projected. Either view, spatial and alternating, has projectors of its own.
    heads: of the attention for the last stage but one and the last; []: one for 64 channels.
    student_norm: of the student's maps in the projectors, "batch" or, as of a Swin-T, "layer".
    """

    def __init__(
        self, *nets: *Nets, spatial: Sequence[float], frequency: Sequence[float], heads: Sequence[int],
        sharpness: float, student_norm: str, **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        for name, values in (("spatial", spatial), ("frequency", frequency), ("heads", heads or (1, 1))):
            if len(values) != 2:
                raise ValueError(f"method.{name} is {list(values)}: give two, one for each of the last two stages.")
        self.spatial, self.frequency = tuple(spatial), tuple(frequency)
        if len(self.student.shapes) < 2:
            raise ValueError(f"scalekd reads two stages, and {self.student.name} has one: take method=kd-proj.")
        targets = last_shapes(self.teacher)
        counts = list(heads) or [_fitting(shape[0]) for shape in targets]
        if any(shape[0] % count for shape, count in zip(targets, counts, strict=True)):
            raise ValueError(f"method.heads is {counts}, and maps are {targets}: heads share the teacher's channels.")
        of_view = partial(self._projectors, targets, counts, sharpness, student_norm)
        self.views = nn.ModuleDict({view: of_view() for view in ("spat", "freq")})

    def _projectors(
        self, targets: Sequence[Shape], heads: Sequence[int], sharpness: float, norm: str
    ) -> nn.ModuleList:
        sources = self.student.shapes[-2:]
        return nn.ModuleList(
            AttentionProjector(source, target, count, sharpness, queries=first, norm=norm)
            for source, target, count, first in zip(sources, targets, heads, (True, False), strict=True)
        )

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        assert teacher.final is not None
        losses: Losses = {}
        for view, weights, distance in (
            ("spat", self.spatial, direction_distance),
            ("freq", self.frequency, alternating_distance),
        ):
            early, late = cast(nn.ModuleList, self.views[view])
            perceived = self.teacher.stage(len(self.teacher.shapes) - 1, early(student.features[-2]))
            projected = late(student.features[-1], perceived)
            pair = [distance(maps, teacher.final) for maps in (perceived, projected)]
            losses[view] = weights[0] * pair[0] + weights[1] * pair[1]
        return losses


def last_shapes(net: FeatureNet) -> tuple[Shape, Shape]:
    """Shapes of the map before a teacher's last stage and of what its head pools.

    Raises ValueError where the one does not lead to the other.
    """
    outputs = probe_outputs(net)
    if not is_self_contained(net, lambda: net.stage(len(net.shapes) - 1, outputs.features[-2]), outputs.final):
        raise ValueError(
            f"scalekd runs the last stage of the teacher on the student's maps, and that of {net.name} cannot be run "
            "alone: take a Swin transformer, a ConvNeXt or a ResNet, or method=ofa-kd."
        )
    assert outputs.final is not None
    before, after = outputs.features[-2].shape, outputs.final.shape
    return (before[1], before[2], before[3]), (after[1], after[2], after[3])


def _fitting(channels: int) -> int:
    """The number of heads nearest to one for 64 channels, and not above it, that shares them equally."""
    return next(count for count in range(max(channels // _HEAD_WIDTH, 1), 0, -1) if channels % count == 0)
