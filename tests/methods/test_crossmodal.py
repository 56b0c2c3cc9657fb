"""Methods across modalities: what several methods share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill import config
from distill.config import DataSpec
from distill.content.readers import Arrays, Part
from distill.data import load_data
from distill.data.arrays import ArraySource
from distill.data.loading import from_arrays
from distill.data.modality import lower, make_view, to_gray, to_lab
from distill.preflight import check_files
from distill.run import run
from tests import tiny
from tests.methods.given_crossmodal import CFG, data


def slow_lab(r: float, g: float, b: float) -> list[float]:
    def linear(v: float) -> float:
        return v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4

    red, green, blue = linear(r), linear(g), linear(b)
    x = 0.4124564 * red + 0.3575761 * green + 0.1804375 * blue
    y = 0.2126729 * red + 0.7151522 * green + 0.0721750 * blue
    z = 0.0193339 * red + 0.1191920 * green + 0.9503041 * blue

    def f(t: float) -> float:
        return t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116

    fx, fy, fz = f(x / 0.95047), f(y), f(z / 1.08883)
    return [116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)]


def test_lab_is_the_published_conversion() -> None:
    torch.manual_seed(0)
    pixels = torch.cat([torch.rand(40, 3), 0.03 * torch.rand(10, 3), torch.zeros(1, 3)]).double()
    made = to_lab(pixels.view(-1, 3, 1, 1)).view(-1, 3)
    for rgb, lab in zip(pixels.tolist(), made.tolist(), strict=True):
        assert lab == pytest.approx(slow_lab(*rgb), abs=2e-4)
    known = {  # of tables of sRGB primaries under D65
        (1, 0, 0): (53.24, 80.09, 67.20), (0, 1, 0): (87.73, -86.18, 83.18),
        (0, 0, 1): (32.30, 79.19, -107.86),
        (1, 1, 1): (100, 0, 0), (0, 0, 0): (0, 0, 0),
    }  # fmt: skip
    for rgb, lab in known.items():
        found = to_lab(torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1)).flatten().tolist()
        assert found == pytest.approx(lab, abs=0.02), rgb


def test_gray_and_fewer_pixels() -> None:
    torch.manual_seed(0)
    rgb = torch.rand(2, 3, 4, 4)
    r, g, b = rgb[1, :, 2, 3].tolist()
    assert to_gray(rgb)[1, 0, 2, 3].item() == pytest.approx(0.299 * r + 0.587 * g + 0.114 * b, abs=1e-6)
    small = lower(rgb, 2)
    assert small.shape == rgb.shape
    corner = rgb[0, 1, :2, :2].mean().item()
    assert small[0, 1, 0, 0].item() == pytest.approx(corner, abs=1e-6)


@pytest.mark.parametrize(("name", "chans"), [("gray", 1), ("L", 1), ("ab", 2), ("low-4", 3)])
def test_both_sides_see_the_same_crop_and_flip(name: str, chans: int) -> None:
    plain, viewed = data(), data(student=name)
    assert (viewed.info.in_chans, viewed.info.for_teacher.in_chans) == (chans, 3)
    assert viewed.info.view == name and plain.info.for_teacher is plain.info
    ours = list(viewed.source(batch_size=5, seed=1).epoch(2))
    theirs = list(plain.source(batch_size=5, seed=1).epoch(2))
    view = make_view(name, plain.info, depth=False)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (plain.info.mean, plain.info.std))
    for a, b in zip(ours, theirs, strict=True):
        assert "teacher" not in b.views and torch.equal(a.labels, b.labels)
        assert torch.allclose(a.views["teacher"], b.inputs, atol=1e-5)
        pixels = ((b.inputs * std + mean) * 255).round().byte().permute(0, 2, 3, 1)
        assert torch.allclose(a.inputs, view(pixels), atol=1e-4)
        assert a.inputs.shape[1] == chans and a.inputs.is_contiguous(memory_format=torch.channels_last)
    student, teacher = (next(viewed.evaluation(6, side))[0] for side in ("student", "teacher"))
    assert student.shape[1] == chans and torch.allclose(teacher, next(plain.evaluation(6))[0], atol=1e-5)
    again = viewed.source(batch_size=5, seed=1).replace(last_batch="drop")
    assert next(again.epoch(2)).inputs.shape[1] == chans and isinstance(again, ArraySource)


def test_a_teachers_view_leaves_the_students_images_alone() -> None:
    viewed = data(teacher="L")
    batch, plain = (
        next(viewed.source(batch_size=5, seed=1).epoch(1)),
        next(data().source(batch_size=5, seed=1).epoch(1)),
    )
    assert torch.allclose(batch.inputs, plain.inputs, atol=1e-5) and batch.views["teacher"].shape[1] == 1
    assert viewed.info.for_teacher.in_chans == 1 and viewed.info.in_chans == 3


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"student": "sepia"}, "sepia: it is gray"),
        ({"student": "low-8"}, "give 1 to 7"),
        ({"student": "depth"}, "dataset=folder"),
        ({"pupil": "gray"}, "its keys are teacher and student"),
    ],
)
def test_views_that_cannot_be_made_are_refused(views: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        data(**views)
    grey = DataSpec.of({**CFG, "in_chans": 1, "mean": (0.5,), "std": (0.2,), "views": {"student": "ab"}})
    part = Part(np.zeros((3, 8, 8, 1), np.uint8), np.arange(3))
    with pytest.raises(ValueError, match="made of 3 channels"):
        from_arrays(Arrays(part, part, ["a", "b", "c"]), grey, torch.device("cpu"))


def folder(root: Path) -> Path:
    """Images whose red marks the row and column, and depth images (16 bits) with the same marks."""
    for part, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            for where in (root / part / name, root / "depth" / part / name):
                where.mkdir(parents=True)
            for k in range(count):
                marks = np.add.outer(np.arange(20), 5 * np.arange(24)).astype(np.uint8) + 20 * k
                rgb = np.stack([marks, marks // 2, marks // 3], 2)
                Image.fromarray(rgb).save(root / part / name / f"{k}.png")
                Image.fromarray(marks.astype(np.uint16) * 256).save(root / "depth" / part / name / f"{k}.png")
    return root


def test_folders_of_pairs_give_depth_with_the_same_crop(tmp_path: Path) -> None:
    spec = DataSpec.of({
        "name": "rgbd", "kind": "folder", "root": str(folder(tmp_path)), "size": 16, "in_chans": 3,
        "workers": 0,
        "mean": (0.5,) * 3, "std": (0.25,) * 3, "views": {"student": "depth"},
    })  # fmt: skip
    pairs = load_data(spec)
    assert (pairs.info.in_chans, pairs.info.for_teacher.in_chans) == (1, 3)
    for epoch in (1, 2):
        for batch in pairs.source(batch_size=3, seed=1).epoch(epoch):
            red, depth = batch.views["teacher"][:, :1], batch.inputs
            assert depth.shape[1:] == (1, 16, 16) and (red - depth).abs().max() < 0.05
    first = next(pairs.evaluation(4))[0]
    assert (next(pairs.evaluation(4, "teacher"))[0][:, :1] - first).abs().max() < 0.05
    damaged = tmp_path / "depth" / "train" / "cat" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(ValueError, match="depth/train/cat/1.png cannot be decoded"):
        load_data(spec)
    with pytest.raises(ValueError, match="depth/train/cat/1.png cannot be decoded"):
        check_files(spec)
    assert load_data(replace(spec, damaged="skip")).info.num_train == 7
    (tmp_path / "depth" / "train" / "cat" / "2.png").unlink()
    with pytest.raises(ValueError, match="needs one depth image"):
        load_data(spec)


@pytest.mark.parametrize("name", ["eskd", "rco", "specialists", "wkd-l", "bss"])
def test_methods_that_would_mix_up_two_views_are_refused(name: str) -> None:
    data = tiny.tiny_data()
    data.info = replace(data.info, teacher=data.info)
    with pytest.raises(ValueError, match=f"{name} shows .* the student's images, and dataset.views"):
        tiny.make(name, tiny.net("cifar_resnet8"), tiny.net("cifar_resnet8"), data)


def test_a_run_trains_its_teacher_on_the_teachers_view(output: Path) -> None:
    cfg = tiny.composed(
        "method=kd", "teacher=resnet14", "student=resnet8", "dataset.fraction=0.15",
        "dataset.views.student=low-4",
        "schedule.batch_size=32", "precision=fp32", f"output={output}",
    )  # fmt: skip
    result = run(cfg, Path(config.identity(cfg)["folder"]), table=False)
    trained = config.teacher_config(cfg)
    plain = tiny.composed(
        "method=none", "student=resnet14", "seed=0", "schedule.batch_size=32", "precision=fp32"
    )
    assert config.identity(trained)["hash"] == config.identity(plain)["hash"], "it sees images as they are"
    assert result["teacher_accuracy"] > 20 and (Path(config.identity(trained)["folder"]) / "DONE").exists()
    gray = tiny.composed(
        "method=kd", "dataset=cifar10", "dataset.views.teacher=L", "dataset.views.student=ab"
    )
    by_hand = tiny.composed(
        "method=none", "dataset=cifar10", "student=resnet56", "seed=0", "dataset.views.student=L"
    )
    assert config.identity(config.teacher_config(gray)) == config.identity(by_hand)
