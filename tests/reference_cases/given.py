"""Nets that answer with what a file holds, so that a method as its YAML builds it can be asked for its losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill import config
from distill.data import DataInfo
from distill.method import Batch, Losses, Method
from distill.models import FeatureNet, Outputs
from tests.tiny import composed

CLASSES = 100


class Given(FeatureNet):
    """A net of no weights: it gives the same Outputs whatever it is shown, or one after another of `more`.

    logits [B,K], features a [B,C,H,W] a stage, embedding [B,D], stem [B,C,H,W]; what is not given is zero.
    """

    def __init__(
        self,
        logits: Tensor | None = None,
        *,
        features: Sequence[Tensor] = (),
        embedding: Tensor | None = None,
        stem: Tensor | None = None,
        more: Sequence[Outputs] = (),
        classifier: nn.Module | None = None,
    ) -> None:
        nn.Module.__init__(self)
        given = [each for each in (logits, embedding, *features) if each is not None]
        count = len(given[0])
        logits = torch.zeros(count, CLASSES) if logits is None else logits
        embedding = torch.zeros(count, 1) if embedding is None else embedding
        self.answers = [Outputs(logits, list(features), embedding, None, stem), *more]
        self.name, self.size, self.in_chans, self.recipe = "given", 8, 3, None
        self.num_classes, self.embedding_dim = logits.shape[1], embedding.shape[1]
        self.shapes = [_shape(each) for each in features]
        self.channels = [shape[0] for shape in self.shapes]
        self.stem_shape = None if stem is None else _shape(stem)
        self.has_preacts, self.asked = False, 0
        self.head = classifier
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)  # tells the device

    def forward(self, images: Tensor) -> Outputs:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return answer

    def classify(self, last_feature: Tensor) -> Tensor:
        assert self.head is not None
        logits: Tensor = self.head(last_feature.mean((2, 3)))
        return logits

    def twin(self, seed: int | None = None) -> Given:
        out = self.answers[0]
        return Given(out.logits, features=out.features, embedding=out.embedding, stem=out.stem)


def _shape(feature: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = feature.shape
    return channels, height, width


def method(
    name: str, student: FeatureNet, teachers: Sequence[FeatureNet] = (), *overrides: str, images: int = 0
) -> Any:
    """The method as its YAML and CIFAR-100's published values describe it, for `images` training images."""
    cfg = composed("dataset=cifar100", f"method={name}", *overrides)
    labels = torch.arange(images or 2 * CLASSES) % CLASSES
    info = DataInfo("given", CLASSES, len(labels), 3, 8, (0.5,) * 3, (0.25,) * 3, labels, [])
    built: Method = config.build(cfg.method, student=student, teachers=list(teachers), data=info)
    return built.train()


def batch(labels: Tensor, index: Tensor | None = None) -> Batch:
    """A batch of blank images with these labels [B]."""
    positions = torch.arange(len(labels)) if index is None else index
    return Batch(torch.zeros(len(labels), 3, 8, 8), labels, positions)


def distilled(built: Method, labels: Tensor | None = None) -> Losses:
    """The method's own weighted losses, without cross-entropy and soft targets."""
    assert isinstance(built.student, Given)
    student = built.student.answers[0]
    asked = batch(torch.zeros(len(student.logits), dtype=torch.long) if labels is None else labels)
    return built.distill(student, built.teach(asked), asked)


def total(losses: Losses) -> Tensor:
    """The sum that is minimised."""
    return torch.stack(list(losses.values())).sum()
