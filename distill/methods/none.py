"""No distillation: the student alone, and how every teacher is trained."""

from __future__ import annotations

from distill.method import Method, Nets


class NoDistillation(Method):
    """Cross-entropy with the labels."""

    def __init__(self, *nets: *Nets, ce: float) -> None:
        student, _, data = nets
        super().__init__(student, (), data, ce=ce, kd=0.0, temperature=1.0)
