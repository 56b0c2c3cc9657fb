"""Proteus: a foundation model's class token, features and masked patches (Zhang et al. 2025, arXiv:2407.10366)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import FeatureNet, Outputs
from distill.models.reading import evaluating


@full_precision
def squared(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over all entries."""
    return F.mse_loss(student, teacher)


@full_precision
def squared_where(student: Tensor, teacher: Tensor, masked: Tensor) -> Tensor:
    """The same of patches [B,N,D] where `masked` [B,N] is 1."""
    apart = (student - teacher).square().mean(2) * masked
    return apart.sum() / masked.sum()


def drawn_mask(images: int, patches: int, share: float, ratio: float, device: torch.device) -> Tensor:
    """1 [images,patches] for a share `ratio` of the patches, drawn one by one, of the first `share` of images; else 0.

    Both are rounded down, and are at least one.
    """
    order = torch.rand(images, patches, device=device).argsort(1).argsort(1)
    first = torch.arange(images, device=device)[:, None] < max(1, int(share * images))
    return ((order < max(1, int(ratio * patches))) & first).float()


class Proteus(Method):
    """ce CE + kd KLT + token x squared(class token) + feature x squared(class token and patches) + patch x squared
    (patches that the student did not see).

    A LayerNorm and a linear map lead from the student's width to the teacher's for each of the three. For the last one
    the student reads the images again, with a learned token in place of the masked patches.

    Raises ValueError for nets that are no ViTs of timm with a class token and equally many patches.
    """

    def __init__(
        self, *nets: *Nets, token: float, feature: float, patch: float, share: float, ratio: float, **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        if not (token or feature or patch):
            raise ValueError("method.token, method.feature and method.patch are 0, and nothing is learned: set one")
        if not (0 < share <= 1 and 0 < ratio <= 1):
            raise ValueError(f"method.share={share} and method.ratio={ratio} are shares above 0 and at most 1")
        self.token, self.feature, self.patch, self.share, self.ratio = token, feature, patch, share, ratio
        (width_s, many), (width_t, others) = _shape(self.student), _shape(self.teacher)
        if many != others:
            raise ValueError(
                f"proteus compares patches one by one, of which {self.student.name} has {many} and {self.teacher.name} "
                f"{others}: give one of them another size or patch_size, or take method=pseudo-label-queue"
            )
        self.heads = nn.ModuleDict({name: _head(width_s, width_t) for name in ("token", "feature", "patch")
                                    if getattr(self, name)})  # fmt: skip
        self._masked: Tensor | None = None
        if patch:
            self.mask_token = nn.Parameter(torch.zeros(width_s))
            self.student.model.patch_embed.register_forward_hook(self._cover)  # type: ignore[union-attr]

    def _cover(self, module: nn.Module, inputs: Any, patches: Tensor) -> Tensor | None:
        """Patches [B,N,D] (or [B,H,W,D]) with the learned token where they are masked."""
        if self._masked is None:
            return None
        masked = self._masked.view(*patches.shape[:-1], 1).to(patches.dtype)
        return patches + masked * (self.mask_token.to(patches.dtype) - patches)

    def _masked_patches(self, inputs: Tensor, masked: Tensor) -> Tensor:
        """The student's patches [B,N,D] of images of which it does not see those that are masked [B,N]."""
        self._masked = masked
        try:
            tokens = self.student.read(inputs).tokens
        finally:
            self._masked = None
        assert tokens is not None
        return tokens

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        (own, patches_s), (known, patches_t) = _tokens(student), _tokens(teacher)
        losses: Losses = {}
        if self.token:
            losses["token"] = self.token * squared(self.heads["token"](own), known)
        if self.feature:
            first = self.heads["token" if self.token else "feature"](own)  # the authors' code has one head for both
            made = torch.cat([first[:, None], self.heads["feature"](patches_s)], 1)
            losses["feature"] = self.feature * squared(made, torch.cat([known[:, None], patches_t], 1))
        if self.patch:
            images, patches = patches_t.shape[:2]
            masked = drawn_mask(images, patches, self.share, self.ratio, patches_t.device)
            seen = self.heads["patch"](self._masked_patches(batch.inputs, masked))
            losses["patch"] = self.patch * squared_where(seen, patches_t, masked)
        return losses


def _tokens(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """The class token [B,D] and the patches [B,N,D], behind the last norm."""
    assert outputs.class_tokens is not None and outputs.tokens is not None
    return outputs.class_tokens[:, 0], outputs.tokens


def _shape(net: FeatureNet) -> tuple[int, int]:
    """Width and number of patches. Raises ValueError for a net without a class token and patches."""
    with torch.no_grad(), evaluating(net):
        seen = net(net.probe())
    cls_token = getattr(net.model, "cls_token", None)  # registers alone are none
    if seen.tokens is None or cls_token is None or not hasattr(net.model, "patch_embed"):
        raise ValueError(f"proteus reads class token and patches, and {net.name} has not both: take a ViT of timm, or "
                         "method=pseudo-label-queue")  # fmt: skip
    return seen.tokens.shape[2], seen.tokens.shape[1]


def _head(width_s: int, width_t: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width_s), nn.Linear(width_s, width_t))
