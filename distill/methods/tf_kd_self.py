"""Teacher-free self-training, Tf-KD_self (Yuan et al., CVPR 2020, arXiv:1909.11723)."""

from __future__ import annotations

from collections.abc import Sequence

from distill.data import DataInfo
from distill.models import FeatureNet
from distill.parts.generations import Generations


class TfKDSelf(Generations):
    """The student's first, pre-trained self teaches a fresh copy: ce x CE + kd x T^2 KL(first || copy).

    The authors' alpha x multiplier weighs a KL that is averaged over classes too: divided by the 100 classes
    it is the weight here, 0.95 x 50 / 100.
    """

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        ce: float = 0.05,
        kd: float = 0.475,
        temperature: float = 6.0,
    ) -> None:
        super().__init__(student, teachers, data, ce=ce, kd=kd, temperature=temperature, generations=1)
