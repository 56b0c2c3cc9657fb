"""Knowledge distillation meets self-supervision, SSKD (Xu, Liu, Li, Loy, ECCV 2020, arXiv:2006.07114)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch, Source
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update

ROTATIONS = 4


def rotate(views: Sequence[Tensor]) -> Tensor:
    """Four times [B,C,H,H] -> [4B,C,H,H]: of each image its four views, upright and turned by 90, 180, 270 degrees."""
    turned = torch.stack([torch.rot90(view, k, (2, 3)) for k, view in enumerate(views)], dim=1)
    return turned.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def parted(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[4B,...] in the order of `rotate` -> the upright ones [B,...] and the turned ones [3B,...]."""
    grouped = rows.unflatten(0, (-1, ROTATIONS))
    return grouped[:, 0], grouped[:, 1:].flatten(0, 1)


@full_precision
def crop_similarities(embeddings: Tensor) -> Tensor:
    """[4B,D] -> cosines [3B,B] of every turned image with every upright one (section 3.2)."""
    upright, turned = parted(F.normalize(embeddings, dim=1, eps=1e-8))
    return turned @ upright.T


def positives(count: int, device: torch.device) -> Tensor:
    """[3B]: which upright image each turned one comes from."""
    return torch.arange(count, device=device).repeat_interleave(ROTATIONS - 1)


@full_precision
def kept(scores: Tensor, targets: Tensor, ratio: float) -> Tensor:
    """Which samples the student learns from [M]: all that the teacher gets right, and of the wrong ones the
    share `ratio` (rounded down) whose target it ranks highest (section 3.4). scores [M,K], targets [M]."""
    rank = (scores > scores.gather(1, targets[:, None])).sum(1)
    place = rank.argsort(stable=True).argsort()
    wrong = (rank > 0).sum()
    return place < len(rank) - wrong + (wrong * ratio).floor()


@full_precision
def selected_kl(student: Tensor, teacher: Tensor, keep: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of rows [M,K] at temperature T, averaged over the rows in `keep` [M] (eq.
    5-7)."""
    log_student = (student / temperature).log_softmax(1)
    log_teacher = (teacher / temperature).log_softmax(1)
    rows = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return torch.where(keep, rows, 0).sum() / keep.sum().clamp(min=1) * temperature**2


def four_crops(source: Any) -> Source:
    """The source with four crops of each image and one flip."""
    changed: Source = source.replace(crops=ROTATIONS)
    return changed


def projection_head(width: int) -> nn.Sequential:
    """The two-layer perceptron on an embedding [B,D] that keeps its width."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


class SSKD(Method):
    """First a projection head on the frozen teacher learns to find, for a turned image, its upright original;
    then the student learns labels and soft targets of upright images, soft targets of turned ones (weight
    `turned`) and the teacher's similarities between turned and upright ones (`weight`) (eq. 9).

    Weights are those of the authors' code; the supplement has 3.0 and 5.0. Labels are learnt from upright
    images alone. Wrong samples are ranked on the device, so no step waits for it. Similarities are within the
    batch; over several devices each would use its own part. An image's four views share a flip and have a crop
    each. The authors' teachers are stronger than usual.
    """

    def __init__(
        self, *nets: *Nets, weight: float, similarity_temperature: float, turned: float, turned_temperature: float,
        keep_turned: float, keep_similarity: float, init_epochs: int, head_lr: float,
        head_milestones: Sequence[int] | None, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if not (0 <= keep_turned <= 1 and 0 <= keep_similarity <= 1):
            raise ValueError(
                f"method.keep_turned and method.keep_similarity are {keep_turned} and {keep_similarity}: "
                "they are shares between 0 and 1."
            )
        self.weight, self.similarity_temperature = weight, similarity_temperature
        self.turned, self.turned_temperature = turned, turned_temperature
        self.keep_turned, self.keep_similarity = keep_turned, keep_similarity
        self.init_epochs, self.head_lr = init_epochs, head_lr
        self.head_milestones = list(head_milestones or (init_epochs // 2, init_epochs * 3 // 4))
        self.student_head = projection_head(student.embedding_dim)
        self.teacher_head = projection_head(self.teacher.embedding_dim)

    def head_loss(self, batch: Batch) -> Losses:
        """First phase: the teacher's head tells which upright image a turned one is (eq. 1-2, no
        temperature)."""
        with torch.no_grad():
            embedding = self.teacher(self.rotated_views(batch, "teacher")).embedding
        scores = crop_similarities(self.teacher_head(embedding))
        return {"head": F.cross_entropy(scores, positives(len(batch), scores.device))}

    def rotated_views(self, batch: Batch, side: str) -> Tensor:
        """The batch's four crops, turned, as the "student" or the "teacher" sees them [4B,C,H,H]."""
        apart = side == "teacher" and "teacher" in batch.views
        first, prefix = (batch.views["teacher"], "teacher_") if apart else (batch.inputs, "")
        return rotate([first, *(batch.views[f"{prefix}crop_{k}"] for k in range(1, ROTATIONS))])

    def loss(self, batch: Batch) -> Losses:
        student = self.student(self.rotated_views(batch, "student"))
        with torch.no_grad():
            teacher = self.teacher(self.rotated_views(batch, "teacher"))
            similar_t = crop_similarities(self.teacher_head(teacher.embedding))
        (upright, turned), (known, known_turned) = parted(student.logits), parted(teacher.logits)
        losses = self.supervised(upright, batch)
        if self.kd:
            losses["kd"] = self.kd * self.soft_targets(upright, known)
        if self.turned:
            losses["turned"] = self.turned * self._rotated(turned, known_turned, batch.classes)
        if self.weight:
            losses["similar"] = self.weight * self._similar(
                crop_similarities(self.student_head(student.embedding)), similar_t
            )
        return losses

    def _rotated(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        keep = kept(teacher, labels.repeat_interleave(ROTATIONS - 1), self.keep_turned)
        return selected_kl(student, teacher, keep, self.turned_temperature)

    def _similar(self, student: Tensor, teacher: Tensor) -> Tensor:
        keep = kept(teacher, positives(teacher.shape[1], teacher.device), self.keep_similarity)
        return selected_kl(student, teacher, keep, self.similarity_temperature)

    def phases(self) -> list[Phase]:
        epochs = self.init_epochs
        head = Phase(
            "head",
            [Update("head", self.head_loss, [self.teacher_head])],
            epochs=epochs,
            schedule={"lr": self.head_lr, "milestones": self.head_milestones},
            source=four_crops,
            evaluates=False,
        )
        student = Update("student", self.loss, [self.student, self.student_head])
        distill = Phase("distill", [student], source=four_crops)
        return [head, distill] if epochs else [distill]
