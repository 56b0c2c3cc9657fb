"""Distillation of a foundation model without labels, by a queue of its features and by places (LightlyTrain, v3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import distill.parallel as parallel
from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.patches import at_positions, patch_map, patch_shape

SIZES = ((50, 16), (100, 32), (250, 64), (500, 128), (1000, 256), (2000, 512), (4000, 1024), (10000, 2048),
         (20000, 4096))  # fmt: skip
"""Training images at most, and rows of the queue; 8192 of more images (lightly-train, distillationv3.py)."""
LARGEST = 8192


@full_precision
def queue_loss(student: Tensor, teacher: Tensor, queue: Tensor, tau: float) -> Tensor:
    """KL(teacher || student) of how near embeddings [B,D] are to the rows of a queue [Q,D], all of length 1.

    The rows are the weights of a classifier of pseudo-classes; softmax at the temperature tau, mean over the batch.
    """
    z_s, z_t = (student @ queue.T / tau, teacher @ queue.T / tau)
    return F.kl_div(z_s.log_softmax(1), z_t.log_softmax(1), reduction="batchmean", log_target=True)


@full_precision
def positions_loss(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """KL(teacher || student) of how near each place of an image is to all of them, for places [B,N,D] of length 1;
    mean over places and images.
    """
    z_s, z_t = ((rows @ rows.transpose(1, 2) / tau).flatten(0, 1) for rows in (student, teacher))
    return F.kl_div(z_s.log_softmax(1), z_t.log_softmax(1), reduction="batchmean", log_target=True)


def head(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with weights from a normal of spread 0.02, cut off at 2, and biases as torch draws them."""
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    return layer


class PseudoLabelQueue(Method):
    """ce CE + kd KLT + weight x queue_loss + local x positions_loss.

    The student's embedding and its patches go through a linear map each to the teacher's widths, its patches to the
    teacher's places, and all are brought to length 1. The queue holds the teacher's latest embeddings, the batch's
    first; rows that are not filled yet are zeros, as in the authors' code, which mixes images by MixUp with a share
    from 0 to 1 as well (schedule.mixup=1). Of several processes all see one queue; theirs have one each.
    """

    queue: Tensor  # [Q,D]

    def __init__(
        self, *nets: *Nets, weight: float, local: float, tau: float, tau_local: float, queue: int | None, **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        if not (weight or local):
            raise ValueError("method.weight and method.local are 0, and nothing is learned of the teacher: set one")
        self.weight, self.local, self.tau, self.tau_local = weight, local, tau, tau_local
        student, teacher, images = self.student, self.teacher, self.data.num_train
        rows = queue or next((rows for most, rows in SIZES if images <= most), LARGEST)
        self.register_buffer("queue", torch.zeros(rows, teacher.embedding_dim))
        if weight:
            self.whole = head(student.embedding_dim, teacher.embedding_dim)
        if local:
            self.parts = head(patch_shape(student)[0], patch_shape(teacher)[0])

    @torch.no_grad()
    def renewed(self, embedding: Tensor) -> Tensor:
        """The queue [Q,D] with a batch's embeddings [B,D] in front, which it keeps."""
        rows = torch.cat([parallel.gathered(embedding).float(), self.queue])[: len(self.queue)]
        self.queue.copy_(rows)
        return rows

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        losses: Losses = {}
        if self.weight:
            z_t = F.normalize(teacher.embedding.float(), dim=1)
            z_s = F.normalize(self.whole(student.embedding).float(), dim=1)
            losses["queue"] = self.weight * queue_loss(z_s, z_t, self.renewed(z_t), self.tau)
        if self.local:
            places = patch_map(teacher)
            rows = self.parts(patch_map(student).movedim(1, -1)).movedim(-1, 1)
            z_s = F.normalize(at_positions(rows, places).float(), dim=2)
            z_t = F.normalize(at_positions(places, places).float(), dim=2)
            losses["places"] = self.local * positions_loss(z_s, z_t, self.tau_local)
        return losses
