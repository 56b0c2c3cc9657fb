"""What data-free methods share: their base, losses on the teacher's answers and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from distill.data.noise import NoiseSource
from distill.engine.optim import Stepper, learning_rate
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import FeatureNet, Outputs
from distill.models.generator import Generator
from distill.models.reading import evaluating


@full_precision
def certainty_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of logits [B,K] with their own argmax: generated images should look like some class.

    One-hot loss of DAFL (arXiv:1904.01186, eq. 3).
    """
    return F.cross_entropy(logits, logits.argmax(1))


@full_precision
def balance_loss(logits: Tensor, base: float | None = None) -> Tensor:
    """Negative entropy of the mean prediction of logits [B,K], in nats or to a base: all classes should
    occur.

    Information-entropy loss of DAFL (arXiv:1904.01186, eq. 5), whose authors take base 10.
    """
    mean = logits.softmax(1).mean(0)
    entropy = -torch.xlogy(mean, mean).sum()
    return -entropy / torch.log(entropy.new_full((), base)) if base else -entropy


class BatchNormInputs:
    """Watches the inputs of a net's BatchNorm layers: `with BatchNormInputs(net) as seen: net(x)`.

    Raises ValueError for a net that has none; `method` names who asks.
    """

    def __init__(self, net: FeatureNet, method: str) -> None:
        norms = (m for m in net.modules() if isinstance(m, _BatchNorm))
        self.norms: list[Any] = [m for m in norms if m.running_mean is not None]
        if not self.norms:
            raise ValueError(
                f"{method} matches statistics of the teacher's BatchNorm layers, and {net.name} has none: "
                "choose another teacher, or a method that needs no statistics, such as method=dafl."
            )
        self.inputs: list[Tensor] = []

    def __enter__(self) -> BatchNormInputs:
        self.inputs = []
        self._hooks = [norm.register_forward_pre_hook(self._note) for norm in self.norms]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.inputs.append(args[0])

    def loss(self) -> Tensor:
        """Return the distance of what was seen from what the layers remember, summed over layers, and forget it."""
        inputs, self.inputs = self.inputs, []
        pairs = zip(inputs, self.norms, strict=True)
        return torch.stack(
            [statistics_loss(x, norm.running_mean, norm.running_var) for x, norm in pairs]
        ).sum()


@full_precision
def statistics_loss(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """||mean(x) - mean||_2 + ||var(x) - var||_2 of a layer's input [B,C,...] (DeepInversion, 1912.08795,
    eq. 4).
    """
    flat = x.transpose(0, 1).flatten(1)
    found_var, found_mean = torch.var_mean(flat, dim=1, correction=0)
    return (found_mean - mean).norm() + (found_var - var).norm()


@contextmanager
def frozen_parameters(net: nn.Module) -> Iterator[None]:
    """Let gradients pass through a net to its input and not into its parameters."""
    wanted = [p for p in net.parameters() if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


class WarmRestarts(Stepper):
    """An optimiser that forgets its moments, and a schedule that starts again, every epoch."""

    def set_lr(self, step: int, steps: int, epochs: int) -> float:
        if step % steps == 0:
            self.optimizer.state.clear()
        return self.use(learning_rate(replace(self.schedule, by_epoch=False), step % steps, steps, 1))


class DataFree(Method):
    """Base: batches are noise, the student learns soft targets on made images alone, `kd` x T^2 KL.

    `steps` batches of `batch_size` make an epoch. The student's BatchNorm sees made images only. Test
    accuracy is measured on real images, and nothing is chosen by it.
    """

    refuses = dict.fromkeys(("mixup", "label_smoothing"), "it sees no images of the data set, only those it makes")

    def __init__(self, *nets: *Nets, kd: float, temperature: float, latent: int, batch_size: int, steps: int) -> None:
        super().__init__(*nets, kd=kd, temperature=temperature, ce=0.0)
        if min(batch_size, steps) < 1:
            raise ValueError(f"method.batch_size={batch_size} and method.steps={steps} must be at least 1.")
        self.latent, self.batch_size, self.steps = latent, batch_size, steps

    def noise(self, source: Any) -> NoiseSource:
        """Return the phase's source; of the run's own nothing but the seed is read."""
        return NoiseSource(
            latent=self.latent,
            num_classes=self.data.num_classes,
            batch_size=self.batch_size,
            steps=self.steps,
            seed=source.seed,
            device=next(self.student.parameters()).device,
        )

    def new_generator(self, **options: Any) -> Generator:
        return Generator(self.latent, self.student.in_chans, self.student.size, **options)

    def learn(self, inputs: Tensor) -> tuple[Losses, Outputs, Outputs]:
        """Return the student's soft-target loss on inputs that take no gradient, and both nets' outputs."""
        with torch.no_grad():
            teacher = self.teacher(inputs)
        return *self.imitate(inputs, teacher.logits), teacher

    def imitate(self, inputs: Tensor, target: Tensor) -> tuple[Losses, Outputs]:
        """Return the student's soft-target loss on inputs, given the teacher's logits [B,K], and its outputs.

        The running accuracy is the agreement with the teacher.
        """
        student = self.student(inputs)
        self.count(student.logits, target.argmax(1))
        return {"kd": self.kd * self.soft_targets(student.logits, target)}, student

    def student_forward(self, inputs: Tensor, train: bool) -> Outputs:
        """Run the student in train or eval mode, with gradients to the inputs alone."""
        with frozen_parameters(self.student), in_mode(self.student, train):
            return self.student(inputs)


@contextmanager
def in_mode(net: nn.Module, train: bool) -> Iterator[None]:
    """Have a net in train or eval mode inside; every part's own mode comes back."""
    with nullcontext() if train else evaluating(net):
        yield
