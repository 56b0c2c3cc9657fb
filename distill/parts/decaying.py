"""A loss whose weight falls to nothing along a cosine in the last part of training."""

from __future__ import annotations

import math
from typing import Any

from distill.method import Method, Nets


class Decaying(Method):
    """A method whose own losses have their whole weight in the first `decay_from` of the epochs, a share from 0 to 1,
    and then w (1 + cos(pi x)) / 2, where x rises to 1 with the last epoch.
    """

    def __init__(self, *nets: *Nets, decay_from: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        if not 0 <= decay_from <= 1:
            raise ValueError(f"method.decay_from is {decay_from}: it is a share of the epochs, from 0 to 1.")
        self.decay_from = decay_from

    def strength(self) -> float:
        """Return the share of the weight that this epoch (1-based) has."""
        start = self.decay_from * self.epochs
        if self.epoch <= start:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (self.epoch - start) / (self.epochs - start)))
