"""fm-adversarial: Feature-map-level Online Adversarial Knowledge Distillation."""

from __future__ import annotations

import pytest

from distill.engine.update import train_mode
from distill.methods.fm_adversarial import least_squares
from tests import tiny
from tests.methods.given_adversarial import logits
from tests.slow import mean


def test_least_squares_by_hand() -> None:
    scores = logits(5, 1)
    assert least_squares(scores, 1.0).item() == pytest.approx(
        mean((s - 1) ** 2 for s in scores.flatten().tolist())
    )


def test_fm_adversarial_is_a_ring_whose_fakes_are_a_peers_own_maps() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(
        "fm-adversarial",
        data,
        ("cifar_resnet8", "cifar_resnet8"),
        "method.peers=3",
        "method.models=[cifar_wrn_16_1,cifar_vgg8]",
    )
    train_mode(method, method.phases()[0])
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    losses = method.loss(batch)
    maps = [net(batch.inputs).features[-1] for net in method.cohort]
    for k, (fake, real) in enumerate(method._seen):
        other = maps[(k + 1) % 3]
        assert real.shape[1] == fake.shape[1] == other.shape[1] and real.shape == fake.shape
        passes = mean((s - 1) ** 2 for s in method.discriminators[k](fake).flatten().tolist())
        assert losses[f"adversarial{'' if k == 0 else f'_{k}'}"].item() == pytest.approx(passes, rel=1e-4)
        right = mean((s - 1) ** 2 for s in method.discriminators[k](real).flatten().tolist())
        wrong = mean(s**2 for s in method.discriminators[k](fake).flatten().tolist())
        assert method.critic_loss(k)[f"discriminator_{k}"].item() == pytest.approx(right + wrong, rel=1e-4)
    assert set(method.reported()) == {"peer_1", "peer_2", "ensemble"}
    with pytest.raises(ValueError, match="at least 2"):
        tiny.seeded_method("fm-adversarial", data, ("cifar_resnet8", "cifar_resnet8"), "method.peers=1")
