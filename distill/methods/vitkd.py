"""ViTKD: features of vision transformers (Yang, Li, Zeng, Li, Yuan, Li 2022, arXiv:2209.02432)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import FeatureNet, Outputs
from distill.parts.probing import probe_outputs


@full_precision
def early_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of the first blocks' patch tokens [B,L,N,D], summed over all but the batch."""
    return (student - teacher).square().sum() / len(student)


@full_precision
def generation_loss(generated: Tensor, teacher: Tensor, masked: Tensor) -> Tensor:
    """Squared error of patch tokens [B,N,D] that were masked [B,N], summed over all but the batch."""
    return ((generated - teacher).square() * masked[:, :, None]).sum() / len(generated)


def random_mask(tokens: Tensor, ratio: float) -> Tensor:
    """1 for N - int(N (1 - ratio)) tokens of each image, drawn anew, and 0 for the rest: [B,N] of tokens [B,N,D]."""
    batch, count, _ = tokens.shape
    order = torch.rand(batch, count, device=tokens.device).argsort(dim=1).argsort(dim=1)
    return (order >= int(count * (1 - ratio))).float()


class ViTKD(Method):
    """CE + mimic x early_loss + generate / ratio x generation_loss.

    The student's first two blocks, brought to the teacher's width by a linear map each, mimic the teacher's.
    Of its last tokens, behind the norm, a share of `ratio` gives way to one learned token, and two 3x3 convolutions
    generate the teacher's from the rest. The maps are left out where the widths are equal.
    """

    def __init__(self, *nets: *Nets, mimic: float, generate: float, ratio: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        if not 0 < ratio < 1:
            raise ValueError(f"method.ratio is {ratio}: it is the share of tokens that are masked, between 0 and 1.")
        self.mimic, self.generate, self.ratio = mimic, generate, ratio
        tokens_s, tokens_t = (self._tokens(net) for net in (self.student, self.teacher))
        if tokens_s[:-1] != tokens_t[:-1]:
            raise ValueError(
                f"vitkd compares patches one by one, of which {self.student.name} has {tokens_s[1]} and "
                f"{self.teacher.name} {tokens_t[1]}: give both the same patch size, or take method=kd-proj."
            )
        self.grid = self.student.shapes[-1][1:]
        widths = tokens_s[-1], tokens_t[-1]
        self.early = nn.ModuleList(_align(*widths) for _ in range(2))
        self.late = _align(*widths)
        self.mask_token = nn.Parameter(torch.zeros(widths[1]))
        self.generator = nn.Sequential(
            nn.Conv2d(widths[1], widths[1], 3, padding=1), nn.ReLU(), nn.Conv2d(widths[1], widths[1], 3, padding=1)
        )

    @staticmethod
    def _tokens(net: FeatureNet) -> torch.Size:
        """The shape of a net's last tokens; ValueError for a net without."""
        outputs = probe_outputs(net)
        if outputs.tokens is None or outputs.early is None:
            raise ValueError(
                f"vitkd compares the patches of a vision transformer's blocks, and {net.name} has none: take two such "
                "nets, as student.model=deit_tiny_patch16_224, or another method, as method=ofa-kd."
            )
        return outputs.tokens.shape

    def generated(self, tokens: Tensor, masked: Tensor) -> Tensor:
        """The teacher's tokens [B,N,D] as they follow from the student's that are not masked [B,N]."""
        shown = torch.where(masked[:, :, None].bool(), self.mask_token, self.late(tokens))
        maps = shown.mT.unflatten(2, self.grid)
        return self.generator(maps).flatten(2).mT

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        assert student.early is not None and teacher.early is not None
        assert student.tokens is not None and teacher.tokens is not None
        aligned = [align(tokens) for align, tokens in zip(self.early, student.early, strict=True)]
        mimicked = early_loss(torch.stack(aligned, dim=1), torch.stack(teacher.early, dim=1))
        masked = random_mask(student.tokens, self.ratio)
        generated = generation_loss(self.generated(student.tokens, masked), teacher.tokens, masked)
        return {"mimic": self.mimic * mimicked, "generate": self.generate / self.ratio * generated}


def _align(inputs: int, outputs: int) -> nn.Module:
    return nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)
