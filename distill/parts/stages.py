"""Which maps of two nets are compared, and the refusals where two nets have none that can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from distill.models import FeatureNet, Outputs
from distill.models.reading import evaluating
from distill.parts.heads import Shape


def stage_pairs(student: FeatureNet, teacher: FeatureNet, method: str) -> list[tuple[Shape, Shape]]:
    """Return the shapes of each stage of student and teacher; ValueError where one net has more stages."""
    shapes_s, other = student.shapes, teacher.shapes
    if len(shapes_s) != len(other):
        raise ValueError(
            f"{method} compares stages, but student {student.name} has {len(shapes_s)} of shapes {shapes_s} "
            f"and teacher {teacher.name} has {len(other)} of shapes {other}: choose nets with equally many "
            "stages, or a method on embeddings, such as method=crd."
        )
    return list(zip(shapes_s, other, strict=True))


def equal_channels(pairs: Sequence[tuple[Shape, Shape]], student: str, teacher: str, method: str) -> None:
    """ValueError where a student map has not as many channels as the teacher's."""
    if all(shapes_s[0] == other[0] for shapes_s, other in pairs):
        return
    shapes_s, other = ([pair[side] for pair in pairs] for side in (0, 1))
    raise ValueError(
        f"{method} needs maps with as many channels in both nets, but those of student {student} are {shapes_s} "
        f"and those of teacher {teacher} are {other}: choose nets of the same width, or a method for maps of "
        "any width, such as method=at."
    )


def before_relu(net: FeatureNet, outputs: Outputs) -> list[Tensor]:
    """Return the maps before each stage's last ReLU, or the stages' outputs where they end in none."""
    if outputs.preacts is None:
        return outputs.features
    assert len(outputs.preacts) == len(outputs.features), net.name
    return outputs.preacts


def no_hidden_relu(net: FeatureNet, method: str) -> None:
    """ValueError for a net whose stages end in a ReLU that it does not show the input of.

    Stages that end in none (linear bottlenecks, transformers) have negative outputs, which stand for themselves.
    """
    if net.has_preacts:
        return
    with torch.no_grad(), evaluating(net):
        lowest = [float(feature.min()) for feature in net.read(net.probe()).features]
    if any(value >= 0 for value in lowest):
        raise ValueError(
            f"{method} compares maps before each stage's last ReLU, and {net.name} shows its stages {net.shapes} only "
            "after theirs: take a net that shows both, such as one of ours or a timm ResNet, or method=at."
        )


def with_relu(teacher: FeatureNet, method: str) -> None:
    """ValueError for a teacher whose stages do not end in ReLU."""
    if not teacher.has_preacts:
        raise ValueError(
            f"{method} reads the teacher before each stage's last ReLU, and the stages of {teacher.name}, of "
            f"shapes {teacher.shapes}, end in none: choose another teacher, or a method such as method=at."
        )


def used_parameters(net: nn.Module, run: Callable[[], Tensor]) -> set[str]:
    """Names of the parameters of `net` that what `run` returns depends on."""
    named = dict(net.named_parameters())
    flags = {name: p.requires_grad for name, p in named.items()}
    try:
        net.requires_grad_(True)
        with torch.enable_grad(), evaluating(net):
            gradients = torch.autograd.grad(run().sum(), list(named.values()), allow_unused=True)
    finally:
        for name, p in named.items():
            p.requires_grad_(flags[name])
    return {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}
