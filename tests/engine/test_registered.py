"""Weights that torch does not find in a method are refused before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distill.engine.registered import check_registered
from tests import tiny


@pytest.mark.parametrize("held", [
    [torch.nn.Linear(2, 2)], {"a": (torch.nn.Linear(2, 2),)}, torch.ones(2, requires_grad=True),
])  # fmt: skip
def test_weights_that_torch_does_not_find_are_refused(held: Any) -> None:
    method = tiny.seeded_method("kd", tiny.tiny_data(), tiny.SMALLEST)
    method.frozen = [tiny.frozen(tiny.net("cifar_resnet8"))]
    check_registered(method)
    method.held = held
    with pytest.raises(ValueError, match="KD.held holds weights that would never be trained"):
        check_registered(method)
