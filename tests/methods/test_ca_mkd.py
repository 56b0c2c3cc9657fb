"""ca-mkd: Confidence-Aware Multi-Teacher Knowledge Distillation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distill.engine.update import train_mode
from distill.methods.ca_mkd import Resized, confidence, pointwise_regressor, weighted
from tests import tiny
from tests.methods.given_multi import logits
from tests.slow import softmax


def test_confidence_by_hand() -> None:
    teachers, labels = list(logits(3, 4, 5, seed=3)), torch.tensor([0, 4, 2, 2])
    weights = confidence(teachers, labels)
    for i, label in enumerate(labels.tolist()):
        errors = [-math.log(softmax(each[i].tolist())[label]) for each in teachers]
        shares = softmax(errors)
        assert weights[:, i].tolist() == pytest.approx([(1 - share) / 2 for share in shares], rel=1e-6)
        assert weights[:, i].argmax() == int(np.argmin(errors))
    assert torch.allclose(weights.sum(0), torch.ones(4, dtype=torch.float64))


def test_ca_mkd_divides_by_the_number_of_teachers_once_more() -> None:
    assert weighted(torch.full((3, 4), 1 / 3), torch.ones(3, 4)).item() == pytest.approx(1 / 3)


def test_ca_mkd_resizes_a_map_before_it_is_regressed() -> None:
    small = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert Resized(4, 4)(small)[0, 0, 0].tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])  # bilinear
    assert Resized(1, 1)(small).item() == pytest.approx(1.5)
    assert pointwise_regressor((3, 2, 2), (5, 4, 4))(torch.randn(2, 3, 2, 2)).shape == (2, 5, 4, 4)


def test_ca_mkd_weighs_maps_through_the_teachers_classifier_from_epoch_two() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("ca-mkd", data, ("cifar_resnet14", "cifar_resnet8"))
    train_mode(method, method.phases()[0])
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    assert method.loss(batch)["maps"].item() == 0
    method.epoch = 2
    student, teachers = method.student(batch.inputs), method.teach_all(batch)
    slow = 0.0
    regressed = [head(student.features[-1]) for head in method.regressors]
    for i, label in enumerate(batch.labels.tolist()):
        errors = [
            -math.log(softmax(net.classify(mine)[i].tolist())[label])
            for net, mine in zip(method.teachers, regressed, strict=True)
        ]
        for m, share in enumerate(softmax(errors)):
            apart = (regressed[m][i] - teachers[m].features[-1][i]).square().mean().item()
            slow += (1 - share) / 2 * apart / (3 * len(batch.labels))
    assert method.maps(student, teachers, batch.labels).item() == pytest.approx(slow, rel=1e-3)
