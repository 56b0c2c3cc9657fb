"""DiffKD: the schedule of noise and DDIM's steps in numpy, and the losses of modules that are called by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distill.methods import diffkd
from distill.parts import diffusion
from tests import tiny

G = torch.Generator().manual_seed(0)


def signal() -> np.ndarray:
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def test_five_steps_go_from_400_to_the_start() -> None:
    times, before, after = zip(*diffusion.reverse_steps(5), strict=True)
    a = signal()
    assert times == (400, 300, 200, 100, 0)
    np.testing.assert_allclose(before, a[[400, 300, 200, 100, 0]], rtol=1e-4)
    np.testing.assert_allclose(after, [*a[[300, 200, 100, 0]], 1.0], rtol=1e-4)


def test_denoising_takes_ddims_steps() -> None:
    """With a predictor whose noise depends on the map and the time; eq. 12 of DDIM without its random part."""
    noisy, a = torch.randn(2, 3, 2, 2, generator=G, dtype=torch.float64), signal()
    found = diffusion.denoised(noisy, lambda x, t: torch.tanh(x) + t / 1000, 5)
    x = noisy.numpy()
    for t in (400, 300, 200, 100, 0):
        e = np.tanh(x) + t / 1000
        previous = a[t - 100] if t else 1.0
        x = np.sqrt(previous) * (x - np.sqrt(1 - a[t]) * e) / np.sqrt(a[t]) + np.sqrt(1 - previous) * e
    np.testing.assert_allclose(found.numpy(), x, rtol=1e-4)


def test_a_predictor_that_knows_the_noise_leaves_the_signal() -> None:
    clean, noise = (torch.randn(2, 3, 2, 2, generator=G, dtype=torch.float64) for _ in range(2))
    noisy = diffusion.noised(clean, noise, diffusion.signal_share()[[400, 400]].double())
    torch.testing.assert_close(diffusion.denoised(noisy, lambda x, t: noise, 5), clean)


@pytest.mark.parametrize("spatial", [True, False])
def test_predictors_add_the_embedding_of_each_images_time(spatial: bool) -> None:
    net = diffusion.NoisePredictor(8, spatial=spatial).eval()
    maps, times = torch.randn(3, 8, 2, 2, generator=G), torch.tensor([7, 0, 999])
    with torch.no_grad():
        each = torch.cat([net(maps[k : k + 1], int(t)) for k, t in enumerate(times)])
        want = net.predict(maps + net.times(times)[:, :, None, None])
        torch.testing.assert_close(net(maps, times), want)
        torch.testing.assert_close(each, want)


def test_losses_are_those_of_the_modules_called_by_hand() -> None:
    method = tiny.seeded_method("diffkd", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8x4"), "method.steps=2")
    assert isinstance(method, diffkd.DiffKD)
    batch = next(iter(tiny.tiny_data().source(8, seed=1).epoch(1)))
    for module in (method.maps, method.logits, method.encoder):
        module.eval()  # so that a second pass is the same
    torch.manual_seed(3)
    losses = method.loss(batch)
    student, teacher = method.student(batch.inputs), method.teacher(batch.inputs)
    hidden = method.encoder(teacher.features[-1]).detach()
    torch.manual_seed(3)
    refined = []
    for part, x in ((method.maps, student.features[-1]), (method.logits, student.logits[:, :, None, None])):
        x = part.transform(x)
        kept = part.adapter(x)
        x, a = kept * x + (1 - kept) * torch.randn_like(x), signal()
        for t, previous in ((250, a[0]), (0, 1.0)):
            e = part.predictor(x, t)
            clean = (x - float(np.sqrt(1 - a[t])) * e) / float(np.sqrt(a[t]))
            x = float(np.sqrt(previous)) * clean + float(np.sqrt(1 - previous)) * e
        refined.append(part.project(x))
    soft = F.kl_div(refined[1].flatten(1).log_softmax(1), teacher.logits.softmax(1), reduction="batchmean")
    maps = F.mse_loss(refined[0], hidden)
    with torch.no_grad():
        noise_loss = 0.0
        for part, x in ((method.maps, hidden), (method.logits, teacher.logits[:, :, None, None])):
            noise, times = torch.randn_like(x), torch.randint(1000, (8,))
            share = torch.from_numpy(signal()[times]).float()[:, None, None, None]
            noise_loss += F.mse_loss(part.predictor(share.sqrt() * x + (1 - share).sqrt() * noise, times), noise).item()
        rebuilt = F.mse_loss(method.decoder(hidden), teacher.features[-1]).item()
    found = {name: value.item() for name, value in losses.items() if name != "ce"}
    want = {"maps": maps.item(), "logits": soft.item(), "diffusion": noise_loss, "reconstruct": rebuilt}
    assert found == pytest.approx(want, rel=1e-3)
    first = method.student.model.conv1.weight
    gradients = [torch.autograd.grad(loss, first)[0] for loss in (losses["maps"] + losses["logits"], maps + soft)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-2, atol=1e-4)


def test_the_encoder_learns_to_reconstruct_alone() -> None:
    method = tiny.seeded_method("diffkd", tiny.tiny_data())
    losses = method.loss(next(iter(tiny.tiny_data().source(8, seed=1).epoch(1))))
    reached = {}
    for name, loss in losses.items():
        method.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        reached[name] = method.encoder[0].weight.grad is not None
    assert [name for name, found in reached.items() if found] == ["reconstruct"]


def test_what_is_refined_ends_in_a_batchnorm() -> None:
    """lib/models/losses/diffkd/diffkd.py of hunto's image_classification_sota: `proj` is a convolution and a norm."""
    refine = diffusion.Denoising(5, 3, 2, spatial=True)
    refined = refine(torch.randn(16, 5, 2, 2, generator=G))
    torch.testing.assert_close(refined.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(refined.var((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-2, rtol=0)
