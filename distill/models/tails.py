"""What leads from the last map of a net of timm to what its forward_head takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Tail = Callable[[Any, Tensor], Tensor]


def _as_is(model: Any, x: Tensor) -> Tensor:
    return x


def _normed(model: Any, x: Tensor) -> Tensor:
    return model.norm(x)


def _normed_nhwc(model: Any, x: Tensor) -> Tensor:
    return model.norm(x.permute(0, 2, 3, 1))


def _normed_tokens(model: Any, x: Tensor) -> Tensor:
    return model.norm(x.flatten(2).transpose(1, 2))


def _head_convolution(model: Any, x: Tensor) -> Tensor:
    return model.bn2(model.conv_head(x))


TAILS = (_as_is, _normed, _normed_nhwc, _normed_tokens, _head_convolution)


@contextmanager
def norms_apart(model: nn.Module) -> Iterator[None]:
    """Norms whose outputs are unlike their inputs: a fresh BatchNorm changes nothing in eval mode, and a fresh
    LayerNorm nothing behind another, so that the map before one would pass for the map behind it.
    """
    weights = ((module, getattr(module, "weight", None)) for module in model.modules())
    norms = [module for module, weight in weights if isinstance(weight, nn.Parameter) and weight.ndim == 1]
    kept = [(p, p.detach().clone()) for norm in norms for p in norm.parameters(recurse=False)]
    try:
        for p, _ in kept:
            p.add_(torch.linspace(-0.1, 0.1, p.numel(), dtype=p.dtype, device=p.device).view_as(p))
        yield
    finally:
        for p, value in kept:
            p.copy_(value)
