"""Three scenarios of continual learning: task, domain and class (van de Ven, Tolias 2019, arXiv:1904.07734)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.data.tasks import TaskStream
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import FeatureNet
from distill.models.quant import twin_of
from distill.parts.choice import check_choice

SCENARIOS = ("task", "domain", "class")
STRATEGIES = ("none", "lwf", "joint")
_REDUCTIONS = ("mean", "sum")


@full_precision
def soft_loss(current: Tensor, recorded: Tensor, temperature: float, reduction: str) -> Tensor:
    """-T^2 sum_k y'_k log y_k, mean over the batch, of logits [B,n] and older ones [B,m], m <= n, both over T; what the
    older net does not know has the target 0.

    reduction="mean" divides by n as well, as the authors' code did when table 4 was made (86802a8); "sum" is theirs
    from 26f00db on.
    """
    known = recorded.shape[1]
    log_current = (current / temperature).log_softmax(1)[:, :known]
    cost = -((recorded / temperature).softmax(1) * log_current).sum(1).mean() * temperature**2
    return cost / current.shape[1] if reduction == "mean" else cost


def dealt_classes(count: int, seed: int) -> Tensor:
    """The classes [K] in the order of their tasks, as the authors deal them: label y is moved to place p[y] of numpy's
    permutation p of their seed, and seed 0 leaves the classes as they are (data.py of 86802a8).
    """
    places = np.arange(count) if seed == 0 else np.random.RandomState(seed % 2**32).permutation(count)
    return torch.from_numpy(np.argsort(places))


class Scenario(nn.Module):
    """A net after its last task; `measure` scores it as its scenario does."""

    def __init__(self, net: FeatureNet, tasks: Sequence[Sequence[int]], scenario: str) -> None:
        super().__init__()
        self.net, self.tasks, self.scenario = net, tasks, scenario

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs).logits

    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return each task's accuracy in percent and their average, of logits [M,K] and labels [M]."""
        found = {}
        for number, classes in enumerate(self.tasks):
            known = torch.tensor(list(classes), device=labels.device)
            of_task = torch.isin(labels, known)
            task_logits = logits[of_task]
            if self.scenario == "class":
                right = task_logits.argmax(1) == labels[of_task]
            else:
                outputs = torch.arange(len(known), device=known.device) if self.scenario == "domain" else known
                right = known[task_logits[:, outputs].argmax(1)] == labels[of_task]
            found[f"task_{number + 1}"] = 100 * right.double().mean().item()
        return found | {"average": sum(found.values()) / len(found)}


