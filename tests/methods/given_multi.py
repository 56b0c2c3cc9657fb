"""What the tests of methods of several teachers share."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def softmax(row: list[float], t: float = 1.0) -> list[float]:
    top = max(row)
    exps = [math.exp((value - top) / t) for value in row]
    return [value / sum(exps) for value in exps]


def logits(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
