"""MixUp (Zhang et al., ICLR 2018, arXiv:1710.09412) of whole batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from distill.batch import Batch, Mixed
from distill.runtime import sent

STREAM = 0x31  # tells these generators' keys from those of crops and flips


def refuse_mixed(source: Any) -> None:
    """Raise ValueError where a source mixes its images, beside which a further view would show one of them alone."""
    if source.mixup:
        raise ValueError("a further view shows one image where the batch's is mixed of two: set schedule.mixup=0.")


def mix(batch: Batch, alpha: float, num_classes: int, generator: torch.Generator) -> Batch:
    """Mix each image with another of the batch: x = l x_i + (1 - l) x_j, and labels alike, which become `targets`.

    One l ~ Beta(alpha, alpha) a batch, of l and 1 - l the larger, so that `labels` are those of the greater
    share; all views are mixed alike. The generator is a function of (seed, epoch, step); timm's Mixup draws
    from NumPy's global state, which no checkpoint holds.
    """
    random = np.random.RandomState(int(torch.randint(2**31, (), generator=generator)))
    share = random.beta(alpha, alpha)
    share = max(share, 1 - share)
    other = sent(torch.randperm(len(batch.labels), generator=generator), batch.labels.device)
    classes = F.one_hot(batch.labels, num_classes).to(batch.inputs.dtype)
    targets = Mixed(
        probabilities=classes.lerp(classes[other], 1 - share),
        others=batch.labels[other],
        share=sent(torch.tensor(share, dtype=torch.float32), batch.labels.device),
    )
    inputs = batch.inputs.lerp(batch.inputs[other], 1 - share)
    views = {name: view.lerp(view[other], 1 - share) for name, view in batch.views.items()}
    return Batch(inputs, batch.labels, batch.index, views, targets)  # no longer one of finitely many crops
