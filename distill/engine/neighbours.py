"""What frozen features are worth: accuracy by nearest neighbours, and of a linear layer on them.

Both need images with labels, of which training may have read none: the training images, where class folders or the
data set itself tell what they are, else one half of what is evaluated, the other half being asked about.

Shape letters: B batch, K classes, D embedding width, N images that are known, M images that are asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.content.strata import stratified
from distill.data import Data
from distill.losses import full_precision
from distill.models.reading import evaluating

TEMPERATURE = 0.07
"""Of the votes, of facebookresearch/dino (eval_knn.py), after Wu et al., CVPR 2018, arXiv:1805.01978, section 3.4."""
_ASKED, _KNOWN = 256, 16384  # rows that are compared at once: 16 MiB, whatever the data set's size
_ROWS = 65536  # rows of a gradient of the linear layer that are computed at once
_STEPS = 200  # of L-BFGS at most

_Autocast = Callable[[], AbstractContextManager[Any]]


class Embedded(NamedTuple):
    """Embeddings fp32 [N,D] and labels int64 [N] of a set of images."""

    features: Tensor
    labels: Tensor

    def only(self, rows: Tensor) -> Embedded:
        """Those of some rows, a mask [N]."""
        return Embedded(self.features[rows], self.labels[rows])


@torch.no_grad()
def embed(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], autocast: _Autocast = nullcontext) -> Embedded:
    """What enters the net's classifier, for (images [B,C,H,W], labels [B]) batches, in fp32.

    The net runs in eval mode, whatever mode it is in, so that no statistics of it move.
    """
    with evaluating(net), autocast():
        seen = [(net(images).embedding.float(), labels) for images, labels in batches]
    features, labels = zip(*seen, strict=True)
    return Embedded(torch.cat(features), torch.cat(labels))


class Labelled:
    """The labelled images of a data set: `of(net)` gives features of those that are known and those asked about.

    images: how many of the training images are taken at most, of each class its share; 0: all.
    """

    def __init__(self, data: Data, autocast: _Autocast = nullcontext, images: int = 0) -> None:
        self.data, self.autocast = data, autocast
        self.known = data.references
        if images and self.known is not None and images < len(self.known):
            labels = torch.as_tensor(self.known.labels).cpu()
            from distill.data.tasks import part_of  # imports Pillow

            rows = torch.from_numpy(np.flatnonzero(stratified(labels.numpy(), images, salt=5)))
            self.known = part_of(self.known, rows.to(torch.as_tensor(self.known.labels).device))

    @property
    def source_of_labels(self) -> str:
        """Where the labels come from, in words."""
        if self.known is None:
            return f"one half of the {len(self.data.evaluated)} labelled images, the other half asked about"
        return f"{len(self.known)} training images, {len(self.data.evaluated)} asked about"

    def of(self, net: nn.Module, side: str = "student", size: int | None = None) -> tuple[Embedded, Embedded]:
        """(known, asked about), as a net of one side sees them, at its own size."""
        asked = embed(net, self.data.evaluation(512, side, size), self.autocast)
        if self.known is not None:
            return embed(net, self.data.plainly(self.known, 512, side, size), self.autocast), asked
        labels = asked.labels.cpu().numpy()
        half = torch.from_numpy(stratified(labels, len(labels) // 2, salt=6)).to(asked.labels.device)
        return asked.only(half), asked.only(~half)


@full_precision
def neighbours(
    known: Tensor, labels: Tensor, asked: Tensor, count: int, temperature: float = TEMPERATURE
) -> Tensor:
    """The class [M] by which the `count` nearest of `known` [N,D], of `labels` [N], outvote others for `asked` [M,D].

    Near is what has a large cosine s, and votes exp(s / temperature). Memory does not grow with N and M.
    """
    known, asked = F.normalize(known, dim=1), F.normalize(asked, dim=1)
    classes, found = int(labels.max()) + 1, []
    for rows in asked.split(_ASKED):
        near = rows.new_empty(len(rows), 0)
        whose = labels.new_empty(len(rows), 0)
        for part, of in zip(known.split(_KNOWN), labels.split(_KNOWN), strict=True):
            near, place = torch.cat([near, rows @ part.T], 1).topk(min(count, near.shape[1] + len(part)), dim=1)
            whose = torch.cat([whose, of.expand(len(rows), -1)], 1).gather(1, place)
        votes = F.one_hot(whose, classes) * (near / temperature).exp()[..., None]
        found.append(votes.sum(1).argmax(1))
    return torch.cat(found)


def knn_accuracy(known: Embedded, asked: Embedded, count: int) -> float:
    """Top-1 accuracy in percent by `neighbours`."""
    right = neighbours(known.features, known.labels, asked.features, count) == asked.labels
    return 100 * right.double().mean().item()


@full_precision
def _standardised(features: Tensor, like: Tensor) -> Tensor:
    return (features - like.mean(0)) / like.std(0).clamp(min=1e-6)


def probe_accuracy(known: Embedded, asked: Embedded) -> float:
    """Top-1 accuracy in percent of logistic regression on standardised features, by L-BFGS from zeros.

    It minimises mean cross-entropy + |W|^2 / 2N (scikit-learn's C = 1), which has one minimum: nothing is drawn.
    """
    x, y = _standardised(known.features, known.features), known.labels
    layer = nn.utils.skip_init(nn.Linear, x.shape[1], int(y.max()) + 1, device=x.device)  # draws nothing
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=_STEPS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def cost() -> Tensor:
        optimizer.zero_grad()
        total = layer.weight.square().sum() / (2 * len(x))
        total.backward()
        total = total.detach()
        for rows, labels in zip(x.split(_ROWS), y.split(_ROWS), strict=True):
            part = F.cross_entropy(layer(rows), labels, reduction="sum") / len(x)
            part.backward()
            total = total + part.detach()
        return total

    with torch.enable_grad():
        optimizer.step(cost)
    with torch.no_grad():
        right = layer(_standardised(asked.features, known.features)).argmax(1) == asked.labels
    return 100 * right.double().mean().item()
