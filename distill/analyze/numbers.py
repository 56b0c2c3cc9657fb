"""The numbers behind the pictures, as pure functions of tensors.

N images, K classes, D embedding width, C channels, H W map size, T temperature.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distill.engine.evaluate import by_confidence


def correlation(logits: Tensor) -> Tensor:
    """Pearson correlation [K,K] of the classes' logits over the images of `logits` [N,K], in float64.

    A class whose logit never changes has correlation 0 with the others and 1 with itself.
    """
    centred = logits.double() - logits.double().mean(0)
    length = centred.norm(dim=0)
    scaled = centred / length.where(length > 0, torch.ones_like(length))
    return (scaled.T @ scaled).fill_diagonal_(1.0)


def correlation_difference(teacher: Tensor, student: Tensor) -> Tensor:
    """Teacher's minus student's class correlations [K,K] of logits [N,K] (CRD, arXiv:1910.10699, fig. 3)."""
    return correlation(teacher) - correlation(student)


def attention(feature: Tensor) -> Tensor:
    """Mean over channels of squared activations: [B,C,H,W] -> [B,H,W] (AT, arXiv:1612.03928, section 3.1)."""
    return feature.float().square().mean(1)


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Debiased linear CKA of two representations [N,P] and [N,Q] of the same N >= 4 images.

    Centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414, equation 4) with the unbiased estimator
    of HSIC (Song et al. 2012, equation 5), since the plain one nears 1 for any two wide representations of
    few images. 1: equal up to rotation and scale; about 0, also a little below: unrelated.
    """
    one, two = _gram(a), _gram(b)
    scale = (_hsic(one, one) * _hsic(two, two)).clamp(min=0).sqrt()
    return (_hsic(one, two) / scale).item() if scale > 0 else 0.0


def _gram(features: Tensor) -> Tensor:
    """Inner products [N,N] of centred rows, without those of a row with itself."""
    wide = features.flatten(1).double()
    wide = wide - wide.mean(0)
    return (wide @ wide.T).fill_diagonal_(0)


def _hsic(one: Tensor, two: Tensor) -> Tensor:
    """Unbiased HSIC of two Gram matrices [N,N] with zero diagonals."""
    n = len(one)
    together = (one * two).sum()
    apart = one.sum() * two.sum() / ((n - 1) * (n - 2))
    shared = 2 * (one.sum(0) @ two.sum(0)) / (n - 2)
    return (together + apart - shared) / (n * (n - 3))


def cka_table(rows: list[Tensor], columns: list[Tensor]) -> Tensor:
    """linear_cka of every stage of one net with every stage of another: [rows, columns]."""
    return torch.tensor([[linear_cka(a, b) for b in columns] for a in rows], dtype=torch.float64)


class Reliability(NamedTuple):
    """Of equally wide bins of confidence: images, their mean confidence and accuracy (nan where empty)."""

    images: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """Confidence of the predicted class against accuracy (Guo et al. 2017, arXiv:1706.04599, figure 1)."""
    which, *measured = by_confidence(logits.float(), labels, bins)
    count = torch.bincount(which, minlength=bins)
    sums = [
        torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, which, values)
        for values in measured
    ]
    return Reliability(count, *(total / count for total in sums))


def class_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Accuracy in percent [K] on the images of each class; nan for a class without images."""
    classes = logits.shape[1]
    right = labels[logits.argmax(1) == labels]
    return 100 * torch.bincount(right, minlength=classes) / torch.bincount(labels, minlength=classes)


def softened(logits: Tensor, temperature: float) -> Tensor:
    """softmax(z / T) (Hinton et al. 2015, arXiv:1503.02531, equation 1): [N,K]."""
    return (logits.float() / temperature).softmax(1)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy [N] in nats of distributions [N,K]."""
    return torch.special.entr(probabilities).sum(1)
