"""How a net is read: what a reader hands out, and what nets are told apart by."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill.files import first_line
from distill.models.outputs import Outputs

NO_VALUES = "values are compared, and on the meta device there are none"

class Reader(Protocol):
    """How one kind of network is read. The network is always passed in: readers hold no modules."""

    def read(self, model: nn.Module, inputs: Tensor) -> Outputs: ...
    def classify(self, model: nn.Module, feature: Tensor) -> Tensor: ...
    def stage(self, model: nn.Module, index: int, feature: Tensor) -> Tensor: ...
    def head(self, model: nn.Module, final: Tensor) -> Tensor: ...
    def classifier(self, model: nn.Module) -> nn.Module: ...
    def bn_before_relu(self, model: nn.Module) -> list[nn.BatchNorm2d]: ...


def last_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that give its logits, one a head: of a head of several, those with an output a class."""
    found: Any = model.get_classifier()  # type: ignore[operator]
    heads = list(found) if isinstance(found, (tuple, list)) else [found]
    layers = [layer for head in heads for layer in head.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return [layer for layer in layers if layer.weight.shape[0] == model.num_classes]


def drops_patches(model: nn.Module) -> bool:
    """Whether a transformer is trained on some of its patches alone, as timm's `patch_drop_rate` has it."""
    return type(getattr(model, "patch_drop", None)).__name__.startswith("PatchDropout")


def auxiliary_head(model: nn.Module) -> nn.Module | None:
    """A second head, VOLO's, whose best answer for a patch is added to the classifier's; None of other nets."""
    found = getattr(model, "aux_head", None)
    return found if isinstance(found, nn.Module) else None


class evaluating:  # noqa: N801 - a context manager, read as a phrase
    """with evaluating(model): eval mode inside, every submodule's own mode afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self.modes:
            module.training = training


def is_self_contained(net: nn.Module, part: Callable[[], Tensor], whole: Tensor | None) -> bool:
    """Whether a part of a net, run by itself in eval mode, gives what the whole net gave there; not where it fails.

    Raises NotImplementedError on the meta device.
    """
    if whole is not None and whole.is_meta:
        raise NotImplementedError(NO_VALUES)
    try:
        with torch.no_grad(), evaluating(net), without_tf32():
            made = part()
        return whole is not None and torch.allclose(made, whole, rtol=1e-3, atol=1e-4)
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False


@contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions and matrix products in whole fp32 inside, what was allowed before afterwards: two ways to the same
    numbers differ by more than what they are told apart by where 10 bits of each factor are read.
    """
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    allowed = cudnn.allow_tf32
    try:
        cudnn.allow_tf32 = False
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        cudnn.allow_tf32 = allowed
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)


def counts_batches(part: nn.Module) -> bool:
    """Whether a layer in train mode keeps a mean or variance of batches: BatchNorms, timm's EvoNorm-B and the like."""
    if isinstance(part, _BatchNorm):
        return True
    return isinstance(getattr(part, "running_var", None), Tensor) and "Frozen" not in type(part).__name__


@contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Leave running statistics alone while a net in train mode is only being asked: BatchNorms are told so, other
    layers write into copies.
    """
    counting = [part for part in net.modules() if counts_batches(part)]
    tracking = [norm for norm in counting if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    others = [part._buffers for part in counting if part.training and not isinstance(part, _BatchNorm)]
    kept = [(buffers, dict(buffers)) for buffers in others]
    for norm in tracking:
        norm.track_running_stats = False
    for buffers, own in kept:
        buffers |= {name: None if value is None else value.clone() for name, value in own.items()}
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True
        for buffers, own in kept:
            buffers |= own


def wrong_size(name: str, size: int, in_chans: int, error: Exception) -> str:
    """One sentence for a network that refuses the data's images."""
    reason = first_line(error).rstrip(".")
    return (
        f"{name} does not work on {in_chans}x{size}x{size} images ({reason}): set dataset.size to what it "
        "takes, or give it other args, such as img_size or patch_size"
    )
