"""What a trained net is worth: accuracy, calibration, agreement with its teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data import Data, Split
from distill.engine.beside import Beside, logits_of, top1
from distill.losses import full_precision
from distill.models.reading import evaluating

AT_ONCE = 512  # images of a forward


@torch.no_grad()
def predict(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Tensor, Tensor]:
    """Return fp32 logits [M,K] and labels [M] of all batches, on their device; the net's mode is restored."""
    logits, labels = [], []
    with evaluating(net), autocast():
        for images, targets in batches:
            logits.append(logits_of(net, images))
            labels.append(targets)
    return torch.cat(logits), torch.cat(labels)


def accuracy(net: nn.Module, data: Data, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext) -> float:
    """Top-1 accuracy in percent on the split that is evaluated."""
    return top1(*predict(net, data.evaluation(AT_ONCE), autocast))


class Evaluation:
    """`accuracy` of a net, which keeps what the last one said: a run's result tells more of its last evaluation."""

    def __init__(self, data: Data, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self.data, self.autocast = data, autocast
        self._last: tuple[nn.Module, Tensor, Tensor] | None = None
        self._beside: Beside | None = None

    def begin(self) -> None:
        """Let workers read the first images while training takes its last steps."""
        self.data.begin_evaluation(AT_ONCE)

    def __call__(self, net: nn.Module) -> float:
        self._last = None
        logits, labels = predict(net, self.data.evaluation(AT_ONCE), self.autocast)
        self._last = (net, logits.cpu(), labels)  # the logits of ImageNet are not to fill a GPU
        return top1(logits, labels)

    @property
    def beside(self) -> Beside | None:
        """What measures nets while training goes on, as a call would; None for images that do not lie in memory."""
        split = self.data.evaluated
        if self._beside is None and isinstance(split, Split):
            self._beside = Beside(lambda: self.data.evaluation(AT_ONCE), self.autocast, split.images.device)
        return self._beside

    def last_logits(self, net: nn.Module, unchanged: bool) -> tuple[Tensor, Tensor]:
        """Logits [M,K] and labels [M]; those of the last call where it was this net's, `unchanged` since."""
        if unchanged and self._last and self._last[0] is net:
            _, logits, labels = self._last
            return logits.to(labels.device), labels
        return predict(net, self.data.evaluation(AT_ONCE), self.autocast)


def reported_score(
    net: nn.Module, data: Data, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> float | dict[str, float]:
    """What a result tells of a net that a method reports: what its `measure` makes of its logits, or its accuracy."""
    if not hasattr(net, "measure"):
        return accuracy(net, data, autocast)
    found: dict[str, float] = net.measure(*predict(net, data.evaluation(AT_ONCE), autocast))  # type: ignore[operator]
    return found


@full_precision
def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return top-1, top-5 accuracy and expected calibration error in percent, cross-entropy, and a count of errors.

    Of equal logits, which bf16 has now and then, the first class is the prediction, as `accuracy` counts; topk's order
    of them is anything.
    """
    right = logits.argmax(1) == labels
    among_five = (logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]).any(1) | right
    return {
        "accuracy": 100 * right.double().mean().item(),
        "top5": 100 * among_five.double().mean().item(),
        "nll": F.cross_entropy(logits, labels).item(),
        "ece": 100 * calibration_error(logits, labels).item(),
        "errors": int((~right).sum()),
    }


def by_confidence(logits: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of logits [M,K] its bin of `bins` equally wide ones, its confidence, and whether it is right [M]."""
    confidence, predicted = logits.softmax(1).max(1)
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return which, confidence.double(), (predicted == labels).double()


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Expected calibration error over equal-width bins of confidence (Guo et al. 2017, arXiv:1706.04599, eq. 3)."""
    which, confidence, correct = by_confidence(logits, labels, bins)
    gap = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    gap.index_add_(0, which, correct - confidence)
    return gap.abs().sum() / len(labels)


@full_precision
def agreement(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """Return how alike two nets' logits [M,K] are: share of equal top-1 predictions, mean KL(teacher || student)."""
    kl = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
    return {"agreement": (student.argmax(1) == teacher.argmax(1)).double().mean().item(), "teacher_kl": kl.item()}


def without_classes(logits: Tensor, labels: Tensor, trained_on: Tensor) -> dict[str, Any]:
    """Return {"omitted": ..., "errors_of_omitted": ...} where classes of logits [M,K] have no training label, else {}.

    Hinton et al. 2015 (arXiv:1503.02531, section 3): the biases of classes that the transfer set lacks are too
    low, so one number is added to all of them, the one that is best on the evaluated images. Flattering by design.
    """
    counts = torch.bincount(trained_on.cpu(), minlength=logits.shape[1])
    classes = (counts == 0).nonzero().flatten().tolist()
    if not classes:
        return {}
    bias = best_bias(logits.double(), labels, classes)
    corrected = logits.double()
    corrected[:, classes] += bias
    of_omitted = torch.isin(labels, torch.tensor(classes, device=labels.device))
    found: dict[str, Any] = {"classes": classes, "bias": bias}
    for name, values in (("as_trained", logits), ("corrected", corrected)):
        right = (values.argmax(1) == labels).double()
        found[name] = {"accuracy": 100 * right.mean().item(), "of_omitted": 100 * right[of_omitted].mean().item()}
        wrong = 1 - right
        found[name] |= {"errors": int(wrong.sum()), "errors_of_omitted": int(wrong[of_omitted].sum())}
    return {"omitted": found, "errors_of_omitted": found["as_trained"]["errors_of_omitted"]}


def best_bias(logits: Tensor, labels: Tensor, classes: list[int]) -> float:
    """Return the number that, added to `classes` of logits [M,K], makes most of `labels` [M] right.

    Exact: a prediction changes only where the number passes that image's margin between the best other class and
    the best of `classes`. Of equally good numbers, the one nearest to 0.
    """
    chosen = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    chosen[classes] = True
    others, omitted = logits.masked_fill(chosen, -torch.inf).max(1), logits.masked_fill(~chosen, -torch.inf).max(1)
    margin, order = (others.values - omitted.values).sort()
    won = ((omitted.indices == labels).long() - (others.indices == labels).long())[order].cumsum(0)
    gain = torch.cat([won.new_zeros(1), won])  # of every gap between two neighbouring margins
    wall = margin.new_tensor([torch.inf])
    low, high = torch.cat([-wall, margin]), torch.cat([margin, wall])
    middle = torch.where(low.isinf(), high - 1, torch.where(high.isinf(), low + 1, (low + high) / 2))
    middle = torch.where((low < 0) & (high > 0), torch.zeros_like(middle), middle)
    gain = gain.masked_fill(low >= high, -len(labels) - 1)  # no number lies between equal margins
    best = middle[gain == gain.max()]
    return best[best.abs().argmin()].item()
