"""Teacher-free self-training, Tf-KD_self (Yuan et al., CVPR 2020, arXiv:1909.11723)."""

from __future__ import annotations

from distill.method import Nets
from distill.parts.generations import Generations


class TfKDSelf(Generations):
    """The student's first, pre-trained self teaches a fresh copy: ce x CE + kd x T^2 KL(first || copy).

    The authors' alpha x multiplier weighs a KL that is averaged over classes too: divided by the 100 classes
    it is the weight here, 0.95 x 50 / 100.
    """

    def __init__(self, *nets: *Nets, ce: float, kd: float, temperature: float) -> None:
        super().__init__(*nets, ce=ce, kd=kd, temperature=temperature, generations=1)
