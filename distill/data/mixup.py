"""MixUp (Zhang et al., ICLR 2018, arXiv:1710.09412) and CutMix (Yun et al., ICCV 2019, arXiv:1905.04899) of batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch, Mixed
from distill.runtime import sent

STREAM = 0x31  # tells these generators' keys from those of crops and flips
_Box = tuple[float, float, float, float]  # top, bottom, left, right as shares of the sides


def refuse_mixed(source: Any) -> None:
    """Raise ValueError where a source mixes its images, beside which a further view would show one of them alone."""
    for key in ("mixup", "cutmix"):
        if getattr(source, key):
            why = "a further view shows one image where the batch's is mixed of two"
            raise ValueError(f"{why}: set schedule.{key}=0.")


def mix(batch: Batch, alpha: float, num_classes: int, generator: torch.Generator, cutmix: float = 0.0) -> Batch:
    """Mix each image with another of the batch: x = l x_i + (1 - l) x_j, and labels alike, which become `targets`.

    One l ~ Beta(alpha, alpha) a batch, of l and 1 - l the larger, so that `labels` are those of the greater
    share; all views are mixed alike. The generator is a function of (seed, epoch, step); timm's Mixup draws
    from NumPy's global state, which no checkpoint holds. Images without labels are mixed, and have no
    targets.

    cutmix: alpha of CutMix, which puts a box of x_j into x_i; of a batch one of both is done, each as often as the
    other, where both alphas are above 0 (timm's and DeiT's switch_prob of 0.5).
    """
    random = np.random.RandomState(int(torch.randint(2**31, (), generator=generator)))
    if cutmix and (not alpha or random.rand() < 0.5):
        return _cut(batch, cutmix, num_classes, random, generator)
    share = random.beta(alpha, alpha)
    share = max(share, 1 - share)
    other = sent(torch.randperm(len(batch), generator=generator), batch.inputs.device)
    return _mixed(batch, other, share, num_classes, lambda first, second: first.lerp(second, 1 - share))


def _cut(batch: Batch, alpha: float, num_classes: int, random: Any, generator: torch.Generator) -> Batch:
    """CutMix as timm's Mixup does it: the share is that of the pixels, where the box is cut off at the border."""
    height, width = batch.inputs.shape[-2:]
    top, bottom, left, right = cutmix_box(height, width, random.beta(alpha, alpha), random)
    share = 1 - (bottom - top) * (right - left) / (height * width)
    other = sent(torch.randperm(len(batch), generator=generator), batch.inputs.device)
    box = top / height, bottom / height, left / width, right / width
    return _mixed(batch, other, share, num_classes, lambda first, second: _pasted(first, second, box))


def cutmix_box(height: int, width: int, share: float, random: Any) -> tuple[int, int, int, int]:
    """Rows and columns (first, end, first, end) of CutMix's box about a pixel drawn anywhere, which leaves `share` of
    an image where it lies within: timm's. Its earlier versions, and the authors' code, cut a pixel off odd sides.
    """
    sides = [int(side * math.sqrt(1 - share)) for side in (height, width)]
    centres = [random.randint(0, side) for side in (height, width)]
    ends = [(max(at - cut // 2, 0), min(at + (cut + 1) // 2, side))
            for at, cut, side in zip(centres, sides, (height, width), strict=True)]  # fmt: skip
    return *ends[0], *ends[1]


def _pasted(images: Tensor, others: Tensor, box: _Box) -> Tensor:
    """Images [B,C,H,W] with the box of the others, in the same place of views of any size."""
    height, width = images.shape[-2:]
    rows, columns = (slice(round(side * box[k]), round(side * box[k + 1])) for k, side in ((0, height), (2, width)))
    made = images.clone()
    made[..., rows, columns] = others[..., rows, columns]
    return made


def _mixed(
    batch: Batch, other: Tensor, share: float, num_classes: int, blend: Callable[[Tensor, Tensor], Tensor]
) -> Batch:
    """The batch blended with its images `other` [B], which have 1 - share of each; named by whichever has more."""
    inputs = blend(batch.inputs, batch.inputs[other])
    views = {name: blend(view, view[other]) for name, view in batch.views.items()}
    if batch.labels is None:
        return Batch(inputs, None, batch.index if share >= 0.5 else batch.index[other], views)
    labels, others, index = batch.labels, batch.labels[other], batch.index
    if share < 0.5:
        labels, others, index, share = others, labels, index[other], 1 - share
    classes, further = (F.one_hot(each, num_classes).to(batch.inputs.dtype) for each in (labels, others))
    targets = Mixed(
        probabilities=classes.lerp(further, 1 - share),
        others=others,
        share=sent(torch.tensor(share, dtype=torch.float32), labels.device),
    )
    return Batch(inputs, labels, index, views, targets)  # no longer one of finitely many crops
