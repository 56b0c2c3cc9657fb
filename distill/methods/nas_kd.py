"""Student search under a teacher: a supernet over depth and width, then the best net that a budget allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import distill.parallel as parallel
from distill.batch import Batch
from distill.engine.optim import Stepper
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import FeatureNet, Outputs
from distill.models.supernet import Supernet


class NoStep(Stepper):
    """Takes no step: its losses are only looked at."""

    def step(self, losses: Mapping[str, Tensor]) -> None:
        return


class _Search(nn.Module):
    """The student, and what the search found of it."""

    def __init__(self, net: FeatureNet, facts: dict[str, float]) -> None:
        super().__init__()
        self.net, self.facts = net, facts

    def forward(self, inputs: Tensor) -> Outputs:
        return self.net(inputs)

    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        return {"accuracy": 100 * (logits.argmax(1) == labels).double().mean().item(), **self.facts}


class NASKD(Method):
    """Depth and width of a CIFAR ResNet are searched for under the teacher: supernet, search, tuning.

    The student given is the largest net; all smaller ones share its weights (blocks n, channels w of each
    stage). Supernet: every step trains the largest, the smallest and `samples` random nets on ce x CE + kd x
    T^2 KL. Search: one epoch in which every net is scored by the same loss on training images, with the
    batch's own statistics; no test image takes part. The best with at most `budget` of the largest's
    multiply-accumulates is tuned, inside the supernet, and deployed as an ordinary net. The sandwich rule is that
    of universally slimmable networks (Yu, Huang, ICCV 2019, arXiv:1903.05134). No block of the student is held
    against the teacher's maps, as blockwisely supervised searches do.
    """

    steps_alike = False  # nets are drawn
    unsynced = "each process draws nets of its own, whose BatchNorms are not the same"

    scores: Tensor
    choice: Tensor

    def __init__(
        self, *nets: *Nets, depths: Sequence[int], widths: Sequence[float], budget: float, samples: int,
        tune_epochs: int, tune_lr: float, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        most = len(getattr(student.model, "layer1", ())) or max(depths)
        self.supernet = Supernet(student, [depth for depth in depths if depth <= most] or depths, widths)
        self.samples, self.tune_epochs, self.tune_lr = samples, tune_epochs, tune_lr
        limit = budget * student.macs()
        self.allowed = [macs <= limit for macs in self.supernet.macs]
        if not any(self.allowed):
            least = min(self.supernet.macs) / student.macs()
            raise ValueError(
                f"method.budget={budget} allows no net of the space: the smallest needs {least:.3f}."
            )
        self.register_buffer("scores", torch.zeros(len(self.allowed)))
        self.register_buffer("choice", torch.tensor(-1))
        self.searching, self._chosen, self.scored = False, -1, torch.zeros(())

    def one(self, number: int, batch: Batch, teacher: Tensor, keep: bool = False) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits [B,K] of the numbered net."""
        logits = self.supernet.run(number, batch.inputs, keep).logits
        loss = self.ce * self.criterion(logits, batch)
        return loss + self.kd * self.soft_targets(logits, teacher), logits.detach()

    def supernet_loss(self, batch: Batch) -> Losses:
        """Loss of the largest, the smallest and some random nets (the sandwich rule, arXiv:1903.05134)."""
        teacher, last = self.teach(batch).logits, len(self.allowed) - 1
        largest, logits = self.one(last, batch, teacher)
        self.count(logits, batch.labels)
        losses = {"largest": largest, "smallest": self.one(0, batch, teacher)[0]}
        drawn = torch.randint(last + 1, (self.samples,)).tolist()
        return losses | {f"drawn_{k}": self.one(number, batch, teacher)[0] for k, number in enumerate(drawn)}

    def search_loss(self, batch: Batch) -> Losses:
        """Mean loss of all nets; each net's own is added to its score."""
        teacher = self.teach(batch).logits
        losses = torch.stack([self.one(k, batch, teacher, keep=True)[0] for k in range(len(self.allowed))])
        self.scores += parallel.summed(losses.detach() * len(batch))
        self.scored = self.scored + parallel.summed(losses.new_full((), len(batch)))
        return {"mean": losses.mean()}

    def tune_loss(self, batch: Batch) -> Losses:
        loss, logits = self.one(self.chosen, batch, self.teach(batch).logits)
        self.count(logits, batch.labels)
        return {"chosen": loss}

    @property
    def chosen(self) -> int:
        """The chosen net's number, the largest's before the search; read from the device once a phase."""
        if self._chosen < 0:
            number = int(self.choice)
            self._chosen = number if number >= 0 else len(self.allowed) - 1
        return self._chosen

    def begin_search(self) -> None:
        self.searching = True
        self.scores.zero_()
        self.scored = torch.zeros_like(self.scores[0])

    def tune(self) -> None:
        self.searching, self._chosen = False, -1

    def after_epoch(self) -> None:
        if self.searching:
            self.scores /= self.scored.clamp(min=1)
            allowed = torch.tensor(self.allowed, device=self.scores.device)
            self.choice.copy_(self.scores.masked_fill(~allowed, torch.inf).argmin())
            self._chosen = -1

    def deployed(self) -> FeatureNet:
        return self.supernet.extract(int(self.choice)) if int(self.choice) >= 0 else self.student

    def reported(self) -> dict[str, nn.Module]:
        number = int(self.choice)
        if number < 0:
            return {}
        blocks, width = self.supernet.choices[number]
        facts = {"depth": 6 * blocks + 2, "width": width, "macs": self.supernet.macs[number]}
        facts["score"] = self.scores[number].item()
        return {"chosen": _Search(self.deployed(), facts)}

    def phases(self) -> list[Phase]:
        low = {"lr": self.tune_lr, "decay": "cosine", "milestones": [], "warmup_epochs": 0}
        search = Update("search", self.search_loss, [self.student], stepper=NoStep)
        return [
            Phase("supernet", [Update("nets", self.supernet_loss, [self.student])], evaluates=False),
            Phase("search", [search], 1, begin=self.begin_search, evaluates=False),
            Phase(
                "tune",
                [Update("student", self.tune_loss, [self.student])],
                self.tune_epochs,
                low,
                begin=self.tune,
            ),
        ]
