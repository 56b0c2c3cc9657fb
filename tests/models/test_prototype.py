"""Copies of a net without memory are what the net is, and nobody's but their own."""

from __future__ import annotations

import torch

from distill.models.prototype import Prototype, shaped, without_memory
from tests import tiny


def test_copies_have_the_nets_shapes_and_share_nothing_that_a_method_changes() -> None:
    made = Prototype(shaped(lambda: tiny.net("cifar_resnet8"), "cifar_resnet8"))
    one = made.copy()
    one.requires_grad_(False)
    one.model.fc = torch.nn.Identity()
    other, real = made.copy(), tiny.net("cifar_resnet8")
    assert {name: each.shape for name, each in other.state_dict().items()} == {
        name: each.shape for name, each in real.state_dict().items()
    }
    assert all(each.is_meta and each.requires_grad for each in other.parameters())
    with without_memory(), torch.no_grad():
        seen = other(torch.randn(2, 3, tiny.SIZE, tiny.SIZE))
    assert [feature.shape[1:] for feature in seen.features] == real.shapes and seen.logits.is_meta


def test_nothing_is_drawn_without_memory() -> None:
    before = torch.get_rng_state()
    with without_memory():
        layer = torch.nn.Linear(3, 4)
        noise = torch.randn(2, 3, generator=torch.Generator("cpu"))
    assert layer.weight.is_meta and noise.is_meta and noise.shape == (2, 3)
    assert torch.equal(before, torch.get_rng_state())