class Continual(Method):
    """Tasks of disjoint classes, one an epoch of `steps` batches, one optimiser throughout.

    Classes are dealt to tasks by the run's seed, as the authors deal them for theirs (`dealt_classes`).

    scenario: what the net must tell. task: which of its task's classes, each task having outputs of its own; domain:
    which of them, by outputs that all tasks share (the first ones of the net); class: which of all classes so far.
    strategy: none learns each task and no more; joint sees all tasks so far; lwf, at task k, minimises 1/k of the
    cross-entropy and 1 - 1/k of `soft_loss` with what the net of before said of the same images: among the outputs of
    the scenario, for task the mean over the old tasks.
    """

    refuses = {
        "mixup": "an image of two labels may belong to two tasks",
        "label_smoothing": "the other classes may belong to other tasks",
    }

    dealt: Tensor  # [K] int64, the classes in the order of their tasks
    task_of: Tensor  # [K]
    place: Tensor  # [K], of a class within its task

    def __init__(
        self,
        *nets: *Nets,
        ce: float,
        temperature: float,
        scenario: str,
        strategy: str,
        tasks: int,
        steps: int,
        reduction: str,
    ) -> None:
        student, _, data = nets
        super().__init__(student, (), data, ce=ce, temperature=temperature, kd=0.0)
        for name, value, allowed in (
            ("scenario", scenario, SCENARIOS), ("strategy", strategy, STRATEGIES), ("reduction", reduction, _REDUCTIONS)
        ):  # fmt: skip
            check_choice(name, value, allowed)
        if not 2 <= tasks <= data.num_classes or (scenario == "domain" and data.num_classes % tasks):
            equal = ", in equal parts, since all share their outputs" if scenario == "domain" else ""
            raise ValueError(f"method.tasks is {tasks}: give 2 to {data.num_classes}, {data.name}'s classes{equal}.")
        self.scenario, self.strategy, self.reduction, self.steps = scenario, strategy, reduction, steps
        order = dealt_classes(data.num_classes, torch.initial_seed())  # the run's: it is set before methods are made
        parts = order.tensor_split(tasks)
        ends = torch.tensor([len(part) for part in parts]).cumsum(0).tolist()
        self.spans = [slice(first, last) for first, last in zip([0, *ends], ends, strict=False)]  # in the order dealt
        self.register_buffer("dealt", order)
        self.register_buffer("task_of", torch.empty_like(order))
        self.register_buffer("place", torch.empty_like(order))
        for number, part in enumerate(parts):
            self.task_of[part], self.place[part] = number, torch.arange(len(part))
        self.old = twin_of(student).requires_grad_(False) if strategy == "lwf" else None

    @property
    def tasks(self) -> list[list[int]]:
        """The classes of each task."""
        return [self.dealt[span].tolist() for span in self.spans]

    @property
    def number(self) -> int:
        """The current task, from 1."""
        return self.epoch

    def phases(self) -> list[Phase]:
        tasks = self.tasks
        shown = [sum(tasks[: k + 1], []) for k in range(len(tasks))] if self.strategy == "joint" else tasks
        source = partial(TaskStream, tasks=shown, steps=self.steps)
        return [Phase("tasks", [Update("student", self.loss, [self.student])], len(tasks), source=source)]

    def loss(self, batch: Batch) -> Losses:
        logits = self.student(batch.inputs).logits
        share = 1 / self.number if self.strategy == "lwf" else 1.0
        losses = {"ce": self.ce * share * self.own(logits, batch)}
        if self.strategy == "lwf" and self.number > 1:
            losses["old"] = (1 - share) * self.kept(logits, batch)
        return losses

    def own(self, logits: Tensor, batch: Batch) -> Tensor:
        """The cross-entropy of logits [B,K] among the outputs that the scenario asks."""
        labels = batch.classes
        if self.scenario == "domain":
            logits, labels = logits[:, self.spans[0]], self.place[labels]
        else:
            own = self.task_of[labels][:, None]
            asked = self.task_of == own if self.scenario == "task" else (self.task_of < self.number).expand_as(logits)
            logits = logits.masked_fill(~asked, -torch.inf)
        self.count(logits.detach(), labels)
        return self.criterion(logits, replace(batch, labels=labels))

    def kept(self, logits: Tensor, batch: Batch) -> Tensor:
        """The soft loss of logits [B,K] with what the net said before this task."""
        assert self.old is not None
        with torch.no_grad():
            before = self.old(batch.inputs).logits
        loss = partial(soft_loss, temperature=self.temperature, reduction=self.reduction)
        if self.scenario == "domain":
            return loss(logits[:, self.spans[0]], before[:, self.spans[0]])
        now, then = logits[:, self.dealt], before[:, self.dealt]  # by task
        if self.scenario == "class":
            return loss(now[:, : self.spans[self.number - 1].stop], then[:, : self.spans[self.number - 2].stop])
        return torch.stack([loss(now[:, span], then[:, span]) for span in self.spans[: self.number - 1]]).mean()

    def after_epoch(self) -> None:
        if self.old is not None:
            self.old.load_state_dict(self.student.state_dict())

    def reported(self) -> dict[str, nn.Module]:
        return {"tasks": Scenario(self.student, self.tasks, self.scenario)}
