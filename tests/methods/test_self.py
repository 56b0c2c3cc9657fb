"""Self-distillation: what several methods share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from distill.config import DataSpec
from distill.data.arrays import seeded
from distill.data.folder_loading import load_folder
from distill.data.pairs import Partners, PeerViews, same_class
from distill.methods.ban import BAN
from distill.methods.ps_kd import PSKD
from tests import tiny
from tests.slow import student


def test_partners_are_of_the_class_and_all_of_it_are_drawn() -> None:
    labels = torch.tensor([0, 1, 0, 2, 0, 1, 0])
    drawn = torch.stack([same_class(labels, seeded(1, epoch)) for epoch in range(200)])
    assert torch.equal(labels[drawn], labels.expand(200, -1))
    assert set(drawn[:, 0].tolist()) == {0, 2, 4, 6} and set(drawn[:, 1].tolist()) == {1, 5}
    assert set(drawn[:, 3].tolist()) == {3}  # alone in its class
    counts = [(drawn[:, 4] == other).sum().item() for other in (0, 2, 4, 6)]
    assert min(counts) > 30  # a quarter of 200 each


def test_views_beside_leave_the_batches_alone_and_resume_inside_an_epoch() -> None:
    data = tiny.tiny_data()
    plain = list(data.source(8, 5).epoch(2))
    for wrapped in (Partners(data.source(8, 5)), PeerViews(data.source(8, 5), 2)):
        whole, rest = list(wrapped.epoch(2)), list(wrapped.epoch(2, start=1))
        assert wrapped.steps == len(whole) == len(plain)
        for a, b in zip(plain, whole, strict=True):
            assert torch.equal(a.inputs, b.inputs) and torch.equal(a.index, b.index)
            assert all(view.shape == b.inputs.shape for view in b.views.values())
        for a, b in zip(whole[1:], rest, strict=True):
            assert all(torch.equal(view, b.views[name]) for name, view in a.views.items())
        again = next(wrapped.epoch(3)).views
        assert any(not torch.equal(view, again[name]) for name, view in whole[0].views.items())


def crops_of(image: torch.Tensor, pad: int, normalise) -> list[torch.Tensor]:
    padded = F.pad(image, (0, 0, pad, pad, pad, pad))
    found = []
    for dy, dx in itertools.product(range(2 * pad + 1), repeat=2):
        crop = padded[dy : dy + image.shape[0], dx : dx + image.shape[1]]
        found += [normalise(view[None])[0] for view in (crop, crop.flip(1))]
    return found


def test_a_partner_is_a_crop_of_an_image_of_the_class_and_a_peer_view_of_the_image_itself() -> None:
    data = tiny.tiny_data()
    source = data.source(8, 5)
    pairs, peers = next(Partners(source).epoch(1)), next(PeerViews(source, 1).epoch(1))
    for place in range(3):
        number, label = peers.index[place], pairs.labels[place]
        own = crops_of(data.train.images[number], data.pad, source.normalise)
        assert any(torch.equal(peers.views["peer_1"][place], crop) for crop in own)
        others = [i for i in range(tiny.IMAGES) if data.train.labels[i] == label]
        images = data.train.images[others]
        crops = [crop for image in images for crop in crops_of(image, data.pad, source.normalise)]
        assert any(torch.equal(pairs.views["partner"][place], crop) for crop in crops)


def test_folders_show_partners_and_views_too(tmp_path) -> None:
    for part, label, number in itertools.product(("train", "val"), range(3), range(3)):
        folder = tmp_path / part / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((12, 12, 3), 80 * label + number, dtype=np.uint8)  # flat: every crop is the image
        Image.fromarray(pixels).save(folder / f"{number}.png")
    spec = DataSpec("flat", 8, (0.0,) * 3, (1 / 255,) * 3, root=tmp_path, workers=0)
    source = load_folder(spec, torch.device("cpu")).source(4, 1)
    apart = 0
    for batch in Partners(source).epoch(1):
        shade = batch.views["partner"].mean((1, 2, 3)).round()
        assert torch.equal(shade // 80, batch.labels.float())
        apart += (shade != batch.inputs.mean((1, 2, 3)).round()).sum().item()
    assert apart > 0
    whole, rest = list(PeerViews(source, 1).epoch(1)), list(PeerViews(source, 1).epoch(1, start=1))
    for a, b in zip(whole[1:], rest, strict=True):
        assert torch.equal(a.views["peer_1"], b.views["peer_1"])
        assert torch.allclose(a.views["peer_1"].mean((1, 2, 3)), a.inputs.mean((1, 2, 3)))


def test_a_source_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="list cannot show further images"):
        Partners([])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda info: tiny.by_hand(BAN, student(), [], info, generations=0), "at least once"),
        (lambda info: tiny.by_hand(BAN, student(), [], info, variant="cwt"), "one of plain, cwtm, dkpp"),
        (lambda info: tiny.by_hand(PSKD, student(), [], info, alpha=1.5), "from 0 to 1"),
    ],
)
def test_mistakes_are_named(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(tiny.tiny_data().info)
