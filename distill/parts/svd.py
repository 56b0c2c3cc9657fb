"""Truncated singular value decomposition of maps, with gradients that stay finite (KD-SVD and MHGD)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distill.losses import full_precision

DAMPING = 1e-3


@full_precision
def leading_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` leading right singular vectors [B,C,count] and values [B,count] of maps [B,C,H,W].

    A map is read as a matrix of H*W positions and C channels. The vectors are exact: eigenvectors of the
    smaller of its two Gram matrices, which costs far less than decomposing the map. Their sign, which is
    arbitrary, is chosen so that their elements sum to no less than zero. Values carry no gradient.

    The gradient is that of first-order perturbation theory, which divides by gaps d between squared singular
    values; in units of the largest, 1/d is damped to d / (d^2 + DAMPING^2), so that equal values give zero
    and not infinity. On CUDA, `eigh` waits for the device. Entries that are not finite count as zero in the
    decomposition.
    """
    x = maps.flatten(2).mT
    with torch.no_grad():
        squares, basis = eigenbasis(torch.nan_to_num(x, posinf=0.0, neginf=0.0))
        leading = basis[:, :, :count]
        weights = damped_gaps(squares, count)
        change = x.mT @ (x @ leading)
    moved = x.mT @ (x @ leading) - change  # zero, but for its gradient
    along = basis.mT @ moved
    vectors = leading + basis @ (weights * along)
    if basis.shape[2] < basis.shape[1]:  # more channels than positions: all other directions have value zero
        vectors = vectors + (moved - basis @ along) * inverse(squares[:, None, :count], squares)
    return vectors, squares[:, :count].sqrt()


def eigenbasis(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared singular values [B,R], falling, and right singular vectors [B,C,R] of x [B,P,C].

    R = min(P,C). Vectors whose value is lost in rounding are zero where P < C.
    """
    wide = x.shape[1] < x.shape[2]
    gram = x @ x.mT if wide else x.mT @ x
    with one_thread():
        squares, basis = torch.linalg.eigh(gram)
    squares, basis = squares.flip(1).clamp_min(0), basis.flip(2)
    if wide:
        lost = squares <= 1e-6 * squares[:, :1]
        scale = squares.sqrt().masked_fill(lost, torch.inf)
        basis = x.mT @ basis / scale[:, None]
    return squares, torch.where(basis.sum(1, keepdim=True) < 0, -basis, basis)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let the CPU work with one thread: decompositions of small matrices take several times as long with more."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def damped_gaps(squares: Tensor, count: int) -> Tensor:
    """Return damped 1 / (l_j - l_i) [B,R,count] of squared values [B,R]; zero where i = j."""
    return inverse(squares[:, None, :count] - squares[:, :, None], squares)


def inverse(gaps: Tensor, squares: Tensor) -> Tensor:
    """Return 1 / gaps [B,*,*], damped where they are small beside the largest of `squares` [B,R]."""
    largest = squares[:, :1, None].clamp_min(1e-30)
    gaps = gaps / largest
    return gaps / (gaps.square() + DAMPING**2) / largest


def align(student: Tensor, teacher: Tensor) -> Tensor:
    """Return for each teacher vector [B,C,k] the nearest student vector among [B,C,m]: [B,C,k].

    The nearest has the largest |cosine|, and is turned to the teacher's side.
    """
    cosine = student.mT @ teacher
    chosen = cosine.abs().argmax(1, keepdim=True)
    sign = torch.where(cosine.gather(1, chosen) < 0, -1.0, 1.0).detach()
    return sign * student.gather(2, chosen.expand(-1, student.shape[1], -1))
