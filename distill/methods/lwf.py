"""Learning without forgetting (Li, Hoiem, ECCV 2016, arXiv:1606.09282)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.data.tasks import ClassSource
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models.quant import twin_of


@full_precision
def old_loss(current: Tensor, recorded: Tensor, temperature: float) -> Tensor:
    """-sum_i y'_o log y^'_o of old-task logits [B,k], both softened by 1/T (eq. 2-4)."""
    return F.cross_entropy(current / temperature, (recorded / temperature).softmax(1))


class TaskHistory(nn.Module):
    """Answers of the net after each task, side by side: [B, tasks x K]; `measure` says what was kept and
    forgotten.
    """

    def __init__(self, stages: Sequence[nn.Module], tasks: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.stages, self.tasks = nn.ModuleList(stages), tasks

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([net(inputs).logits for net in self.stages], 1)

    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return percentages of logits [M,tasks x K]: each task's accuracy at the end and right after it was
        learned, average accuracy at the end, and forgetting.

        A task's accuracy is among its own classes. Forgetting is the mean over all tasks but the last of the
        best accuracy before the end less that at the end (Chaudhry et al., ECCV 2018, arXiv:1801.10112,
        section 4).
        """
        table = [
            [task_accuracy(part, labels, task) for task in self.tasks]
            for part in logits.chunk(len(self.stages), 1)
        ]
        last = len(self.tasks) - 1
        found = {f"task_{k + 1}": table[last][k] for k in range(last + 1)}
        found |= {f"task_{k + 1}_learned": table[k][k] for k in range(last + 1)}
        lost = [max(table[t][k] for t in range(k, last)) - table[last][k] for k in range(last)]
        return found | {"average": sum(table[last]) / (last + 1), "forgetting": sum(lost) / max(last, 1)}


def task_accuracy(logits: Tensor, labels: Tensor, classes: Sequence[int]) -> float:
    """Top-1 accuracy in percent of logits [M,K] among `classes`, over the samples of these classes."""
    known = torch.tensor(list(classes), device=labels.device)
    of_task = torch.isin(labels, known)
    right = known[logits[of_task][:, known].argmax(1)] == labels[of_task]
    return 100 * right.double().mean().item()


class LwF(Method):
    """Tasks of disjoint classes come one after the other; the old net's answers on the new images are held
    on to.

    Classes are split in their order into `tasks` parts. Each task: a warm-up of the last layer alone, the
    rest frozen, then ce x CE among the new classes + weight x sum over old tasks of the soft cross-entropy
    with the frozen old net's answers among that task's classes (eq. 1-4, T=2). A task's head are its rows of
    the one last layer, reached by no other task's loss; in the warm-up, without weight decay, they are
    exactly what moves. Old answers are computed when they are needed, for the same crop, where the paper
    records them beforehand. The student as deployed knows no tasks: its test accuracy is among all classes,
    so the parts not yet learned count as wrong.
    """

    def __init__(self, *nets: *Nets, ce: float, weight: float, temperature: float, tasks: int, warmup: int) -> None:
        student, _, data = nets
        super().__init__(student, (), data, ce=ce, temperature=temperature, kd=0.0)
        if not 2 <= tasks <= data.num_classes:
            raise ValueError(
                f"method.tasks is {tasks}: give 2 to {data.num_classes}, the classes of {data.name}."
            )
        self.weight, self.warmup, self.task = weight, warmup, 0
        self.tasks = [part.tolist() for part in torch.arange(data.num_classes).tensor_split(tasks)]
        self.spans = [slice(part[0], part[-1] + 1) for part in self.tasks]  # a list as index waits for the device
        self.old = nn.ModuleList([twin_of(student) for _ in range(tasks - 1)]).requires_grad_(False)

    def loss(self, batch: Batch) -> Losses:
        logits = self.student(batch.inputs).logits
        self.count(self.masked(logits.detach()), batch.labels)
        losses = {"ce": self.ce * self.new_loss(logits, batch)}
        if self.task and self.weight:
            losses["old"] = self.weight * self.kept(logits, batch.inputs)
        return losses

    def new_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy among the current task's classes."""
        span = self.spans[self.task]
        mixed = batch.targets
        targets = mixed and replace(mixed, probabilities=mixed.probabilities[:, span])
        return self.criterion(logits[:, span], replace(batch, labels=batch.classes - span.start, targets=targets))

    def kept(self, logits: Tensor, inputs: Tensor) -> Tensor:
        """Sum over old tasks of the soft cross-entropy with the net as it was before the current task."""
        with torch.no_grad():
            before = self.old[self.task - 1](inputs).logits
        parts = [old_loss(logits[:, c], before[:, c], self.temperature) for c in self.spans[: self.task]]
        return torch.stack(parts).sum()

    def masked(self, logits: Tensor) -> Tensor:
        """Logits with the classes of other tasks out of the question."""
        mask = torch.full_like(logits, -torch.inf)
        mask[:, self.spans[self.task]] = 0
        return logits + mask

    def warm(self, batch: Batch) -> Losses:
        """Loss of a warm-up: the new classes alone."""
        logits = self.student(batch.inputs).logits
        self.count(self.masked(logits.detach()), batch.labels)
        return {"ce": self.new_loss(logits, batch)}

    def start(self, task: int) -> None:
        """Keep the net as it is before a task."""
        self.task = task
        if task:
            self.old[task - 1].load_state_dict(self.student.state_dict())

    def go_on(self, task: int) -> None:
        self.task = task

    def phases(self) -> list[Phase]:
        phases: list[Phase] = []
        still = {"weight_decay": 0.0, "decay": "constant", "milestones": [], "warmup_epochs": 0}
        for k, classes in enumerate(self.tasks):
            begin, source = partial(self.start, k), partial(ClassSource, classes=classes)
            if k and self.warmup:
                head = [Update("head", self.warm, self.student.classifiers)]
                phases.append(
                    Phase(f"warm-up {k + 1}", head, self.warmup, still, source, begin, evaluates=False)
                )
                begin = partial(self.go_on, k)
            phases.append(
                Phase(
                    f"task {k + 1}", [Update("student", self.loss, [self.student])], None, {}, source, begin
                )
            )
        return phases

    def reported(self) -> dict[str, nn.Module]:
        return {"tasks": TaskHistory([*self.old, self.student], self.tasks)}
