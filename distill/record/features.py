"""What a run measures of frozen features, in the loop and at its end: nearest neighbours and a linear probe."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from distill.config import EvaluateSpec
from distill.engine.evaluate import Evaluation
from distill.engine.fit import Fit
from distill.engine.neighbours import Labelled, knn_accuracy, probe_accuracy
from distill.models import FeatureNet
from distill.teachers.store import Teacher

log = logging.getLogger(__name__)
KNN = ("knn_accuracy", "best_knn_accuracy")  # in rows, in place of the test accuracy where there is no classifier


class Features:
    """Measures nets by their features, on the labelled images of a data set."""

    def __init__(self, spec: EvaluateSpec, labelled: Labelled) -> None:
        self.spec, self.labelled = spec, labelled

    def knn(self, net: nn.Module, side: str = "student", size: int | None = None) -> float:
        """Accuracy in percent by nearest neighbours."""
        return knn_accuracy(*self.labelled.of(net, side, size), self.spec.neighbours)

    def result(self, fit: Fit, teachers: Sequence[Teacher]) -> dict[str, Any]:
        """What result.json holds of them: {"knn": {"last", "best", "best_epoch"}, "linear_probe": percent, ...}."""
        net, found = fit.deployed(), dict[str, Any]()
        known, asked = self.labelled.of(net)
        if self.spec.knn:
            of_epochs = fit.score_names == KNN
            last = knn_accuracy(known, asked, self.spec.neighbours)
            found["knn"] = {
                "last": last,
                "best": fit.score.best if of_epochs else None,  # a classifier's best epoch is chosen by its accuracy
                "best_epoch": fit.score.best_epoch if of_epochs else None,
                "neighbours": self.spec.neighbours,
                "labels": self.labelled.source_of_labels,
            }
            found["teacher_knn"] = [self._of_teacher(teacher.net) for teacher in teachers] or None
        if self.spec.probe:
            found["linear_probe"] = probe_accuracy(known, asked)
        return found

    def _of_teacher(self, net: FeatureNet) -> float:
        return self.knn(net, "teacher", net.size if net.resizes else None)


def measure_features(fit: Fit, spec: EvaluateSpec, evaluation: Evaluation) -> Features | None:
    """Let a loop measure what its run asks for after each epoch; what is measured of features, if they are.

    A classifier is told by its accuracy, a net without one by nearest neighbours, and one without labels by nothing.
    """
    data = evaluation.data
    if data.info.num_classes:
        fit.evaluate = evaluation
    if not (spec.knn or spec.probe):
        return None
    if data.test is None:
        log.info("no image of %s has a label: nothing is measured, give some in val/<class>/", data.info.name)
        return None
    spec.check(None if data.references is None else len(data.references))
    features = Features(spec, Labelled(data, evaluation.autocast, spec.images))
    log.info("features are measured with the labels of %s", features.labelled.source_of_labels)
    if spec.knn and data.info.num_classes:
        fit.measure_more = lambda net: {KNN[0]: features.knn(net)}
    elif spec.knn:
        fit.evaluate, fit.score_names = features.knn, KNN
    return features
