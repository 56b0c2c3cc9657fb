"""Label smoothing, the baseline without a teacher (Szegedy et al., CVPR 2016, arXiv:1512.00567)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets

SPREADS = ("all", "others")


@full_precision
def smoothed_cross_entropy(logits: Tensor, labels: Tensor, epsilon: float, spread: str) -> Tensor:
    """Cross-entropy of logits [B,K] against (1 - eps) onehot(labels [B]) + eps u (section 7).

    spread "all": u = 1/K on every class, the label's included (the paper, torch, timm). "others": u = 1/(K-1)
    on the wrong classes alone (Tf-KD's code), so that the label keeps exactly 1 - eps: a stronger smoothing.
    """
    cost = -F.log_softmax(logits, dim=1)
    label = cost.gather(1, labels[:, None]).squeeze(1)
    classes = logits.shape[1]
    rest = cost.mean(dim=1) if spread == "all" else (cost.sum(dim=1) - label) / (classes - 1)
    return ((1 - epsilon) * label + epsilon * rest).mean()


class LabelSmoothing(Method):
    """ce x cross-entropy against labels of which `epsilon` is spread evenly; no teacher is loaded."""

    refuses = {"label_smoothing": "it smooths labels itself, by method.epsilon"}

    def __init__(self, *nets: *Nets, ce: float, epsilon: float, spread: str) -> None:
        student, _, data = nets
        super().__init__(student, (), data, ce=ce, kd=0.0, temperature=1.0)
        if not 0 <= epsilon < 1:
            raise ValueError(f"method.epsilon is {epsilon}: give a share from 0 to below 1.")
        if spread not in SPREADS:
            raise ValueError(f"method.spread is {spread!r}: give all (of K classes) or others (of K - 1).")
        if student.num_classes < 2:
            raise ValueError("label-smoothing needs two classes or more: with one use method=none.")
        self.epsilon, self.spread = epsilon, spread

    def loss(self, batch: Batch) -> Losses:
        logits = self.student(batch.inputs).logits
        self.count(logits, batch.labels)
        smooth = self.by_label(lambda y: smoothed_cross_entropy(logits, y, self.epsilon, self.spread), batch)
        return {"ce": self.ce * smooth}
