"""What the tests of on-line methods share."""

from __future__ import annotations

import torch

from distill.engine.update import train_mode
from distill.methods.okddip import OKDDip
from tests import tiny
from tests.slow import student


def first_batch(method, data):
    phase = method.phases()[0]
    source = data.source(8, 1)
    train_mode(method, phase)
    return phase, next((phase.source(source) if phase.source else source).epoch(1))


def rows(logits: torch.Tensor) -> list[list[float]]:
    return logits.detach().double().tolist()


def okddip(form: str, **options) -> OKDDip:
    torch.manual_seed(0)
    return tiny.by_hand(OKDDip, student(), [], tiny.tiny_data().info, form=form, ramp_epochs=0, **options)
