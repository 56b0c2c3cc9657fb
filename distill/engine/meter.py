"""Running losses and accuracy, kept on the device and read seldom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import distill.parallel as parallel
from distill.errors import NonFinite

ROW_KEYS = {"kind", "phase", "epoch", "epochs", "epochs_left", "epoch_step", "step", "lr", "loss", "correct",
            "images_per_second", "waiting"}  # of a row, beside losses and accuracies, "..._accuracy"  # fmt: skip


class Meter:
    """Means over an epoch. Adding a step waits for nothing; `flush` reads what has gathered.

    Every step is kept apart until it is read, so that a loss that stops being finite is named with its step.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.images = self.judged = self.correct = 0.0  # judged: images of the steps that left logits
        self._waiting: list[tuple[int, int, tuple[str, ...], Tensor]] = []

    def add(self, step: int, images: int, names: tuple[str, ...], values: Tensor) -> None:
        """Note what a step of so many images measured, as `measured` gives it."""
        self._waiting.append((step, images, names, values))

    def flush(self, phase: str, epoch: int) -> None:
        """Read what was added. Raises NonFinite naming term, phase, epoch and step of the first that is not."""
        waiting, self._waiting = self._waiting, []
        for (step, count, names, _), values in zip(waiting, _read([w[3] for w in waiting]), strict=True):
            for name, value in zip(names, values, strict=True):
                if not abs(value) < float("inf"):
                    raise NonFinite(
                        f"loss '{name}' is {value} in phase {phase}, epoch {epoch}, step {step}: "
                        "lower schedule.lr or the method's weight, or use precision=fp32."
                    )
                if name == "correct":
                    self.correct, self.judged = self.correct + value, self.judged + count
                else:
                    self.sums[name] = self.sums.get(name, 0.0) + value * count
            self.images += count

    def means(self) -> dict[str, float]:
        """Return each loss's mean, their sum as "loss", and the accuracy in percent, over what all processes read.

        There is no "train_accuracy" where no step left logits, as in a phase that trains no classifier.
        """
        images, judged, correct, *sums = parallel.total([self.images, self.judged, self.correct, *self.sums.values()])
        losses = {name: value / max(images, 1.0) for name, value in zip(self.sums, sums, strict=True)}
        row = {"loss": sum(losses.values()), **losses}
        return row | {"train_accuracy": 100 * correct / judged} if judged else row

    def state_dict(self) -> dict[str, Any]:
        assert not self._waiting, "flush before saving"
        return {"sums": dict(self.sums), "images": self.images, "judged": self.judged, "correct": self.correct}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums, self.images = dict(state["sums"]), state["images"]
        self.correct, self.judged = state["correct"], state.get("judged", state["images"])


def measured(losses: Mapping[str, Tensor], counted: tuple[Tensor, Tensor] | None) -> tuple[tuple[str, ...], Tensor]:
    """A step's losses (scalars) as one vector and, of logits [B,K] and labels [B], how many are right ("correct")."""
    values = [loss.detach().float() for loss in losses.values()]
    if counted is None:
        return tuple(losses), torch.stack(values)
    logits, labels = counted
    values.append((logits.argmax(1) == labels).sum().float())
    return (*losses, "correct"), torch.stack(values)


def _read(vectors: list[Tensor]) -> list[list[float]]:
    """Bring vectors of possibly different lengths to the host in one transfer."""
    if not vectors:
        return []
    flat = torch.cat(vectors).tolist()
    rows, start = [], 0
    for vector in vectors:
        rows.append(flat[start : start + len(vector)])
        start += len(vector)
    return rows
