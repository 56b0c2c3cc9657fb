"""One-for-all distillation between unlike architectures (Hao et al., NeurIPS 2023, arXiv:2310.19444)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import FeatureNet, Outputs
from distill.parts.heads import stage

EXITS = 4


@full_precision
def ofa_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, eps: float, temperature: float = 1.0
) -> Tensor:
    """-(1/B) sum_i sum_c ((p_t + 1[c = y])^eps - 1[c = y]) log p_s (eq. 6): the label's class is enhanced
    with eps.

    logits [B,K] of both nets, labels [B]. eps = 1 is the cross-entropy with the teacher's soft targets.
    """
    target = F.one_hot(labels, logits.shape[1])
    enhanced = ((teacher_logits / temperature).softmax(1) + target) ** eps - target
    return -(enhanced * (logits / temperature).log_softmax(1)).sum(1).mean()


class SeparableConv(nn.Sequential):
    """Halves a map: depthwise 3x3 of stride 2, 1x1, BatchNorm, ReLU, and the same at stride 1 to `out`
    channels."""

    def __init__(self, channels: int, out: int) -> None:
        def half(outputs: int, stride: int) -> list[nn.Module]:
            return [
                nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
                nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            ]  # fmt: skip

        super().__init__(*half(channels, 2), *half(out, 1))


class PatchMerging(nn.Module):
    """Merges 2x2 neighbours of a token map: [B,C,H,W] -> [B,D,H/2,W/2] by LayerNorm and one linear layer."""

    def __init__(self, channels: int, out: int, activation: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = nn.Linear(4 * channels, out, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        merged = F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1)
        return self.activation(self.reduce(self.norm(merged))).permute(0, 3, 1, 2)


class TokenExit(nn.Module):
    """An exit for tokens (ViT, MLP, Swin): merging of patches, transformer blocks, classes.

    Classes are those of the class token where there is one, otherwise of the patches' mean.
    """

    def __init__(self, shape: Sequence[int], width: int, blocks: int, grid: int, num_classes: int) -> None:
        from timm.models.vision_transformer import Block  # imports timm, which takes seconds

        super().__init__()
        channels, side = shape[0], min(shape[1:])
        merges = 0
        while side // 2 >= grid and all(n % 2 ** (merges + 1) == 0 for n in shape[1:]):
            merges, side = merges + 1, side // 2
        ends = [nn.GELU() if i in (0, *range(merges - 1)) else nn.Identity() for i in range(merges)]
        inputs = [channels, *[width] * merges]
        self.merge = nn.Sequential(*(PatchMerging(inputs[i], width, ends[i]) for i in range(merges)))
        inner = width if merges else channels
        heads = next(n for n in (4, 2, 1) if inner % n == 0)
        self.blocks = nn.Sequential(*(Block(dim=inner, num_heads=heads) for _ in range(blocks)))
        self.classify = nn.Linear(inner, num_classes)

    def forward(self, x: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Patches [B,C,H,W] and tokens before them [B,P,C] -> logits [B,K]."""
        patches = self.merge(x).flatten(2).transpose(1, 2)
        if prefix is None:
            return self.classify(self.blocks(patches).mean(1))
        return self.classify(self.blocks(torch.cat([prefix, patches], dim=1))[:, 0])


def has_tokens(net: FeatureNet) -> bool:
    """Whether a net's stages are tokens: they do not shrink (ViT, MLP), or lie channels last in the net (Swin)."""
    alike = len(net.shapes) > 1 and len({shape[1:] for shape in net.shapes}) == 1
    return alike or getattr(net.model, "output_fmt", None) == "NHWC"


def map_exit(channels: int, width: int, halvings: int, num_classes: int) -> nn.Sequential:
    """An exit for stages that shrink: separable convolutions down to the last stage's size, pooling,
    classes."""
    widths = [channels * 2**i for i in range(halvings)] + [width]
    steps: list[nn.Module] = [SeparableConv(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    steps = steps or [nn.Conv2d(channels, width, 1)]
    return nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


def initialise(module: nn.Module) -> None:
    """The authors' initial weights: He for convolutions, a truncated normal of 0.02 for linear layers."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class OFAKD(Method):
    """Student stages leave through exits into logits, the one space that all architectures share; each exit
    and the student's own logits learn from the teacher's logits with the label's class enhanced (eq. 6-7).

    `ce`, `kd`, `weight` are the authors' weights of labels, own logits and exits; `eps` is one value for all.
    The kind of exit follows from the student: convolutions for maps, transformer blocks for tokens (stages that do
    not shrink, and Swin's). All of its stages leave, or the deepest four of one with more (MobileNetV2's first stage
    is left out); of a net with a convolution behind its last map that convolution's output leaves in place of it.
    `grid`, 7 in the authors' code, is an option.
    """

    def __init__(
        self, *nets: *Nets, weight: float, eps: float, stages: Sequence[int], grid: int, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self.weight, self.eps = weight, eps
        count = len(student.shapes)
        self.stages = list(stages) or list(range(max(count - EXITS, 0) + 1, count + 1))
        for number in self.stages:
            stage(student.shapes, number, student.name)
        self.exits = nn.ModuleList(self._exit(number, grid) for number in self.stages)
        self.exits.apply(initialise)

    def _exit(self, number: int, grid: int) -> nn.Module:
        student, later = self.student, len(self.student.shapes) - number
        shape, classes = student.shapes[number - 1], student.num_classes
        if has_tokens(student):
            return TokenExit(shape, student.embedding_dim, max(later, 1), grid, classes)
        width = max(student.embedding_dim, self.teacher.embedding_dim)
        return map_exit(shape[0] if later else student.embedding_dim, width, later, classes)

    def leave(self, outputs: Outputs) -> list[Tensor]:
        """The exits' logits [B,K]."""
        left, last = [], len(self.student.shapes)
        for leave, number in zip(self.exits, self.stages, strict=True):
            feature = outputs.features[number - 1]
            if isinstance(leave, TokenExit):
                left.append(leave(feature, outputs.prefixes and outputs.prefixes[number - 1]))
            elif number == last and feature.shape[1] != outputs.embedding.shape[1]:
                left.append(leave(outputs.embedding[:, :, None, None]))  # pooled already, which a 1x1 layer bears
            else:
                left.append(leave(feature))
        return left

    def enhanced(self, logits: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """The loss of one set of logits [B,K]; of a mixed image the label with the larger share is enhanced."""
        return ofa_loss(logits, teacher, batch.classes, self.eps, self.temperature)

    def loss(self, batch: Batch) -> Losses:
        student, teacher = self.student(batch.inputs), self.teach(batch)
        losses = self.supervised(student.logits, batch)
        if self.kd:
            losses["kd"] = self.kd * self.enhanced(student.logits, teacher.logits, batch)
        if self.weight:
            each = [self.enhanced(logits, teacher.logits, batch) for logits in self.leave(student)]
            losses["exits"] = self.weight * torch.stack(each).sum()
        return losses
