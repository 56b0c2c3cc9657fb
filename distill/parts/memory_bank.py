"""What is remembered of each training image, from one time that it is seen to the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import distill.parallel as parallel


class MemoryBank(nn.Module):
    """Rows [N,...], one a training image, that are part of the state and the same in every process.

    Read it as `bank[index]`; what a batch changes goes through `write`, in `after_step`.
    """

    bank: Tensor  # [N,...]

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("bank", rows)

    def __len__(self) -> int:
        return len(self.bank)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.bank[index]

    @torch.no_grad()
    def write(self, index: Tensor, rows: Tensor) -> None:
        """Put a batch's rows [B,...] at `index` [B]; over several processes, each brings those of its part."""
        rows = rows.to(self.bank.dtype)
        self.bank[parallel.gathered(index)] = parallel.gathered(rows)
