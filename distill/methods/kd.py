"""Knowledge distillation with soft targets (Hinton, Vinyals, Dean 2015, arXiv:1503.02531)."""

from __future__ import annotations

from collections.abc import Sequence

from distill.data import DataInfo
from distill.method import Method
from distill.models import FeatureNet


class KD(Method):
    """ce x CE + kd x T^2 KL(p_t^T || p_s^T): both terms live in `Method`, whose `kd` is 0 elsewhere."""

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        ce: float = 0.1,
        kd: float = 0.9,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(student, teachers, data, ce=ce, kd=kd, temperature=temperature)
