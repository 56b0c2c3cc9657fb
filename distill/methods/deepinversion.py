"""DeepInversion (Yin et al., CVPR 2020, arXiv:1912.08795)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.data.noise import SyntheticSource
from distill.losses import full_precision
from distill.method import Losses, Nets, Phase, Update
from distill.models import FeatureNet
from distill.parts.datafree import BatchNormInputs, DataFree, WarmRestarts
from distill.parts.synthetic_images import CropFlip, RingBuffer


@full_precision
def variation_loss(inputs: Tensor) -> Tensor:
    """Sum of four norms: of differences to the right, lower and both lower diagonal pixels of [B,C,S,S]."""
    right = inputs[..., :, 1:] - inputs[..., :, :-1]
    below = inputs[..., 1:, :] - inputs[..., :-1, :]
    diagonal = inputs[..., 1:, 1:] - inputs[..., :-1, :-1]
    other = inputs[..., 1:, :-1] - inputs[..., :-1, 1:]
    return torch.stack([difference.norm() for difference in (right, below, diagonal, other)]).sum()


class Canvas(nn.Module):
    """The images that are being optimised [B,C,S,S], and the class each is to show [B]."""

    targets: Tensor

    def __init__(self, count: int, net: FeatureNet, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pixels = nn.Parameter(torch.zeros(count, net.in_chans, net.size, net.size))
        self.register_buffer("targets", torch.full((count,), -1))

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew from noise. Classes come in turn, as in the authors' script for CIFAR-10, and go on where those of
        the images before ended.
        """
        self.pixels.normal_()
        turn = torch.arange(1, len(self.targets) + 1, device=self.targets.device)
        self.targets.copy_((self.targets[-1] + turn) % self.num_classes)


class DeepInversion(DataFree):
    """Images are optimised until the teacher knows them and its BatchNorm layers find them usual; then KD on
    them.

    Phase 1, an epoch a batch of images: CE(z_t, y) + bn x statistics + tv x total variation + l2 x ||x||_2
    (eq. 2-4), all of images rolled by up to `jitter` pixels, Adam with fresh moments for every batch. Phase 2: T^2
    KL on the `batches` x `batch_size` images that are kept, cropped and flipped as training images are. The
    authors released no code for phase 2; T=3 is their word, the number of images is ours, the augmentation
    that of the re-run of zju-vipa/CMI. Adaptive DeepInversion, which asks the student too, is left to cmi.
    """

    one_process = "it optimises one batch of images at a time, and each process would have its own"

    def __init__(
        self, *nets: *Nets, kd: float, temperature: float, batches: int, batch_size: int, steps: int, bn: float,
        tv: float, l2: float, jitter: int, pad: int, flip: bool, image_optimizer: Mapping[str, Any]
    ) -> None:
        student, _, data = nets
        super().__init__(*nets, kd=kd, temperature=temperature, latent=0, batch_size=batch_size, steps=steps)
        if batches < 1:
            raise ValueError(
                f"method.batches is {batches}: deepinversion needs at least one batch of images."
            )
        self.batches, self.bn, self.tv, self.l2, self.jitter = batches, bn, tv, l2, jitter
        self.image_optimizer = dict(image_optimizer)
        self.seen = BatchNormInputs(self.teacher, "deepinversion")
        self.canvas = Canvas(batch_size, student, data.num_classes)
        self.made = RingBuffer(batches * batch_size, student.in_chans, student.size, student.size)
        self.targets = RingBuffer(batches * batch_size, dtype=torch.int64)
        self.augment = CropFlip(data, pad, flip)
        self.inverting = False

    def image_loss(self, batch: Batch) -> Losses:
        """Loss of phase 1, of the images; the batch brings nothing but its number."""
        shown = self.jittered(self.canvas.pixels)
        with self.seen:
            logits = self.teacher(shown).logits
        self.count(logits, self.canvas.targets)
        losses = {"ce": F.cross_entropy(logits, self.canvas.targets), "bn": self.bn * self.seen.loss()}
        if self.tv:
            losses["tv"] = self.tv * variation_loss(shown)
        if self.l2:
            losses["l2"] = self.l2 * shown.norm()
        return losses

    def jittered(self, inputs: Tensor) -> Tensor:
        down, right = torch.randint(-self.jitter, self.jitter + 1, (2,)).tolist()
        return inputs.roll((down, right), (2, 3))

    def student_loss(self, batch: Batch) -> Losses:
        return self.learn(self.augment(batch.inputs))[0]

    def before_epoch(self) -> None:
        if self.inverting:
            self.canvas.restart()

    def after_epoch(self) -> None:
        if self.inverting:
            self.made.add(self.canvas.pixels.detach())
            self.targets.add(self.canvas.targets)

    def invert(self) -> None:
        self.inverting = True

    def teach_student(self) -> None:
        self.inverting = False

    def pool(self, source: Any) -> SyntheticSource:
        """Return the source of phase 2; of the run's own nothing but seed and batch size is read."""
        made, targets = self.made, self.targets
        return SyntheticSource(
            lambda: made.rows, lambda: targets.rows, batch_size=source.batch_size, seed=source.seed
        )

    def phases(self) -> list[Phase]:
        update = Update("images", self.image_loss, [self.canvas], self.image_optimizer, stepper=WarmRestarts)
        student = Update("student", self.student_loss, [self.student])
        return [
            Phase("invert", [update], self.batches, source=self.noise, begin=self.invert, evaluates=False),
            Phase("distill", [student], source=self.pool, begin=self.teach_student),
        ]
