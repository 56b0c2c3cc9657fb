"""Function-consistent feature distillation (Liu, Kan, Shan, Chen, ICLR 2023, openreview pgHNOcxEdRI)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.engine.optim import Stepper
from distill.losses import full_precision, kd_loss
from distill.method import Losses, Nets, Phase, Update
from distill.models import FeatureNet, Outputs
from distill.models.reading import frozen_statistics, is_self_contained
from distill.parts.heads import Shape
from distill.parts.probing import is_signed, probe_outputs
from distill.parts.stages import stage_pairs
from distill.parts.teacher_mode import TeacherMode

Path = tuple[str, int]
"""("teacher", k): stages 1 to k of the student, the rest of the teacher; ("student", k): the other way round."""


@full_precision
def stage_loss(maps: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of maps [B,C,H,W]."""
    return F.mse_loss(maps, teacher)


@full_precision
def last_map_loss(maps: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared errors of the last maps [B,C,H,W] and of their means over positions [B,C], behind a ReLU."""
    pooled = F.mse_loss(F.relu(maps).mean((2, 3)), F.relu(teacher).mean((2, 3)))
    return F.mse_loss(maps, teacher) + pooled


def bridge(source: Shape, target: Shape, *, signed: bool) -> nn.Sequential:
    """From a map of one net to one of the other: a convolution to its channels and size, BatchNorm, and LeakyReLU(0.1)
    unless the target has negative entries.

    3x3, of stride 2 where the map is twice as large as the target, transposed 4x4 where it is half as large. Raises
    ValueError for other sizes.
    """
    (inputs, size, _), (outputs, wanted, _) = source, target
    conv: nn.Module
    if size == wanted:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    elif size == 2 * wanted:
        conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    elif 2 * size == wanted:
        conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    else:
        raise ValueError(
            f"fcfd leads maps from one net into the other, and no bridge leads from {source} to {target}: take nets "
            "whose stages differ by a factor of two at most, or method=reviewkd."
        )
    if isinstance(conv, nn.Conv2d):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.Identity() if signed else nn.LeakyReLU(0.1))


def stage_maps(outputs: Outputs) -> list[Tensor]:
    """A net's stages as they are passed on, the last one as the head pools it."""
    assert outputs.final is not None
    return [*outputs.features[:-1], outputs.final]


class LateStepper(Stepper):
    """A step that leaves alone what no gradient comes to, as the authors' does: bridges that no path crosses."""

    late = True


class FCFD(TeacherMode):
    """CE + kd KLT + weight x (appearance + function) + mixture x KLT of mixed nets.

    Appearance: the student's maps, led over bridges, match the teacher's. Function: what the teacher's later stages
    make of a bridged map matches what they make of the teacher's own, and so do the logits; and the student's later
    stages lead from the teacher's bridged map to the teacher's logits. In each step `paths` of these mixed nets are
    drawn. The map losses rise with min(epoch / warmup_epochs, 1).

    The authors' teacher stays in train mode: its BatchNorms, and those of all mixed stages, use the batch's statistics;
    with teacher_mode="eval" the teacher's use its own.
    """

    steps_alike = False  # paths are drawn
    unsynced = "each process draws paths of its own, whose BatchNorms are not the same"

    def __init__(
        self, *nets: *Nets, weight: float, mixture: float, paths: int, warmup_epochs: int, teacher_mode: str,
        **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        self.set_teacher_mode(teacher_mode)
        self.weight, self.mixture, self.warmup_epochs = weight, mixture, warmup_epochs
        count = len(stage_pairs(self.student, self.teacher, "fcfd"))
        self.candidates: list[Path] = [(end, k) for end in ("student", "teacher") for k in range(1, count)]
        if not 0 <= paths <= len(self.candidates):
            raise ValueError(f"method.paths is {paths}: these nets can be mixed in {len(self.candidates)} ways.")
        self.paths = paths
        maps_s, maps_t = (probed_maps(net) for net in (self.student, self.teacher))
        self.to_teacher = nn.ModuleList(map(_bridge_between, maps_s, maps_t))
        self.to_student = nn.ModuleList(map(_bridge_between, maps_t[:-1], maps_s[:-1]) if paths else [])

    def drawn(self) -> list[Path]:
        """The mixed nets of this step, of torch's CPU generator, whose state is part of every checkpoint."""
        return [self.candidates[k] for k in torch.randperm(len(self.candidates))[: self.paths].tolist()]

    def phases(self) -> list[Phase]:
        return [Phase("distill", [Update("student", self.loss, [self], stepper=LateStepper)])]

    def through_teacher(self, start: int, maps: Tensor) -> list[Tensor]:
        """A bridged map of stage `start` (1-based) -> what the teacher's later stages make of it, one after the other,
        and its logits [B,K].
        """
        made = []
        with self.in_teacher_mode(self.teacher):
            for index in range(start, len(self.teacher.shapes)):
                maps = self.teacher.stage(index, maps)
                made.append(maps)
            return [*made, self.teacher.head(maps)]

    def through_student(self, start: int, maps: Tensor) -> Tensor:
        """A bridged map of the teacher's stage `start` -> the student's logits [B,K]; its statistics stay."""
        with frozen_statistics(self.student):
            for index in range(start, len(self.student.shapes)):
                maps = self.student.stage(index, maps)
            return self.student.head(maps)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        targets, last = stage_maps(teacher), len(self.teacher.shapes)
        bridged = [lead(maps) for lead, maps in zip(self.to_teacher, stage_maps(student), strict=True)]
        matched = [(k, maps) for k, maps in enumerate(bridged, 1)]
        logits = []
        for end, start in self.drawn():
            if end == "student":
                logits.append(self.through_student(start, self.to_student[start - 1](targets[start - 1])))
                continue
            *made, path_logits = self.through_teacher(start, bridged[start - 1])
            matched += list(enumerate(made, start + 1))
            logits.append(path_logits)
        terms = [(last_map_loss if k == last else stage_loss)(maps, targets[k - 1]) for k, maps in matched]
        weight = self.weight * self.ramp(self.warmup_epochs)
        losses = {"maps": weight * torch.stack(terms).sum()}
        if logits:
            mixed = [kd_loss(each, teacher.logits, self.temperature) for each in logits]
            losses["mixture"] = self.mixture * torch.stack(mixed).sum()
        return losses


def probed_maps(net: FeatureNet) -> list[Tensor]:
    """A net's maps of its fixed image; ValueError where its stages do not lead from one to the next."""
    outputs = probe_outputs(net)
    maps = stage_maps(outputs) if outputs.final is not None else []
    following = range(1, len(maps))
    if not maps or not all(is_self_contained(net, partial(net.stage, k, maps[k - 1]), maps[k]) for k in following):
        raise ValueError(
            f"fcfd runs the stages of {net.name} one by one, and they do not lead from map to map: take a ResNet, "
            "ConvNeXt or one of the CIFAR nets, or method=reviewkd."
        )
    return maps


def _bridge_between(source: Tensor, target: Tensor) -> nn.Sequential:
    shapes = ((x.shape[1], x.shape[2], x.shape[3]) for x in (source, target))
    return bridge(*shapes, signed=is_signed(target))
