"""Reductions of maps and products of matrices that cost less than torch's, and differ from them by rounding alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


def rows(maps: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,H*W,C]: no copy in channels_last memory, in which the gradient comes back as well."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a [*,X,Y] @ b [*,Y,Z] in a's type, computed in b's, without gradients.

    fp32 matrices on the CPU go to oneDNN, which takes half of MKL's time on AMD. In a half type sums are fp32, and on
    the CPU they are rounded to that type before they take a's.
    """
    if a.dtype != b.dtype:
        return torch.mm(a.to(b.dtype), b, out_dtype=a.dtype) if a.is_cuda else (a.to(b.dtype) @ b).to(a.dtype)
    if a.dtype is torch.float32 and a.device.type == "cpu" and b.dim() == 2 and ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")
    return a @ b


class Gram(torch.autograd.Function):
    """x @ x.T of x [*,B,F]: [*,B,B]. The gradient takes one product, not two, and lies in memory as x does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return product(x, x.mT)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        both = outer + outer.mT
        return product(x.mT, both).mT if x.mT.is_contiguous() else product(both, x)


class MeanSquare(torch.autograd.Function):
    """Mean over the last dimension of x^2, in fp32 or wider: one pass over half-precision x, and no wider copy kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        return torch.linalg.vector_norm(x, dim=-1, dtype=wide).square_().div_(x.shape[-1])

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return (x * (outer * (2 / x.shape[-1]))[..., None]).to(x.dtype)
