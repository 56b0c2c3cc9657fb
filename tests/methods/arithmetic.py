"""Softmaxes and divergences in numpy's double precision, written as the formulas are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def logits(seed: int, rows: int = 5, classes: int = 6) -> Tensor:
    """Return random logits [rows, classes] in double precision, twice as far apart as a normal draw's."""
    return 2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return exp(z / T) over its sum, along the last axis."""
    weights = np.exp(z / temperature)
    return weights / weights.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return sum p log(p / q) along the last axis."""
    return (p * np.log(p / q)).sum(-1)
