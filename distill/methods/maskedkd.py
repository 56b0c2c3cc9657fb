"""MaskedKD: the student's attention says which patches its teacher sees (Son et al., ECCV 2024, arXiv:2302.10494)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import FeatureNet
from distill.models.tap import Tap


class Keep(nn.Module):
    """Stands where a ViT of timm drops patches: the tokens before the patches stay, and of these [B,N] those chosen."""

    def __init__(self, prefix: int, chosen: Tensor) -> None:
        super().__init__()
        self.prefix, self.chosen = prefix, chosen  # [B,k] positions among the patches

    def forward(self, tokens: Tensor) -> Tensor:
        """[B,P+N,D] to [B,P+k,D], with the positions' embeddings already added."""
        patches = tokens[:, self.prefix :]
        kept = patches.gather(1, self.chosen[:, :, None].expand(-1, -1, patches.shape[2]))
        return torch.cat([tokens[:, : self.prefix], kept], dim=1)


@full_precision
def class_attention(queries: Tensor, keys: Tensor, scale: float, prefix: int) -> Tensor:
    """How much the class token attends to each patch, mean over heads: queries and keys [B,heads,P+N,d] to [B,N]."""
    return (queries[:, :, :1] @ keys.mT * scale).softmax(-1).mean(1)[:, 0, prefix:]


class MaskedKD(Method):
    """ce x CE + kd x T^2 KL, of a teacher that sees the share `keep` of the patches.

    Those are the patches to which the class token of the student's last block attends most, of the same forward pass,
    without gradient. The teacher, a ViT of timm as the student is, adds the positions first, so that each patch keeps
    its own. Student and teacher cut an image into as many patches.

    Raises ValueError for nets that are no such ViTs, and for a share that keeps no patch.
    """

    def __init__(self, *nets: *Nets, keep: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        many, few = _patches(self.teacher), _patches(self.student)
        if self.student.model.cls_token is None:
            raise ValueError(
                f"maskedkd asks the student's class token, and {self.student.name} has none: take such a student, as "
                "student.model=deit_tiny_patch16_224, or another method, as method=kd"
            )
        if many != few:
            name_t, name_s = self.teacher.name, self.student.name
            raise ValueError(
                f"maskedkd shows the teacher the student's patches: {name_t} has {many}, and {name_s} {few}: take nets "
                "of one patch size, or another method, as method=kd"
            )
        self.kept = int(keep * few)
        if not 0 < self.kept <= few:
            raise ValueError(f"method.keep={keep} keeps no patch of {few}: raise it, up to 1")
        self.tap = Tap()
        self._attention.register_forward_pre_hook(self.tap)

    @property
    def _attention(self) -> Any:
        model: Any = self.student.model
        return model.blocks[-1].attn

    def chosen(self, tokens: Tensor) -> Tensor:
        """Positions [B,k] of the patches that the class token attends to most; tokens [B,P+N,D] enter the attention."""
        block, model = self._attention, self.student.model
        shape = (*tokens.shape[:2], 3, block.num_heads, block.head_dim)
        queries, keys, _ = block.qkv(tokens).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        prefix: Any = model.num_prefix_tokens
        attention = class_attention(block.q_norm(queries), block.k_norm(keys), block.scale, prefix)
        return attention.topk(self.kept, dim=1).indices

    def loss(self, batch: Batch) -> Losses:
        """All losses of a batch; the teacher's forward pass is of the kept patches alone."""
        self.tap.arm()
        student = self.student.read(batch.inputs)  # not compiled: it is looked into
        tokens = self.tap.take()
        assert tokens is not None
        losses = self.supervised(student.logits, batch)
        with torch.no_grad():
            teacher = masked_logits(self.teacher, batch.views.get("teacher", batch.inputs), self.chosen(tokens))
        if self.kd:
            losses["kd"] = self.kd * self.soft_targets(student.logits, teacher)
        return losses


def masked_logits(net: FeatureNet, images: Tensor, chosen: Tensor) -> Tensor:
    """Logits [B,K] of a ViT that sees of images [B,C,H,W] the patches `chosen` [B,k] alone."""
    model: Any = net.model
    with _keeping(model, Keep(model.num_prefix_tokens, chosen)):
        logits: Tensor = model(net.renormalised(images))
    return logits.float()


@contextmanager
def _keeping(model: Any, keep: Keep) -> Iterator[None]:
    """A block in which a ViT sees some patches; others ask the same teacher in between."""
    before = model.patch_drop
    model.patch_drop = keep
    try:
        yield
    finally:
        model.patch_drop = before


def _patches(net: FeatureNet) -> int:
    """How many patches a ViT of timm makes of an image. Raises ValueError for another net: rotated positions (EVA,
    DINOv3) are no part of `class_attention`.
    """
    from timm.layers import Attention  # imports timm, which takes seconds
    from timm.models.vision_transformer import VisionTransformer

    model: Any = net.model
    plain = isinstance(model, VisionTransformer) and type(model.blocks[-1].attn) is Attention
    if not plain or not model.num_prefix_tokens:
        raise ValueError(
            f"maskedkd reads the attention of a plain vision transformer with a class token, and {net.name} is none: "
            "take two such nets, as student.model=deit_tiny_patch16_224, or another method, as method=kd"
        )
    return int(model.patch_embed.num_patches)
