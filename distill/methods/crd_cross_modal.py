"""CRD across modalities (Tian, Krishnan, Isola, ICLR 2020, arXiv:1910.10699, section 4.2)."""

from __future__ import annotations

from typing import Any

from distill.batch import Batch
from distill.method import Losses, Nets, Phase, Update
from distill.methods.crd import CRD


class CRDCrossModal(CRD):
    """Contrast between the teacher's modality and the student's, then a classifier on the frozen student.

    Phase 1 is crd without cross-entropy or soft targets (`ce`, `kd` bring them in); its negatives are still
    drawn from other classes, as in crd. Phase 2, of `probe_epochs`, trains the student's last layer alone on
    labels, which is how the paper measures a transfer. Give dataset.views.teacher=L and
    dataset.views.student=ab for its setting.
    """

    def __init__(self, *nets: *Nets, probe_epochs: int, **common: Any) -> None:
        super().__init__(*nets, **common)
        self.probe_epochs = probe_epochs

    def probe_loss(self, batch: Batch) -> Losses:
        """Cross-entropy of the last layer; what is before it stays as it is, its statistics included."""
        return self.labels_alone(batch)

    def phases(self) -> list[Phase]:
        transfer = Phase("transfer", [Update("student", self.loss, [self])], evaluates=bool(self.ce or self.kd))
        probe = [Update("classifier", self.probe_loss, self.student.classifiers)]
        steady = {"decay": "cosine", "warmup_epochs": 0}
        return [transfer, Phase("probe", probe, self.probe_epochs, steady)] if self.probe_epochs else [transfer]
