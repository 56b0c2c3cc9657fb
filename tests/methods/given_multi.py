"""What the tests of methods of several teachers share."""

from __future__ import annotations

import torch
from torch import Tensor


def logits(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
