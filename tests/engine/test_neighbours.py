"""What frozen features are worth: votes of neighbours against slow arithmetic, a linear layer at its only minimum."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from distill.config import EvaluateSpec
from distill.engine import neighbours
from distill.engine.neighbours import Embedded, Labelled, knn_accuracy, probe_accuracy
from distill.engine.state import Score
from distill.record.features import KNN, Features
from tests import tiny


def clouds(count: int, seed: int, spread: float = 1.0) -> Embedded:
    """Points about five centres, one a class."""
    centres = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 5
    noise = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return Embedded(centres[labels] + spread * noise, labels)


def voted(known: Embedded, asked: Tensor, count: int, temperature: float) -> list[int]:
    """One image after the other, in Python's numbers."""
    found = []
    for row in asked.tolist():
        cosines = []
        for other, label in zip(known.features.tolist(), known.labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(row, other, strict=True))
            cosines.append((dot / math.hypot(*row) / math.hypot(*other), label))
        votes = [0.0] * 5
        for cosine, label in sorted(cosines, reverse=True)[:count]:
            votes[label] += math.exp(cosine / temperature)
        found.append(votes.index(max(votes)))
    return found


@pytest.mark.parametrize("count", [1, 7, 500])
def test_votes_are_those_of_slow_arithmetic(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = clouds(60, 1), clouds(20, 2).features
    monkeypatch.setattr(neighbours, "_ASKED", 3)
    monkeypatch.setattr(neighbours, "_KNOWN", 11)  # parts that do not fill up
    found = neighbours.neighbours(known.features, known.labels, asked, count)
    assert found.tolist() == voted(known, asked, count, 0.07)


def test_the_linear_layer_is_where_its_gradient_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rows are taken at once, and without a random number."""
    known, asked = clouds(100, 1, 2.0), clouds(50, 2, 2.0)
    state = torch.get_rng_state()
    whole = probe_accuracy(known, asked)
    monkeypatch.setattr(neighbours, "_ROWS", 7)
    assert probe_accuracy(known, asked) == whole and torch.equal(torch.get_rng_state(), state)
    assert 50 < whole <= 100 and probe_accuracy(known, Embedded(known.features, known.labels)) > whole


def test_one_half_is_known_where_training_images_have_no_labels() -> None:
    data, net = tiny.tiny_data(), tiny.net("cifar_resnet8")
    known, asked = Labelled(data).of(net)
    assert (len(known.labels), len(asked.labels)) == (len(data.train), len(data.test))
    few, _ = Labelled(data, images=9).of(net)
    assert len(few.labels) == 9 and set(few.labels.tolist()) == set(known.labels.tolist())
    data.train.labels = None
    first, second = Labelled(data).of(net)
    assert len(first.labels) + len(second.labels) == len(data.test) and abs(len(first.labels) - len(second.labels)) <= 1
    assert 0 <= knn_accuracy(first, second, 3) <= 100


def test_only_where_neighbours_choose_the_best_epoch_do_they_have_one() -> None:
    """The last epoch's value is not that of the best, which nobody has looked for beside a classifier."""
    net, score = tiny.net("cifar_resnet8"), Score(last=50.0, best=60.0, best_epoch=2)
    features = Features(EvaluateSpec(knn=True, probe=False, neighbours=3, images=0), Labelled(tiny.tiny_data()))
    told = [
        features.result(SimpleNamespace(deployed=lambda: net, score_names=names, score=score), [])["knn"]
        for names in (("test_accuracy", "best_accuracy"), KNN)
    ]
    assert [(one["best"], one["best_epoch"]) for one in told] == [(None, None), (60.0, 2)]
    assert told[0]["last"] == told[1]["last"]
