"""Class token, features and masked patches: the authors' losses, by slow arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.methods.proteus import drawn_mask, squared_where
from tests import tiny


def test_masked_patches_alone_are_compared() -> None:
    student, teacher = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    masked = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    rows = masked.bool().numpy()
    expected = ((student.numpy()[rows] - teacher.numpy()[rows]) ** 2).mean()  # what index_select leaves, in MSELoss
    assert squared_where(student, teacher, masked).item() == pytest.approx(expected, rel=1e-12)


def test_so_many_patches_of_so_many_images_are_masked() -> None:
    masked = drawn_mask(6, 10, 0.5, 0.3, torch.device("cpu"))
    assert masked.sum(1).tolist() == [3, 3, 3, 0, 0, 0]
    masked = drawn_mask(3, 11, 0.5, 0.5, torch.device("cpu"))
    assert masked.sum(1).tolist() == [5, 0, 0]  # int(3 x 0.5) images, int(11 x 0.5) patches


def test_masked_patches_are_drawn_one_by_one() -> None:
    """As the authors' RandomMaskingGenerator shuffles them: beside a masked one half of the patches are masked too."""
    masked = drawn_mask(500, 64, 1.0, 0.5, torch.device("cpu")).view(-1, 8, 8)
    assert masked[:, :, 1:][masked[:, :, :-1].bool()].mean().item() == pytest.approx(31 / 63, abs=0.02)


def test_losses_are_those_of_the_authors_code() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("proteus", data)
    batch = next(data.source(batch_size=4, seed=1).epoch(1))
    student, teacher = method.student(batch.inputs), method.teach(batch)
    torch.manual_seed(3)
    losses = method.distill(student, teacher, batch)
    heads, own = method.heads, student.class_tokens[:, 0]
    token = (heads["token"](own) - teacher.class_tokens[:, 0]).square()
    patches = (heads["feature"](student.tokens) - teacher.tokens).square()
    assert losses["token"].item() == pytest.approx(token.mean().item(), rel=1e-5)
    whole = np.concatenate([token.detach().numpy().ravel(), patches.detach().numpy().ravel()])
    assert losses["feature"].item() == pytest.approx(float(whole.mean()), rel=1e-5)


def test_the_student_does_not_see_what_is_masked() -> None:
    """Whatever lies there, its patches are the same; where nothing is masked they are those of a plain pass."""
    data = tiny.tiny_data()
    method = tiny.seeded_method("proteus", data)
    method.eval()
    images = next(data.source(batch_size=2, seed=1).epoch(1)).inputs
    count = method.teach(next(data.source(batch_size=2, seed=1).epoch(1))).tokens.shape[1]
    with torch.no_grad():
        hidden = method._masked_patches(images, torch.ones(2, count))
        assert torch.equal(hidden, method._masked_patches(torch.randn_like(images), torch.ones(2, count)))
        plain = method.student.read(images).tokens
        assert torch.equal(method._masked_patches(images, torch.zeros(2, count)), plain)
        assert not torch.equal(hidden, plain)


def test_a_net_without_a_class_token_is_refused() -> None:
    net = tiny.net("cifar_resnet8")
    with pytest.raises(ValueError, match="reads class token and patches, and cifar_resnet8 has not both"):
        tiny.make("proteus", net, tiny.frozen(tiny.net("cifar_resnet14")), tiny.tiny_data())


def test_a_register_is_no_class_token() -> None:
    vit = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    registers = tiny.net("vit_tiny_patch16_224", class_token=False, reg_tokens=1, global_pool="avg", **vit)
    with pytest.raises(ValueError, match="proteus reads class token and patches, and vit_tiny_patch16_224 has not"):
        tiny.make("proteus", registers, tiny.net("vit_tiny_patch16_224", **vit), tiny.tiny_data())
