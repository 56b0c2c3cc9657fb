"""WKD-L and WKD-F together: the losses of both, each as it is alone."""

from __future__ import annotations

import pytest
import torch

from distill.method import Method
from tests import tiny

OF_CLASSES, OF_MAPS = ("method.logits_weight=200.0",), ("method.mean_weight=8.0", "method.temperature=8.0")


def losses(method: Method, data: tiny.Data) -> dict[str, float]:
    method.epoch, method.epochs = 1, 10
    batch = next(iter(data.source(8, seed=1).epoch(0)))
    return {key: float(value.detach()) for key, value in method.loss(batch).items()}


def test_the_losses_are_those_of_wkd_l_and_of_wkd_f() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("wkd-lf", data, tiny.SMALLEST)
    costs = torch.rand(method.cost.shape, generator=torch.Generator().manual_seed(0))
    method.cost.copy_(costs)
    state, both = method.state_dict(), losses(method, data)
    assert both["moved"] > 0 and both["means"] > 0
    found: dict[str, float] = {}
    for name, settings in (("wkd-l", OF_CLASSES), ("wkd-f", OF_MAPS)):
        alone = tiny.seeded_method(name, data, tiny.SMALLEST, *settings)
        alone.load_state_dict({key: state[key] for key in alone.state_dict()})
        found |= losses(alone, data)
    assert both == pytest.approx(found, rel=1e-5)
