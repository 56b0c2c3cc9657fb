"""A linear layer on a frozen net's embeddings (CRD, Tian et al., ICLR 2020, arXiv:1910.10699, table 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from distill.config import OptimizerSpec
from distill.data.arrays import seeded
from distill.data.order import steps_for
from distill.engine.neighbours import Embedded
from distill.engine.optim import learning_rate, make_optimizer

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
HALF: Statistics = ((0.5,) * 3, (0.5,) * 3)
TINY: Statistics = ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Recipe:
    """How the layer is trained, by SGD on cross-entropy. CRD's own recipe was never published."""

    name: str
    epochs: int
    lr: float
    weight_decay: float
    nesterov: bool = False
    scaled: bool = False  # the rate is multiplied by the share at which the net was trained, 0.2 for the mobile nets
    milestones: tuple[int, ...] = (30, 60, 90)
    gamma: float = 0.1
    momentum: float = 0.9
    batch_size: int = 64
    start: float | None = None  # deviation of normal first weights, biases being 0; None: torch's own start
    statistics: Mapping[str, Statistics] = field(default_factory=dict)  # mean and std, else the set's own

    def changed(self, **values: float | int | None) -> Recipe:
        """The recipe with other values, which its name then tells: `distillers,epochs=3`."""
        given = {key: value for key, value in values.items() if value not in (None, getattr(self, key))}
        whole = {item.name: getattr(self, item.name) for item in fields(self)} | given
        name = ",".join([self.name, *(f"{key}={value:g}" for key, value in given.items())])
        return Recipe(**{**whole, "name": name})


RECIPES = {
    # giakoumoglou/distillers, cifar/transfer_student.py and cifar/datasets/tinyimagenet200.py
    "distillers": Recipe(
        "distillers",
        epochs=120,
        lr=0.05,
        weight_decay=5e-4,
        scaled=True,
        start=0.01,
        statistics={"tinyimagenet": TINY},
    ),
    # winycg/HSAKD, eval_rep.py
    "hsakd": Recipe(
        "hsakd",
        epochs=100,
        lr=0.1,
        weight_decay=0.0,
        nesterov=True,
        statistics={"stl10": HALF, "tinyimagenet": IMAGENET},
    ),
}


class Fitted(NamedTuple):
    """The trained layer, its test accuracy in percent after each epoch, its training accuracy at the end."""

    layer: nn.Linear
    tested: list[float]
    train_accuracy: float


def fit_linear(
    train: Embedded, test: Embedded, classes: int, recipe: Recipe, *, lr_scale: float = 1.0, seed: int = 0
) -> Fitted:
    """Train a linear layer on `train`; initialisation and order of the images are functions of the seed.

    Raises ValueError when the loss does not stay finite.
    """
    layer = _fresh(train.features.shape[1], classes, seed, recipe.start).to(train.features.device)
    lr = recipe.lr * (lr_scale if recipe.scaled else 1.0)
    schedule = OptimizerSpec(lr=lr, milestones=tuple(recipe.milestones), gamma=recipe.gamma)
    keys = ("momentum", "nesterov", "weight_decay")
    optimizer = make_optimizer(list(layer.parameters()), {key: getattr(recipe, key) for key in keys}, lr)
    steps = steps_for(len(train.labels), recipe.batch_size, drop_last=False)
    tested = []
    for epoch in range(1, recipe.epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, (epoch - 1) * steps, steps, recipe.epochs)
        _one_epoch(layer, optimizer, train, recipe.batch_size, seeded(seed, epoch))
        tested.append(_accuracy(layer, test))
    if not layer.weight.isfinite().all():
        raise ValueError(f"the probe's loss is not finite with lr {lr:g}: lower it with --lr")
    return Fitted(layer, tested, _accuracy(layer, train))


def _fresh(width: int, classes: int, seed: int, start: float | None) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layer = nn.Linear(width, classes)
        if start is not None:
            nn.init.normal_(layer.weight, std=start)
            nn.init.zeros_(layer.bias)
        return layer


def _one_epoch(
    layer: nn.Linear, optimizer: torch.optim.Optimizer, train: Embedded, batch: int, draw: torch.Generator
) -> None:
    order = torch.randperm(len(train.labels), generator=draw).to(train.labels.device)
    for rows in order.split(batch):
        loss = F.cross_entropy(layer(train.features[rows]), train.labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


@torch.no_grad()
def _accuracy(layer: nn.Linear, data: Embedded) -> float:
    """Top-1 accuracy in percent."""
    return 100 * (layer(data.features).argmax(1) == data.labels).double().mean().item()
