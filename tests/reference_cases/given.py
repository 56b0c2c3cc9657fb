"""Nets that answer with what a file holds, so that a method as its YAML builds it can be asked for its losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill import config
from distill.batch import Batch
from distill.data import DataInfo
from distill.method import Losses, Method
from distill.models import FeatureNet, Outputs
from tests.tiny import composed

CLASSES = 100


class Model(nn.Module):
    """What lies in a net: nothing but a classifier, and maps to read."""

    def __init__(self, features: Sequence[Tensor], head: nn.Module | None) -> None:
        super().__init__()
        self.head, self.num_classes = head, CLASSES
        self._maps = list(features)

    def forward_intermediates(self, images: Tensor, **_: Any) -> list[Tensor]:
        return self._maps


class Given(FeatureNet):
    """A net of no weights: it gives the same Outputs whatever it is shown, or one after another of `more`.

    logits [B,K], features a [B,C,H,W] a stage, embedding [B,D], stem [B,C,H,W]; what is not given is zero.
    preacts: whether the features stand for the maps before each stage's last ReLU too; norms: the weight and bias
    of the BatchNorms before these; classifier: the layer that takes the pooled last map.
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
        preacts: bool = False,
        norms: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        nn.Module.__init__(self)
        given = [each for each in (logits, embedding, *features) if each is not None]
        count = len(given[0])
        logits = torch.zeros(count, CLASSES) if logits is None else logits
        embedding = torch.zeros(count, 1) if embedding is None else embedding
        self.answers = [Outputs(logits, list(features), embedding, list(features) if preacts else None, stem), *more]
        self.name, self.size, self.in_chans, self.recipe = "given", 8, 3, None
        self.num_classes, self.embedding_dim = logits.shape[1], embedding.shape[1]
        self.shapes = [_shape(each) for each in features]
        self.channels = [shape[0] for shape in self.shapes]
        self.stem_shape = None if stem is None else _shape(stem)
        self.has_preacts, self.two_heads, self.asked = preacts, False, 0
        self.quantized: dict[str, Any] = {}
        self.input_scale = self.input_shift = None
        self.model, self.norms = Model(features, classifier), [_norm(*each) for each in norms]
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)  # tells the device

    def forward(self, images: Tensor) -> Outputs:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return answer

    def read(self, images: Tensor) -> Outputs:
        return self(images)

    @property
    def classifier(self) -> nn.Module:
        assert isinstance(self.model, Model) and self.model.head is not None
        return self.model.head

    def classify(self, last_feature: Tensor) -> Tensor:
        logits: Tensor = self.classifier(last_feature.mean((2, 3)))
        return logits

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return self.norms

    def twin(self, seed: int | None = None) -> Given:
        out = self.answers[0]
        return Given(out.logits, features=out.features, embedding=out.embedding, stem=out.stem)


def _norm(weight: Tensor, bias: Tensor) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(weight))
    norm.load_state_dict({**norm.state_dict(), "weight": weight, "bias": bias})
    return norm


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """The layer of these weights [K,D] and [K], frozen as a teacher's."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


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
    built: Method = config.instantiate(cfg.method, student, list(teachers), info)
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


def losses(built: Method, labels: Tensor | None = None) -> Losses:
    """All the method's losses, of labels of class 0 where a file has none."""
    assert isinstance(built.student, Given)
    count = len(built.student.answers[0].logits)
    return built.loss(batch(torch.zeros(count, dtype=torch.long) if labels is None else labels))


def total(losses: Losses) -> Tensor:
    """The sum that is minimised."""
    return torch.stack(list(losses.values())).sum()
