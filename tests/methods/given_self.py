"""What the tests of self-distillation share."""

from __future__ import annotations

import torch

from tests import tiny
from tests.slow import student


def guided(kind, **keywords):
    data = tiny.tiny_data()
    torch.manual_seed(0)
    return data, tiny.by_hand(kind, student(), [tiny.frozen(tiny.net("cifar_resnet14", 2))], data.info, **keywords)
