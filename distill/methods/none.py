"""No distillation: the student alone, and how every teacher is trained."""

from __future__ import annotations

from collections.abc import Sequence

from distill.data import DataInfo
from distill.method import Method
from distill.models import FeatureNet


class NoDistillation(Method):
    """Cross-entropy with the labels."""

    def __init__(self, student: FeatureNet, teachers: Sequence[FeatureNet], data: DataInfo, *, ce: float = 1.0) -> None:
        super().__init__(student, (), data, ce=ce)
