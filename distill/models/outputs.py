"""What a network shows to a method."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Outputs:
    """One forward pass of a FeatureNet.

    logits: [B, K], fp32; None of a net without a classifier. They are typed as if they were always there: a method
        whose `about.taps` name them, or whose ce or kd is not 0, is refused such a net before it is asked.
    features: a [B, C_l, H_l, W_l] a stage, shallow to deep; the stem is not among them. Empty for nets
        without maps (an MLP).
    embedding: [B, D], fp32, what enters the classifier.
    preacts: like features, before the last ReLU of each stage; None for nets whose stages do not end in one.
    stem: [B, C_0, H_0, W_0], or None for nets without a stem of their own.
    tokens: [B, N, D], a transformer's patch tokens behind its last norm, without class and distillation tokens.
    class_tokens: [B, P, D], what stands before them, behind the same norm: class, distillation and register tokens.
    prefixes: [B, P, D] a stage, a transformer's class token and others that stand before the patches.
    early: [B, N, D] each of a transformer's first two blocks, patch tokens alone; None for other nets.
    final: [B, D, H, W], what the head pools and classifies, see FeatureNet.head; None for nets whose head reads
        no map.
    heads: [B, K] each of the class head and the distillation head of nets with both, whose mean is `logits`.
    """

    logits: Tensor
    features: list[Tensor]
    embedding: Tensor
    preacts: list[Tensor] | None = None
    stem: Tensor | None = None
    tokens: Tensor | None = None
    prefixes: list[Tensor] | None = None
    heads: tuple[Tensor, Tensor] | None = None
    final: Tensor | None = None
    early: list[Tensor] | None = None
    class_tokens: Tensor | None = None
