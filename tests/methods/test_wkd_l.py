"""WKD-L: Sinkhorn's plan among the classes that are not the label, in loops, and how alike classes are to a teacher."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.data import load_data
from distill.data.plain import training_images
from distill.methods import wkd_l
from tests import tiny
from tests.data.test_data import folder_config, write_folder
from tests.methods.arithmetic import softmax
from tests.methods.given_response import LABELS, STUDENT, TEACHER, Rows, agrees

T, ENTROPY, STEPS, K = 3.0, 0.2, 6, STUDENT.shape[1]
COST = (lambda x: x * x.T / 4)(torch.rand(K, K, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1)


def transported(student: np.ndarray, teacher: np.ndarray, label: int) -> float:
    """The cost of one sample's plan, with the label's row and column cut out."""
    ours, theirs = (softmax(np.delete(z, label), T) for z in (student, teacher))
    cost = np.delete(np.delete(COST.numpy(), label, 0), label, 1)
    kernel = np.exp(-cost / ENTROPY)
    u = np.ones(len(ours)) / len(ours)
    for _ in range(STEPS):
        v = theirs / (kernel.T @ u + 1e-8)
        u = ours / (kernel @ v + 1e-8)
    return float((u[:, None] * kernel * v[None, :] * cost).sum())


def test_wasserstein_loss_is_the_cost_of_each_samples_plan() -> None:
    def slow(rows: Rows) -> float:
        triples = zip(np.array(rows), TEACHER.numpy(), LABELS.tolist(), strict=True)
        return float(np.mean([transported(s, t, y) for s, t, y in triples]))

    agrees(lambda s: wkd_l.wasserstein_loss(s, TEACHER, LABELS, COST, T, ENTROPY, STEPS), slow, STUDENT)


@pytest.mark.parametrize("count", [4, 9], ids=["more columns than samples", "more samples than columns"])
def test_class_cka_is_that_of_doubly_centred_gram_matrices(count: int) -> None:
    samples = torch.randn(3, count, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 2
    centre = np.eye(count) - 1 / count
    grams = [centre @ x @ x.T @ centre for x in samples.numpy()]
    hsic = np.array([[(a * b).sum() for b in grams] for a in grams])
    want = hsic / np.sqrt(np.outer(hsic.diagonal(), hsic.diagonal()))
    np.testing.assert_allclose(wkd_l.class_cka(samples).numpy(), want, rtol=1e-10)


@pytest.mark.parametrize("relation", ["logits", "features", "weights"])
def test_costs_are_of_the_training_images_or_of_the_class_weights(relation: str) -> None:
    data = tiny.tiny_data()
    settings = f"method.relation={relation}", "method.sharpen=2.0"
    method = tiny.seeded_method("wkd-l", data, ("cifar_resnet14", "cifar_resnet8"), *settings)
    assert isinstance(method, wkd_l.WKDL)
    source = data.source(8, seed=1)
    assert method.measure(source) is source
    if relation == "weights":
        rows = method.teacher.classifier.weight.detach().double().numpy()
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        alike = unit @ unit.T
    else:
        with torch.no_grad():
            seen = method.teacher(torch.cat([images for images, _ in training_images(source)]))
        said = seen.logits[:, None] if relation == "logits" else seen.features[-1].flatten(2).mT
        classes = [said[data.train.labels == k][:3].flatten(0, 1) for k in range(tiny.CLASSES)]
        alike = wkd_l.class_cka(torch.stack(classes)).numpy()
    want = 1 - np.exp(-2 * (1 - alike))
    np.fill_diagonal(want, 0)
    np.testing.assert_allclose(method.cost.numpy(), want + 1e-8, atol=2e-5)
    kept = method.cost.clone()
    method.teacher.classifier.weight.data.zero_()
    method.measure(source)
    assert torch.equal(method.cost, kept), "a run that goes on keeps its costs"


def test_training_images_are_not_cropped_or_flipped() -> None:
    data = tiny.tiny_data()
    images, labels = zip(*training_images(data.source(8, seed=1)), strict=True)
    want = (data.train.images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    torch.testing.assert_close(torch.cat(images), want)
    assert torch.equal(torch.cat(labels), data.train.labels)


def test_training_images_of_a_folder_are_as_its_evaluation_shows_them(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for name in ("cat", "dog", "eel"):
        shutil.rmtree(tmp_path / "val" / name)
        shutil.copytree(tmp_path / "train" / name, tmp_path / "val" / name)
    data = load_data(folder_config(tmp_path))
    pairs = zip(training_images(data.source(5, seed=1)), data.evaluation(5), strict=True)
    assert all(torch.equal(one, other) for found, shown in pairs for one, other in zip(found, shown, strict=True))


def test_the_weight_falls_to_nothing_along_a_cosine() -> None:
    method = tiny.seeded_method("wkd-l", tiny.tiny_data())
    assert isinstance(method, wkd_l.WKDL)
    method.epochs = 240
    shares = []
    for method.epoch in (1, 150, 180, 195, 240):
        shares.append(method.strength())
    want = [1, 1, (1 + np.cos(np.pi / 3)) / 2, 0.5, 0]
    assert shares == pytest.approx(want, abs=1e-12)


def test_a_class_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="two are needed"):
        tiny.seeded_method("wkd-l", tiny.tiny_data(), tiny.SMALLEST, "method.samples=1")
