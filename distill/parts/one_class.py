"""The one-class SVM as libsvm solves it, which stops early on small gradients, on the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST = 1e-12  # libsvm's TAU, in place of a curvature that is not positive


class OneClassSVM(nn.Module):
    """Weights [M] for a Gram matrix [M,M], as scikit-learn's OneClassSVM(kernel="precomputed", nu=1/(cap M)) has them.

    libsvm starts from (cap, cap, ..., what is left, 0, ...) and moves weight between two variables at a time, chosen
    by second-order information (Fan, Chen, Lin, JMLR 2005, section 3), until no exchange promises a slope of more
    than `tolerance`. The tolerance is absolute: where the whole matrix is smaller, it stops where it starts.

    exchanges: how many are computed, each changing nothing once libsvm has stopped; 27 were the most that up to
    eight teachers took in simulated draws.
    """

    start: Tensor  # [M] float64, the variables before the first exchange: 1 where a weight is `cap`

    def __init__(self, count: int, cap: float, tolerance: float = 1e-6, exchanges: int = 32) -> None:
        super().__init__()
        self.tolerance, self.exchanges = tolerance, exchanges
        total = min(max(1 / (cap * count), 1 / count), 1.0) * count
        self.first = [min(max(total - m, 0.0), 1.0) for m in range(count)]
        self.register_buffer("start", torch.tensor(self.first, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def forward(self, gram: Tensor) -> Tensor:
        kernel = gram.float().double()  # libsvm keeps single precision
        share, slope = self.start, torch.zeros_like(self.start)
        for value, row in zip(self.first, kernel.unbind(), strict=True):
            slope = slope + value * row
        for _ in range(self.exchanges):
            share, slope = self._exchange(kernel, share, slope)
        return share / share.sum()

    def _exchange(self, kernel: Tensor, share: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Move weight to the variable of the least slope from the one where that gains most.

        In libsvm's order of operations: an exchange leaves two slopes equal but for rounding, which then decides.
        """
        takes = _last(torch.where(share < 1, -slope, -torch.inf))
        column, least = (kernel * takes[:, None]).sum(0), (slope * takes).sum()
        gap = torch.where(share > 0, slope - least, 0).clamp_min(0)
        own = kernel.diagonal()
        curvature = ((own * takes).sum() + own - 2 * column).clamp_min(SMALLEST)
        gives = _last(gap.square() / curvature)
        goes_on = gap.max() >= self.tolerance
        step = (gap / curvature * gives).sum()
        old = (share * takes).sum(), (share * gives).sum()
        new = exchanged(*old, step)
        change = [torch.where(goes_on, after - before, 0) for before, after in zip(old, new, strict=True)]
        share = torch.where(goes_on, torch.where(takes, new[0], torch.where(gives, new[1], share)), share)
        return share, slope + (column * change[0] + (kernel * gives[:, None]).sum(0) * change[1])


def _last(values: Tensor) -> Tensor:
    """Where the largest of values [M] is, of equal ones the last, as a mask [M]."""
    places = torch.arange(len(values), device=values.device)
    return places == torch.where(values == values.max(), places, -1).max()


def exchanged(taker: Tensor, giver: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Two variables between 0 and 1 after `step` has gone from the giver to the taker, as far as there is room."""
    total = taker + giver
    over, under = (total > 1) & (taker + step > 1), (total <= 1) & (giver - step < 0)
    taker = torch.where(over, 1, torch.where(under, total, taker + step))
    return taker, torch.where(over, total - 1, torch.where(under, 0, giver - step))
