"""Progressive self-knowledge distillation, PS-KD (Kim, Ji, Yoon, Hwang, ICCV 2021, arXiv:2006.12000)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.parts.memory_bank import MemoryBank


@full_precision
def progressive_loss(logits: Tensor, labels: Tensor, past: Tensor, alpha: float) -> Tensor:
    """Cross-entropy of logits [B,K] with (1 - alpha) onehot + alpha past, past [B,K]."""
    log_p = logits.log_softmax(1)
    return (1 - alpha) * F.nll_loss(log_p, labels) - alpha * (past * log_p).sum(1).mean()


class PSKD(Method):
    """Targets are softened by the student's own predictions of the last epoch, by alpha_t = alpha t / epochs.

    `past` [N,K] holds the prediction of each image's augmented view in the last epoch, and the one-hot label
    before the first; it is part of the state. An image is seen once an epoch: it is read, then written.
    """

    refuses = {
        "mixup": "it remembers what it said of each image, and a mixed image is another one every epoch",
        "label_smoothing": "it softens labels itself, by its own predictions",
    }
    renamed: ClassVar[Mapping[str, str]] = {"past": "past.bank"}

    def __init__(self, *nets: *Nets, ce: float, temperature: float, alpha: float) -> None:
        student, _, data = nets
        super().__init__(student, (), data, ce=ce, temperature=temperature, kd=0.0)
        if not 0 <= alpha <= 1:
            raise ValueError(f"method.alpha is {alpha}: it is a share of the target, from 0 to 1.")
        self.alpha = alpha
        self._seen: tuple[Tensor, Tensor] | None = None
        self.past = MemoryBank(F.one_hot(data.classes.long(), student.num_classes).float())

    def loss(self, batch: Batch) -> Losses:
        logits = self.student(batch.inputs).logits
        self.count(logits, batch.labels)
        past, alpha = self.past[batch.index], self.alpha * self.epoch / self.epochs
        self._seen = batch.index, logits.detach()
        return {"ce": self.ce * progressive_loss(logits, batch.classes, past, alpha)}

    def after_step(self) -> None:
        assert self._seen
        (index, logits), self._seen = self._seen, None
        self.past.write(index, (logits.float() / self.temperature).softmax(1))
