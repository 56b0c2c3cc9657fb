"""ViTKD: sums of squares in loops, the mask, what is generated from what is left, and the first blocks' tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distill.methods import vitkd
from tests import tiny
from tests.methods.given_response import agrees

G = torch.Generator().manual_seed(0)
SMALL = {"patch_size": 4, "depth": 4, "num_heads": 2}


def method() -> vitkd.ViTKD:
    student = tiny.net("vit_tiny_patch16_224", 1, embed_dim=16, **SMALL)
    teacher = tiny.net("vit_tiny_patch16_224", 2, embed_dim=32, **SMALL)
    made = tiny.make("vitkd", student, teacher, tiny.tiny_data())
    assert isinstance(made, vitkd.ViTKD)
    return made


def test_losses_are_sums_over_all_but_the_batch() -> None:
    student, teacher = (torch.randn(2, 2, 3, 4, generator=G, dtype=torch.float64) for _ in range(2))
    masked = torch.tensor([[1.0, 0, 1], [0, 0, 1]], dtype=torch.float64)

    def all_of(rows: list) -> float:  # type: ignore[type-arg]
        return float(((np.array(rows) - teacher.numpy()) ** 2).sum() / 2)

    def those_masked(rows: list) -> float:  # type: ignore[type-arg]
        errors = ((np.array(rows) - teacher[:, 0].numpy()) ** 2).sum(2)
        return float((errors * masked.numpy()).sum() / 2)

    agrees(lambda s: vitkd.early_loss(s, teacher), all_of, student)
    agrees(lambda s: vitkd.generation_loss(s, teacher[:, 0], masked), those_masked, student[:, 0])


def test_masks_have_the_authors_number_of_tokens_and_differ() -> None:
    masked = vitkd.random_mask(torch.empty(6, 9, 2), 0.5)
    assert masked.sum(dim=1).tolist() == [5.0] * 6, "int(9 x 0.5) = 4 are kept"
    assert len({tuple(row) for row in masked.tolist()}) > 1


def test_tokens_are_generated_from_those_that_are_not_masked() -> None:
    made = method()
    with torch.no_grad():
        made.mask_token.normal_(generator=G)
        tokens = torch.randn(2, 16, 16, generator=G)
        masked = vitkd.random_mask(tokens, 0.5)
        found = made.generated(tokens, masked)
        changed = made.generated(torch.where(masked[:, :, None].bool(), 9.0, tokens), masked)
        shown = made.late(tokens)
        shown[masked.bool()] = made.mask_token
        first, _, second = made.generator
        maps = shown.transpose(1, 2).reshape(2, 32, 4, 4)
        hidden = F.relu(F.conv2d(maps, first.weight, first.bias, padding=1))
        want = F.conv2d(hidden, second.weight, second.bias, padding=1)
    torch.testing.assert_close(found, want.flatten(2).transpose(1, 2))
    assert torch.equal(found, changed)


def test_early_tokens_are_what_the_first_two_blocks_give() -> None:
    net = tiny.net("vit_tiny_patch16_224", 1, embed_dim=16, **SMALL).eval()
    images, model = torch.randn(2, 3, 16, 16, generator=G), net.model
    with torch.no_grad():
        early = net(images).early
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
        for k, block in enumerate(model.blocks[:2]):
            x = block(x)
            torch.testing.assert_close(early[k], x[:, 1:])


def test_weights_are_those_of_the_yaml() -> None:
    made = method()
    batch = next(iter(tiny.tiny_data().source(8, seed=1).epoch(1)))
    torch.manual_seed(0)
    before = {name: value.item() for name, value in made.loss(batch).items()}
    made.mimic, made.generate = 2 * made.mimic, 3 * made.generate
    torch.manual_seed(0)
    after = {name: value.item() for name, value in made.loss(batch).items()}
    assert set(before) == {"ce", "mimic", "generate"} and before["ce"] == after["ce"]
    assert [after[k] / before[k] for k in ("mimic", "generate")] == pytest.approx([2, 3], rel=1e-5)


def test_patches_of_unequal_number_are_refused() -> None:
    student = tiny.net("vit_tiny_patch16_224", 1, embed_dim=16, **{**SMALL, "patch_size": 8})
    teacher = tiny.net("vit_tiny_patch16_224", 2, embed_dim=16, **SMALL)
    with pytest.raises(ValueError, match="patches one by one, of which vit_tiny_patch16_224 has 4 and .* 16"):
        tiny.make("vitkd", student, teacher, tiny.tiny_data())
