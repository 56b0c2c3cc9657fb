"""What the losses of an update do to the parameters of a method."""

from __future__ import annotations

import torch

from distill.batch import Batch
from distill.method import Losses, Method, Update


def backward(method: Method, losses: Losses) -> None:
    """The gradients of these losses, and no others."""
    method.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()


def not_finite(method: Method) -> list[str]:
    """The parameters whose gradients are infinite, or no numbers."""
    with_gradient = ((name, p.grad) for name, p in method.named_parameters() if p.grad is not None)
    return [name for name, gradient in with_gradient if not gradient.isfinite().all()]


def reached(method: Method, update: Update, batch: Batch) -> set[int]:
    """The parameters to which an update gives gradients."""
    backward(method, update.loss(batch))
    trained = [p for module in update.trains for p in module.parameters() if p.requires_grad]
    return {id(p) for p in trained if p.grad is not None}
