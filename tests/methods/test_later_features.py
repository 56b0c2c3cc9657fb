"""Later methods on features: what several methods share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill import config
from distill.data.views import random_view
from distill.methods import cat_kd
from distill.methods.srrl import SRRL
from distill.models import build
from distill.parts.probing import linear_layer
from distill.teachers.cache import HOLDS
from distill.teachers.forward import FrozenTeachers
from tests import tiny
from tests.methods.given_later_features import K, batch, info, net, rand


@pytest.mark.parametrize("name", ["ofd", "reviewkd", "nkd", "wsld", "mgd"])
def test_a_teacher_in_train_mode_answers_itself_and_no_folded_copy_or_cache_of_it(name: str) -> None:
    words = ("method.teacher_mode=train",)
    method = tiny.make(name, tiny.net("cifar_resnet8"), tiny.net("cifar_resnet14"), tiny.tiny_data(), *words)
    wanted = method.teach(batch()).logits
    method.teacher_forward = FrozenTeachers(list(method.teachers))
    assert torch.equal(method.teach(batch()).logits, wanted)
    method.teacher_mode = "eval"
    assert not torch.allclose(method.teach(batch()).logits, wanted)
    reads = config.reads(tiny.composed(f"method={name}", *words))
    assert not any(reads <= held for held in HOLDS.values()), "a cache would hold what the method reads"


def test_classifiers_that_are_wrapped_are_found_and_others_refused() -> None:
    assert linear_layer(net("cifar_MobileNetV2")).weight.shape == (K, 1280)
    odd = net()
    odd.model.fc = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, K))
    with pytest.raises(ValueError, match="method=crd"):
        tiny.by_hand(SRRL, net(), [odd], info())


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_1", "cifar_MobileNetV2", "cifar_ShuffleV2"])
def test_cams_are_the_classifiers_weights_on_the_pooled_map(name: str) -> None:
    """Their mean over positions and the bias are the logits, without converting a checkpoint."""
    model = build(name, K, size=32, seed=1).eval()
    with torch.no_grad():
        linear_layer(model).bias.fill_(0.3)
        seen = model(rand(2, 3, 32, 32).float())
        cams = cat_kd.pointwise_cams(model, seen.features[-1])
    assert cams.shape == (2, K, *seen.features[-1].shape[2:])
    torch.testing.assert_close(cams.mean((2, 3)) + 0.3, seen.logits, rtol=1e-4, atol=1e-5)
    if name == "cifar_resnet8":
        torch.testing.assert_close(cams, cat_kd.weight_cams(model, seen.features[-1]))


def test_folders_crop_an_image_several_times_with_one_flip() -> None:
    from PIL import Image

    image = Image.fromarray((torch.arange(64 * 64 * 3) % 251).to(torch.uint8).view(64, 64, 3).numpy())
    plain = [random_view(image, 16, False, seed, crop) for seed in range(20) for crop in range(3)]
    turned = [random_view(image, 16, True, seed, crop) for seed in range(20) for crop in range(3)]
    flips = [a.tobytes() != b.tobytes() for a, b in zip(plain, turned, strict=True)]
    assert 4 < sum(flips[::3]) < 16 and all(len(set(flips[k : k + 3])) == 1 for k in range(0, 60, 3))
    assert len({view.tobytes() for view in plain}) == 60
