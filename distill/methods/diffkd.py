"""Knowledge diffusion (Huang, Zhang, Zheng, You, Wang, Qian, Xu, NeurIPS 2023, arXiv:2305.15712)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision, kd_loss, pool_to
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.diffusion import TIMES, Denoising
from distill.parts.heads import BatchNorm
from distill.parts.probing import probe_outputs


@full_precision
def refined_map_loss(refined: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of maps [B,C,H,W], the larger of which is pooled to the size of the other."""
    return F.mse_loss(*pool_to(refined, teacher))


def last_map(outputs: Outputs) -> Tensor:
    """The map that a net's head pools, or the last stage's where the head reads none."""
    return outputs.features[-1] if outputs.final is None else outputs.final


class DiffKD(Method):
    """CE + weight x MSE of last maps + logits_weight x soft targets + diffusion x noise losses + reconstruct x MSE.

    The student's features are taken for noisy versions of the teacher's: a diffusion model that learns the teacher's
    denoises them, and what is left is compared. One works on the last maps, in the space of an autoencoder with
    `latent` channels (0: half of the teacher's) that learns to reconstruct the teacher's map; one on the logits, with
    `temperature`. The teacher's side of each comparison gets no gradient.
    """

    def __init__(
        self, *nets: *Nets, weight: float, logits_weight: float, diffusion: float, reconstruct: float, steps: int,
        latent: int, **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        if not 1 <= steps <= TIMES // 2:
            raise ValueError(f"method.steps is {steps}: between 1 and {TIMES // 2} steps of denoising can be taken.")
        self.weight, self.logits_weight = weight, logits_weight
        self.diffusion, self.reconstruct = diffusion, reconstruct
        width_s, width_t = (last_map(probe_outputs(net)).shape[1] for net in (self.student, self.teacher))
        width = latent or max(width_t // 2, 1)
        self.encoder = nn.Sequential(nn.Conv2d(width_t, width, 1), BatchNorm(width))
        self.decoder = nn.Conv2d(width, width_t, 1)
        self.maps = Denoising(width_s, width, steps, spatial=True)
        classes = self.student.num_classes
        self.logits = Denoising(classes, classes, steps, spatial=False)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        shown = last_map(teacher)
        hidden = self.encoder(shown)
        target, denoised_logits = hidden.detach(), teacher.logits[:, :, None, None]
        refined, denoised = self.maps(last_map(student)), self.logits(student.logits[:, :, None, None]).flatten(1)
        return {
            "maps": self.weight * refined_map_loss(refined, target),
            "logits": self.logits_weight * kd_loss(denoised, teacher.logits, self.temperature),
            "diffusion": self.diffusion * (self.maps.learn(target) + self.logits.learn(denoised_logits)),
            "reconstruct": self.reconstruct * refined_map_loss(self.decoder(hidden), shown),
        }
