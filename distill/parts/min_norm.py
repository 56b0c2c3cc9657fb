"""The shortest vector among capped convex combinations of a few gradients, exactly and on the device."""

from __future__ import annotations

from itertools import combinations
from math import comb

import torch
from torch import Tensor, nn

_LARGEST = 20000  # candidates that are solved at once


class MinNorm(nn.Module):
    """argmin_a a' G a over sum_m a_m = 1, 0 <= a_m <= cap, for a Gram matrix G [M,M] of M gradients.

    This is the dual of the one-class SVM with a linear kernel and nu = 1 / (cap M). M is small, so every set of
    variables that may lie strictly between the bounds is tried: the problem is convex, so the best feasible
    stationary point is the optimum. All candidates are solved in one batch, and nothing waits for the device.

    Raises ValueError when there are too many teachers for that. A cap below 1/M leaves only equal weights.
    """

    free: Tensor  # [S,M] bool, the variables between the bounds in each candidate
    fixed: Tensor  # [S,M] float64, where the others lie

    def __init__(self, count: int, cap: float) -> None:
        super().__init__()
        self.cap = min(1.0, max(cap, 1 / count))
        fulls = [
            full for full in range(count) if full == 0 or full * self.cap < 1 - 1e-9
        ]  # how many may be at the cap
        candidates = sum(comb(count, full) * (2 ** (count - full) - 1) for full in fulls)
        if candidates > _LARGEST:
            raise ValueError(
                f"aekd solves for {candidates} sets of its {count} teachers a step: name fewer, raise method.cap, "
                "or take method=avg-multi-teacher."
            )
        free, fixed = self._candidates(count, fulls)
        self.register_buffer("free", torch.tensor(free), persistent=False)
        self.register_buffer("fixed", torch.tensor(fixed, dtype=torch.float64), persistent=False)

    def _candidates(self, count: int, fulls: list[int]) -> tuple[list[list[bool]], list[list[float]]]:
        """Each set of free variables with each set at the cap that leaves something for the free ones."""
        everyone = range(count)
        free, fixed = [], []
        for full in fulls:
            for at_cap in combinations(everyone, full):
                rest = [m for m in everyone if m not in at_cap]
                for size in range(1, len(rest) + 1):
                    for chosen in combinations(rest, size):
                        free.append([m in chosen for m in everyone])
                        fixed.append([self.cap if m in at_cap else 0.0 for m in everyone])
        return free, fixed

    @torch.no_grad()
    def forward(self, gram: Tensor) -> Tensor:
        """Return the weights [M] of a Gram matrix [M,M]; among equally short vectors the least extreme weights."""
        count = len(gram)
        gram = gram.double()
        gram = gram / gram.diagonal().mean().clamp_min(1e-300)
        gram = gram + 1e-10 * torch.eye(count, dtype=gram.dtype, device=gram.device)
        free = self.free.double()
        system = gram.new_zeros(len(free), count + 1, count + 1)
        eye = torch.eye(count, dtype=gram.dtype, device=gram.device)
        system[:, :count, :count] = free[:, :, None] * gram + (1 - free)[:, :, None] * eye
        system[:, :count, count] = free
        system[:, count, :count] = 1.0
        right = torch.cat([self.fixed, self.fixed.new_ones(len(free), 1)], dim=1)
        solved = torch.linalg.solve_ex(system, right)[0][:, :count]
        feasible = ((solved >= -1e-9) & (solved <= self.cap + 1e-9)).all(1)
        length = torch.einsum("si,ij,sj->s", solved, gram, solved)
        best = torch.where(feasible & length.isfinite(), length, torch.inf).argmin()
        weights = solved.index_select(0, best[None])[0].clamp(0, self.cap)
        return weights / weights.sum()
