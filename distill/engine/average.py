"""The exponential moving average of the net that is trained (schedule.ema): timm's ModelEmaV3, and how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distill.models import FeatureNet
from distill.models.fake_quant import StepInputs


class Average:
    """A copy of a net whose weights and buffers follow its own: a <- decay a + (1 - decay) w in each step.

    warmup: the decay rises as 1 - (1 + step)^(-2/3), up to `decay` (timm's model_ema_warmup); such steps differ from
    each other, and no CUDA graph repeats them. The copy starts as the net is when a phase begins, and the steps of
    inputs' quantisers as the first batch sets them, before which they say nothing.
    """

    def __init__(self, net: FeatureNet, decay: float, warmup: bool) -> None:
        from timm.utils import ModelEmaV3  # imports timm, which takes seconds

        self._source, self.warmup = net, warmup
        self._held = ModelEmaV3(net, decay=decay, use_warmup=warmup)
        self.net: FeatureNet = self._held.module.requires_grad_(False)
        both = zip(self.net.modules(), net.modules(), strict=True)
        self._quantisers = [
            (own, theirs) for own, theirs in both if isinstance(own, StepInputs) and isinstance(theirs, StepInputs)
        ]

    def update(self, step: int) -> None:
        """Follow the net; step: how many of the phase are done, this one included."""
        started = [own.ready.clone() for own, _ in self._quantisers]
        self._held.update(self._source, step=step if self.warmup else None)
        with torch.no_grad():
            for was, (own, theirs) in zip(started, self._quantisers, strict=True):
                own.step.copy_(torch.where(was, own.step, theirs.step))

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a later session goes on from."""
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state)
