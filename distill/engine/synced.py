"""BatchNorm over the whole batch where several processes work on it, each on its part.

On a GPU these are the kernels of torch's SyncBatchNorm; torch has none for a CPU, so that the same sums stand here. A
module keeps its place, its name and what it is an instance of: torch's conversion would put other modules in its place,
which methods that look for BatchNorms, exports and checkpoints would not know.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules._functions import SyncBatchNorm as OnGpu
from torch.nn.modules.batchnorm import _BatchNorm

import distill.parallel as parallel
from distill.method import Method
from distill.models.reading import counts_batches

log = logging.getLogger(__name__)


def _with_activation() -> tuple[type, ...]:
    """timm's BatchNorm with an activation; none where timm, whose import takes seconds, made no net."""
    module = sys.modules.get("timm.layers")
    return (module.BatchNormAct2d,) if module is not None else ()


def wanted(setting: str, compiling: str, method: type[Method]) -> bool:
    """Whether BatchNorms are to be synchronized: auto does where several processes work and nothing forbids it.

    setting, compiling: sync_batchnorm and compile, each auto, true or false. Raises ValueError where it is asked for
    and cannot be.
    """
    why = {
        "this run is one process, which sees whole batches": parallel.world() == 1,
        "nets with collectives in them are not compiled, and compile=true asks for it": compiling == "true",
        str(method.unsynced): method.unsynced is not None,
    }
    found = next((reason for reason, holds in why.items() if holds), None)
    if found and setting == "true":
        raise ValueError(f"sync_batchnorm=true cannot be had: {found}. Use sync_batchnorm=auto.")
    if found and parallel.world() > 1 and setting == "auto":
        log.info("BatchNorm takes its statistics from each process's part: %s", found)
    return not found and setting != "false"


def synchronizable_norms(method: Method) -> list[Any]:
    """All BatchNorms of a method and its teachers.

    Raises ValueError for one with a forward of its own, and for another layer that keeps statistics of batches (timm's
    EvoNorm-B), whose sums nobody knows; those of teachers that are asked in eval mode may be as they are.
    """
    known = [kind.forward for kind in (_BatchNorm, *_with_activation())]  # type: ignore[attr-defined]
    norms, frozen = list[Any](), getattr(method, "teacher_mode", "eval") == "eval"
    for net in (method, *method.teachers):
        for module in filter(counts_batches, net.modules()):
            if type(module).forward in known or getattr(module, "synchronizable", False):
                norms.append(module)
            elif net is method or not frozen:
                what = f"{type(module).__name__} has a forward of its own and cannot be synchronized"
                raise ValueError(f"{what}: use sync_batchnorm=false.")
    return norms


def synchronize(method: Method) -> None:
    """Have all BatchNorms of a method, and of teachers that it asks in train mode, see the whole batch.

    Raises ValueError as `synchronizable_norms` does.
    """
    norms = synchronizable_norms(method)
    for module in norms:
        kind: Any = type(module)
        module.__class__ = _synced(kind)
    if norms:
        log.info("BatchNorm takes its statistics from all %d processes", parallel.world())


@cache
def _synced(kind: Any) -> Any:
    """The class of modules of `kind`, which gives what follows the normalisation, that are synchronized."""
    if issubclass(kind, Synced):
        return kind
    return type(kind.__name__, (Synced, kind), {"__module__": kind.__module__})


class Synced(_BatchNorm):
    """What a BatchNorm does in train mode; in eval mode it is what it was."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        normed = self._over_all(input)
        norm_act: Any = self
        return norm_act.act(norm_act.drop(normed)) if isinstance(self, _with_activation()) else normed

    def _over_all(self, input: Tensor) -> Tensor:
        share = self.momentum
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if share is None else share
        kept = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        if input.device.type == "cuda":
            group = dist.group.WORLD
            given: Any = (input, self.weight, self.bias, *kept, self.eps, share or 0.0, group, parallel.world())
            return OnGpu.apply(*given)
        normed, mean, variance = _OnCpu.apply(input, self.weight, self.bias, self.eps)
        for statistic, value in zip(kept, (mean, variance), strict=True):
            if statistic is not None:
                statistic.lerp_(value.to(statistic.dtype), share or 0.0)
        return normed


class _OnCpu(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) x weight + bias over all parts of a batch; x [B,C,...], weight and bias [C] or None.

    Returns it with the mean [C] and the unbiased variance [C]. Parts may differ in size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        over = [0, *range(2, x.ndim)]
        variance, mean = torch.var_mean(wide, over, correction=0)
        count = mean.new_full((1,), wide.numel() / wide.shape[1])
        rows = _gathered(torch.cat([count, mean, variance]))
        counts, (means, variances) = rows[:, :1], rows[:, 1:].chunk(2, dim=1)
        total, shares = counts.sum(), counts / counts.sum()
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        shape = [1, -1, *[1] * (x.ndim - 2)]
        scale = (variance + eps).rsqrt()
        unit = (wide - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(unit, scale, weight, total)
        ctx.over, ctx.shape, ctx.dtype = over, shape, x.dtype
        out = unit if weight is None else unit * weight.view(shape)
        out = out if bias is None else out + bias.view(shape)
        unbiased = variance * total / (total - 1)
        ctx.mark_non_differentiable(mean, unbiased)
        return out.to(x.dtype), mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        unit, scale, weight, total = ctx.saved_tensors
        given = given.to(unit.dtype)
        plain, along = given.sum(ctx.over), (given * unit).sum(ctx.over)
        sums = torch.stack([plain, along])
        dist.all_reduce(sums)
        ours = (each.view(ctx.shape) for each in sums / total)
        factor = scale if weight is None else scale * weight
        inner = (given - next(ours) - unit * next(ours)) * factor.view(ctx.shape)
        of_weight, of_bias = (along, plain) if weight is not None else (None, None)
        return inner.to(ctx.dtype), of_weight, of_bias if ctx.needs_input_grad[2] else None, None


def _gathered(row: Tensor) -> Tensor:
    """A vector of every process, one below the other."""
    rows = [torch.empty_like(row) for _ in range(parallel.world())]
    dist.all_gather(rows, row)
    return torch.stack(rows)
