"""Denoising diffusion of features: a linear schedule of noise, DDIM's steps back, and a net that predicts the noise.

Shape letters: B batch, C channels, H W map size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from distill.losses import full_precision
from distill.parts.heads import BatchNorm

TIMES = 1000  # steps of the schedule, whose betas rise from 1e-4 to 0.02 (Ho et al., NeurIPS 2020, arXiv:2006.11239)
_EMBEDDED = 1280


def signal_share() -> Tensor:
    """Return the share of the signal's variance [TIMES] that is left after each step: the product of 1 - beta."""
    return (1 - torch.linspace(1e-4, 0.02, TIMES)).cumprod(0)


def reverse_steps(count: int) -> Iterator[tuple[int, float, float]]:
    """Yield (time, share of the signal there, share after the step) of `count` steps from the middle of the schedule to
    its start, as far apart as those of 2 `count` steps over all of it.
    """
    signal, stride = signal_share().tolist(), TIMES // (2 * count)
    for time in range((count - 1) * stride, -1, -stride):
        yield time, signal[time], signal[time - stride] if time else 1.0


def denoised(noisy: Tensor, predict: Callable[[Tensor, int], Tensor], count: int) -> Tensor:
    """Return maps [B,C,H,W] after steps of DDIM without noise (Song et al., ICLR 2021, arXiv:2010.02502, eq. 12)."""
    for time, before, after in reverse_steps(count):
        noise = predict(noisy, time)
        clean = (noisy - (1 - before) ** 0.5 * noise) / before**0.5
        noisy = after**0.5 * clean + (1 - after) ** 0.5 * noise
    return noisy


class NarrowBlock(nn.Module):
    """x + 1x1, 3x3 and 1x1 convolutions, `reduction` times narrower inside, each with BatchNorm, ReLU between."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.block = nn.Sequential(
            nn.Conv2d(channels, inner, 1), BatchNorm(inner), nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1), BatchNorm(inner), nn.ReLU(),
            nn.Conv2d(inner, channels, 1), BatchNorm(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def widened(channels: int, factor: int) -> list[nn.Module]:
    """1x1 convolutions to `factor` times the channels and back, each with BatchNorm, ReLU between."""
    wide = channels * factor
    return [nn.Conv2d(channels, wide, 1), BatchNorm(wide), nn.ReLU(), nn.Conv2d(wide, channels, 1), BatchNorm(channels)]


class NoisePredictor(nn.Module):
    """Noisy maps [B,C,H,W] and their times -> the noise in them; spatial: whether 3x3 convolutions have a neighbour."""

    def __init__(self, channels: int, *, spatial: bool) -> None:
        super().__init__()
        self.times = nn.Embedding(_EMBEDDED, channels)
        if spatial:
            last = [nn.Conv2d(channels, channels, 1), BatchNorm(channels)]
            self.predict = nn.Sequential(NarrowBlock(channels, 4), NarrowBlock(channels, 4), *last)
        else:
            self.predict = nn.Sequential(*widened(channels, 4), *widened(channels, 4)[:-1])

    def forward(self, noisy: Tensor, times: Tensor | int) -> Tensor:
        """times: one of all maps, or of each [B]."""
        shift = self.times.weight[times]
        return self.predict(noisy + shift.view(-1, noisy.shape[1], 1, 1))


class NoiseAdapter(nn.Module):
    """Maps [B,C,H,W] -> the share [B,1,1,1] of them that is kept, between 0 and 1; the rest gives way to noise."""

    def __init__(self, channels: int, *, spatial: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(*([NarrowBlock(channels, 8)] if spatial else widened(channels, 2)))
        self.predict = nn.Linear(channels, 2)

    def forward(self, maps: Tensor) -> Tensor:
        return self.predict(self.features(maps).mean((2, 3))).softmax(dim=1)[:, :1, None, None]


@full_precision
def noised(maps: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """sqrt(a) x + sqrt(1 - a) e of maps [B,C,H,W], a the share of the signal [B]."""
    share = signal.view(-1, 1, 1, 1)
    return share.sqrt() * maps + (1 - share).sqrt() * noise


class Denoising(nn.Module):
    """The student's maps, noised by as much as an adapter sees fit and denoised in `steps`, in the teacher's space.

    `forward` gives the student's refined maps, behind a convolution and BatchNorm; `learn` is the predictor's own loss
    on the teacher's.
    """

    signal: Tensor

    def __init__(self, student: int, teacher: int, steps: int, *, spatial: bool) -> None:
        super().__init__()
        self.steps = steps
        self.transform = nn.Conv2d(student, teacher, 1)
        self.project = nn.Sequential(nn.Conv2d(teacher, teacher, 1), BatchNorm(teacher))
        self.predictor = NoisePredictor(teacher, spatial=spatial)
        self.adapter = NoiseAdapter(teacher, spatial=spatial)
        self.register_buffer("signal", signal_share(), persistent=False)

    def forward(self, student: Tensor) -> Tensor:
        maps = self.transform(student)
        kept = self.adapter(maps)
        noisy = kept * maps + (1 - kept) * torch.randn_like(maps)
        return self.project(denoised(noisy, self.predictor, self.steps))

    def learn(self, teacher: Tensor) -> Tensor:
        """Mean squared error of the noise that is predicted in the teacher's maps, each at a time that is drawn."""
        noise = torch.randn_like(teacher)
        times = torch.randint(TIMES, (len(teacher),), device=teacher.device)
        predicted = self.predictor(noised(teacher, noise, self.signal[times]), times)
        return (predicted.float() - noise.float()).square().mean()
