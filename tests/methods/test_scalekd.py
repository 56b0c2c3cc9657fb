"""ScaleKD: its two distances in numpy, the second by the authors' cosine transform, and the projector's attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distill.methods import scalekd
from tests import tiny
from tests.methods.given_response import agrees

G = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (torch.randn(2, 3, 4, 4, generator=G, dtype=torch.float64) for _ in range(2))


def cosines(n: int) -> np.ndarray:
    """The matrix of the DCT-II: row k has 2 cos(pi k (2 j + 1) / 2n)."""
    j, k = np.arange(n), np.arange(n)[:, None]
    return 2 * np.cos(np.pi * k * (2 * j + 1) / (2 * n))


def without_constant(maps: np.ndarray) -> np.ndarray:
    """To the frequency domain, the first coefficient to 0, and back."""
    matrix = cosines(maps.shape[-1])
    frequencies = matrix @ maps @ matrix.T
    frequencies[:, :, 0, 0] = 0
    back = np.linalg.inv(matrix)
    return back @ frequencies @ back.T


def distance(a: np.ndarray, b: np.ndarray) -> float:
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    return float(((unit[0] - unit[1]) ** 2).sum() / len(a))


def test_spatial_distance_is_of_unit_channel_vectors() -> None:
    agrees(
        lambda s: scalekd.direction_distance(s, TEACHER), lambda s: distance(np.array(s), TEACHER.numpy()), STUDENT
    )


def test_frequency_distance_leaves_the_first_coefficient_out() -> None:
    def slow(s: list) -> float:  # type: ignore[type-arg]
        return distance(without_constant(np.array(s)), without_constant(TEACHER.numpy()))

    agrees(lambda s: scalekd.alternating_distance(s, TEACHER), slow, STUDENT)


@pytest.mark.parametrize("queries", [True, False], ids=["learned queries", "given queries"])
def test_projector_attends_from_the_teachers_positions(queries: bool) -> None:
    net = scalekd.AttentionProjector((6, 4, 4), (8, 2, 3), 2, 5.0, queries=queries).eval()
    maps, given = torch.randn(3, 6, 4, 4, generator=G), torch.randn(3, 8, 2, 3, generator=G)
    with torch.no_grad():
        found = net(maps, None if queries else given)
        asked = net.queries.expand(3, -1, -1, -1) if queries else given
        keys = (net.student(maps) + net.positions).flatten(2).transpose(1, 2)
        rows = F.relu(asked.flatten(2).transpose(1, 2) @ net.prepare[0].weight.T + net.prepare[0].bias)
        q, k, v = net.q(rows), net.k(keys), net.v(keys)
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            weights = (5.0 * q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(-1)  # 2 is the root of 4
            heads.append(weights @ v[..., part])
        x = F.layer_norm(net.out(torch.cat(heads, dim=2)), (8,), net.norm.weight, net.norm.bias)
        first, _, second = net.forward_block
        x = x + second(F.relu(first(x)))
    torch.testing.assert_close(found, x.transpose(1, 2).reshape(3, 8, 2, 3), rtol=1e-4, atol=1e-5)


def test_maps_may_be_normed_at_each_position() -> None:
    """As the projectors of a Swin-T are, FreqMaskingDistillLossConvNext of the authors."""
    method = tiny.seeded_method("scalekd", tiny.tiny_data(), tiny.SMALLEST, "method.student_norm=layer")
    assert isinstance(method, scalekd.ScaleKD)
    for net in (projector.student for pair in method.views.values() for projector in pair):
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net)
    maps = torch.randn(3, 6, 4, 4, generator=G)
    mean, spread = maps.mean(1, keepdim=True), maps.var(1, correction=0, keepdim=True)
    torch.testing.assert_close(scalekd.LayerNorm(6)(maps), (maps - mean) / (spread + 1e-5).sqrt())


def test_losses_pass_the_early_map_through_the_teachers_last_stage() -> None:
    settings = "method.spatial=[2.0,3.0]", "method.frequency=[0.5,0.25]"
    method = tiny.seeded_method("scalekd", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8x4"), *settings)
    assert isinstance(method, scalekd.ScaleKD)
    batch = next(iter(tiny.tiny_data().source(8, seed=1).epoch(1)))
    method.views.eval()
    losses = method.loss(batch)
    with torch.no_grad():
        features = method.student(batch.inputs).features
        target = method.teacher(batch.inputs).features[-1].numpy()
        for view, weights, change in (("spat", (2.0, 3.0), np.asarray), ("freq", (0.5, 0.25), without_constant)):
            early, late = method.views[view]
            x = early(features[1])
            for block in method.teacher.model.layer3:
                x = F.relu(block(x))
            said = [x, late(features[2], x)]
            want = sum(w * distance(change(m.double().numpy()), change(target.astype(float))) for w, m in
                       zip(weights, said, strict=True))
            assert losses[view].item() == pytest.approx(want, rel=1e-3)


def test_a_swin_teaches_and_a_plain_vit_is_refused() -> None:
    swin = tiny.build("swin_tiny_patch4_window7_224", 6, size=64, seed=0,
                      args={"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 2})
    assert scalekd.last_shapes(swin) == ((64, 4, 4), (128, 2, 2))
    vit = tiny.net("vit_tiny_patch16_224", patch_size=4, embed_dim=32, depth=4, num_heads=2)
    with pytest.raises(ValueError, match="cannot be run alone: take a Swin.*method=ofa-kd"):
        scalekd.last_shapes(vit)


def test_heads_share_the_channels() -> None:
    assert [scalekd._fitting(channels) for channels in (1536, 768, 96, 24, 200)] == [24, 12, 1, 1, 2]
    with pytest.raises(ValueError, match="heads share the teacher's channels"):
        tiny.seeded_method("scalekd", tiny.tiny_data(), tiny.SMALLEST, "method.heads=[3,4]")
