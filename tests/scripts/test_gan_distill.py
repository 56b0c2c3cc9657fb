"""scripts/gan_distill.py: the distance in closed form, who is trained, and that it goes on where it stopped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.models.generator import Generator
from tests import tiny

path = Path(__file__).resolve().parents[2] / "scripts" / "gan_distill.py"
spec = importlib.util.spec_from_file_location("gan_distill", path)
assert spec and spec.loader
gan = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gan)


def cloud(mean: list[float], deviation: list[float], seed: int) -> Tensor:
    """Points whose mean and covariance are exactly those asked for."""
    points = torch.randn(500, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = points - points.mean(0)
    values, vectors = torch.linalg.eigh(points.T.cov())
    return points @ vectors / values.sqrt() * torch.tensor(deviation, dtype=torch.float64) + torch.tensor(
        mean, dtype=torch.float64
    )


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    a, b = cloud([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], 0), cloud([1.0, 1.0, 0.0], [2.0, 2.0, 0.5], 1)
    wanted = (1 + 0 + 4) + (1 + 0 + 2.5**2)
    assert gan.frechet(a, b) == pytest.approx(wanted, rel=1e-6) == gan.frechet(b, a)
    assert gan.frechet(a, a) == pytest.approx(0, abs=1e-6)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    assert gan.frechet(a @ turn, b @ turn) == pytest.approx(wanted, rel=1e-6)


def test_mimic_counts_only_with_a_teacher_and_leaves_it_alone() -> None:
    data = tiny.tiny_data()
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    teacher = Generator(gan.LATENT, 3, 16, 8).requires_grad_(False).eval()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    alone, taught = (
        gan.GAN(Generator(gan.LATENT, 3, 16, 4), data),
        gan.GAN(Generator(gan.LATENT, 3, 16, 4), data, teacher),
    )
    assert set(alone.generate(batch)) == {"generator"}
    torch.manual_seed(4)
    losses = taught.generate(batch)
    torch.manual_seed(4)
    wanted = teacher(torch.randn(8, gan.LATENT))
    slow = (
        sum((a - b) ** 2 for a, b in zip(taught._fakes.flatten().tolist(), wanted.flatten().tolist(), strict=True))
        / wanted.numel()
    )
    assert losses["mimic"].item() == pytest.approx(taught.weight * slow, rel=1e-4)
    sum(losses.values()).backward()
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert not any("_teachers" in key for key in taught.state_dict())


def test_a_generator_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = tiny.tiny_data()

    def start(folder: Path):
        torch.manual_seed(0)
        return tiny.fit(gan.GAN(Generator(gan.LATENT, 3, 16, 4), data), data, folder)

    def finish(fit) -> dict[str, Tensor]:
        fit.evaluate = lambda net: 0.0
        for _ in fit.steps():
            pass
        return fit.method.state_dict()

    whole = finish(start(tmp_path / "whole"))
    cut = start(tmp_path / "cut")
    steps = cut.steps()
    next(steps)
    next(steps)
    cut.meter.flush("cut", 1)
    cut.save()
    torch.manual_seed(9)
    again = start(tmp_path / "cut")
    assert again.restore() == 2
    for key, value in finish(again).items():
        assert torch.equal(value, whole[key]), key
