"""The numbers behind the pictures against slow arithmetic, and the pictures of a real run on disk."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor

from distill import config, finished_run
from distill.analyze import calibration, cka, classes, correlation, curves, gallery, maps, probabilities, tsne
from distill.analyze.analysis_data import (
    AnalysisData,
    NetOutputs,
    choose,
    evenly_spread,
    forward_test_images,
    load_analysis_data,
    seen_teacher,
    thinned,
)
from distill.analyze.curves import losses, terms_shown
from distill.analyze.numbers import (
    attention,
    class_accuracy,
    correlation_difference,
    entropy,
    linear_cka,
    reliability,
    softened,
)
from distill.analyze.style import file_of
from distill.cli import verbs
from distill.data.folder import FolderData, FolderSplit
from distill.engine.evaluate import calibration_error
from distill.files import read_json, write_json
from distill.report.collect import collect
from distill.report.figures import accuracy_axis
from distill.report.summary import summarize
from distill.run import run
from distill.run_folder import RunFolder
from tests import tiny
from tests.browsing import VIEWS, Look, check
from tests.report.test_report import write_run

CPU = torch.device("cpu")
SMALL = (
    "student=resnet8",
    "teacher=resnet14",
    "dataset.fraction=0.2",
    "schedule.epochs=3",
    "schedule.batch_size=32",
    "precision=fp32",
    "threads=1",
)


def main(arguments: Sequence[str]) -> int:
    return verbs.run("analyze", *arguments)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def finished(output: Path, *overrides: str) -> Path:
    cfg = tiny.composed(*SMALL, f"output={output}", *overrides)
    folder = Path(config.identity(cfg)["folder"])
    run(cfg, folder, table=False)
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student distilled with two seeds, beside the same student alone; the folder of seed 1."""
    output = tmp_path_factory.mktemp("outputs")
    finished(output, "method=none")
    finished(output, "method=kd", "seed=2")
    return finished(output, "method=kd")


@pytest.fixture(scope="module")
def analysis(taught: Path) -> AnalysisData:
    return load_analysis_data(finished_run.open_run(taught), CPU)


# ---- numbers


def test_class_correlations_are_those_of_the_textbook() -> None:
    teacher, student = randn(30, 4).double(), randn(30, 4, seed=1).double()

    def slow(logits: Tensor, i: int, j: int) -> float:
        a, b = logits[:, i].tolist(), logits[:, j].tolist()
        mean_a, mean_b = sum(a) / 30, sum(b) / 30
        shared = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
        return shared / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))

    got = correlation_difference(teacher, student)
    for i, j in itertools.product(range(4), repeat=2):
        assert got[i, j].item() == pytest.approx(slow(teacher, i, j) - slow(student, i, j), abs=1e-9)
    assert not correlation_difference(teacher, 3 * teacher + 5).abs().gt(1e-12).any()


def test_a_class_whose_logit_never_changes_has_no_correlation() -> None:
    logits = randn(10, 3)
    logits[:, 1] = 2.0
    difference = correlation_difference(randn(10, 3), logits)
    assert difference.isfinite().all() and difference.diagonal().abs().max() == 0


def slow_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The unbiased estimator as a mean over all choices of different images."""
    n = len(k)
    pairs = [k[i, j] * m[i, j] for i, j in itertools.permutations(range(n), 2)]
    triples = [k[i, j] * m[i, q] for i, j, q in itertools.permutations(range(n), 3)]
    fours = [k[i, j] * m[q, r] for i, j, q, r in itertools.permutations(range(n), 4)]
    return float(np.mean(pairs) - 2 * np.mean(triples) + np.mean(fours))


def test_cka_is_the_unbiased_estimator_over_all_choices_of_images() -> None:
    a, b = randn(7, 5).double(), randn(7, 3, seed=1).double() + randn(7, 1).double()
    k, m = ((x @ x.T).numpy() for x in (a, b))
    expected = slow_hsic(k, m) / math.sqrt(slow_hsic(k, k) * slow_hsic(m, m))
    assert linear_cka(a, b) == pytest.approx(expected, abs=1e-9)


def test_cka_sees_rotations_and_scales_as_equal_and_noise_as_unrelated() -> None:
    a = randn(40, 6)
    rotation = torch.linalg.qr(randn(6, 6, seed=2)).Q
    assert linear_cka(a, 7 * a @ rotation + 3) == pytest.approx(1, abs=1e-5)
    wide, other = randn(60, 4000, seed=3), randn(60, 4000, seed=4)
    plain = _plain_cka(wide, other)
    assert plain > 0.9 and abs(linear_cka(wide, other)) < 0.1, "wide noise looks alike without the correction"
    assert linear_cka(torch.ones(9, 4), a[:9]) == 0


def _plain_cka(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(0), b - b.mean(0)
    return ((b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())).item()


def test_attention_is_the_mean_of_squares_over_channels() -> None:
    feature = randn(2, 3, 4, 5)
    got = attention(feature)
    for b, h, w in itertools.product(range(2), range(4), range(5)):
        expected = sum(feature[b, c, h, w].item() ** 2 for c in range(3)) / 3
        assert got[b, h, w].item() == pytest.approx(expected, rel=1e-5)


def test_reliability_bins_add_up_to_the_calibration_error() -> None:
    logits, labels = 2 * randn(200, 4), torch.arange(200) % 4
    got = reliability(logits, labels, 5)
    confidence, predicted = logits.softmax(1).max(1)
    for k in range(5):
        inside = [n for n in range(200) if k / 5 < confidence[n] <= (k + 1) / 5 or (k == 0 and confidence[n] == 0)]
        assert got.images[k] == len(inside)
        if inside:
            right = sum(int(predicted[n] == labels[n]) for n in inside) / len(inside)
            assert got.accuracy[k].item() == pytest.approx(right)
            sure = sum(confidence[n].item() for n in inside) / len(inside)
            assert got.confidence[k].item() == pytest.approx(sure, abs=1e-6)
    assert got.images[0] == 0 and got.accuracy[0].isnan()
    gap = ((got.accuracy - got.confidence).abs().nan_to_num(0) * got.images).sum() / 200
    assert gap.item() == pytest.approx(calibration_error(logits, labels, 5).item(), abs=1e-6)


def test_accuracy_of_each_class() -> None:
    logits = torch.eye(4)[[0, 0, 1, 2, 2]]
    got = class_accuracy(logits, torch.tensor([0, 0, 0, 1, 2])).tolist()
    assert got[:3] == pytest.approx([200 / 3, 0, 100]) and math.isnan(got[3])


def test_softened_probabilities() -> None:
    logits = torch.tensor([[0.0, 4 * math.log(3)]])
    assert softened(logits, 4).tolist()[0] == pytest.approx([0.25, 0.75])
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert entropy(softened(logits, 4)).item() == pytest.approx(expected)
    assert entropy(torch.tensor([[1.0, 0.0]])).item() == 0


def test_loss_terms_over_seeds_and_phases() -> None:
    more = {"kind": "epoch", "lr": 0.1, "epochs_left": 3, "ema_accuracy": 70.0}
    one = [{**more, "hint": 4.0}, {"kind": "epoch", "ce": 2.0, "kd": 1.0, "loss": 3.0}]
    two = [{**more, "hint": 6.0}, {"kind": "epoch", "ce": 1.0, "kd": None, "loss": 3.0}]
    got = losses([one, two])
    assert got["hint"] == {"epochs": [1], "mean": [5.0], "low": [4.0], "high": [6.0]}
    assert got["ce"] == {"epochs": [2], "mean": [1.5], "low": [1.0], "high": [2.0]}
    assert set(got) == {"hint", "ce"}, "kd is not a number everywhere; lr, loss and accuracies are no terms"
    assert losses([one, two[:1]]).keys() == {"hint"} and losses([]) == {}


def test_a_caption_says_how_many_terms_are_left_out() -> None:
    """fm-adversarial has eight with its two peers."""
    assert terms_shown(0) == "" and terms_shown(6) == " Then each term of the training loss."
    assert terms_shown(8) == " Then the first 6 of the 8 terms of the training loss."


def test_captions_of_a_run_with_a_held_out_part_name_that() -> None:
    logits, labels = randn(20, 3), torch.arange(20) % 3
    net = NetOutputs("a", logits, logits, [], [])
    for part, word, axis in (("holdout", "held-out", "accuracy on holdout, %"), ("test", "test", "test accuracy, %")):
        one = SimpleNamespace(result=SimpleNamespace(evaluated_on=part))
        held = AnalysisData(one, None, labels, None, None, net, None, [], None)
        assert f"accuracy of the {word} images in 15 bins" in calibration.draw(held).caption
        assert accuracy_axis(SimpleNamespace(where=("digits", part))) == axis


def test_the_curve_of_the_student_alone_is_of_the_one_that_the_run_is_measured_by(tmp_path: Path) -> None:
    """Of two the one whose student is set as the run's, as in a report."""
    plain, wide = "python -m distill dataset=cifar100", "python -m distill dataset=cifar100 student.args.width=2"
    alone = {"method": "none", "teacher": None, "teacher_accuracy": None}
    for last, changes in (
        (60.0, {**alone, "hash": "0", "command": plain}),
        (70.0, {**alone, "hash": "1", "command": wide}),
        (75.0, {"hash": "2", "command": wide}),
    ):
        folder = write_run(tmp_path, last=last, **changes)
        rows = [{"kind": "epoch", "phase": "p", "epoch": e, "epochs": 2, "test_accuracy": last} for e in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = summarize(collect([tmp_path]).runs)
    row = next(one for one in rows if one.one.method == "kd")
    one = SimpleNamespace(result=SimpleNamespace(evaluated_on="test"))
    drawn = curves.draw(AnalysisData(one, None, None, None, None, None, None, rows, row)).draw(600)
    assert "student alone, n = 1: 70.00" in drawn and "60.00" not in drawn


@pytest.mark.parametrize("hints", [0, 2])
def test_the_axis_of_losses_says_where_it_counts_other_epochs_than_that_of_accuracies(
    hints: int, tmp_path: Path
) -> None:
    """A hint phase measures nothing: the fourth epoch of a loss is the second one of the accuracy."""
    folder = write_run(tmp_path, last=50.0)
    rows = [{"kind": "epoch", "phase": "hint", "epoch": e + 1, "epochs": 2, "hint": 1.0} for e in range(hints)]
    rows += [{"kind": "epoch", "phase": "p", "epoch": e, "epochs": 2, "kd": 1.0, "test_accuracy": 50.0} for e in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = summarize(collect([tmp_path]).runs)
    one = SimpleNamespace(result=SimpleNamespace(evaluated_on="test"))
    picture = curves.draw(AnalysisData(one, None, None, None, None, None, None, [row], row))
    assert picture and picture.numbers["losses"]["kd"]["epochs"] == [hints + 1, hints + 2]
    assert ("epoch of all phases" in picture.draw(600)) == ("phases that measure no" in picture.caption) == bool(hints)


# ---- analysis data


def test_images_are_spread_evenly_and_over_the_classes() -> None:
    assert evenly_spread(torch.arange(9), 3).tolist() == [0, 4, 8] and evenly_spread(torch.arange(2), 5).tolist() == [
        0,
        1,
    ]
    labels = torch.arange(3000) // 30  # sorted, as in a folder
    got = choose(labels, 100)
    assert labels[got.shown].unique().numel() == 6 and labels[got.embedded].unique().numel() == 10
    assert len(got.embedded) == 300 and len(got.compared) == 256 and labels[got.compared].unique().numel() == 100


def test_fewer_images_are_the_same_images() -> None:
    data = tiny.tiny_data()
    some = thinned(data, 3)
    assert torch.equal(some.test.images, data.test.images[[0, 4, 7]]) and len(some.train) == len(data.train)
    assert thinned(data, 8) is data
    files = FolderSplit([f"{k}.png" for k in range(5)], np.arange(5), 0, CPU)
    folder = thinned(FolderData(data.info, files, files), 2).test
    assert (folder.paths, folder.labels.tolist()) == (["0.png", "4.png"], [0, 4])


def test_what_is_kept_of_a_pass_is_that_of_the_chosen_images() -> None:
    data, net = tiny.tiny_data(), tiny.net("cifar_resnet8")
    data = replace(data, test=data.train)
    chosen = choose(data.test.labels, 6)
    net.train()
    seen = forward_test_images(net, data, chosen, "student")
    assert net.training
    net.eval()
    images = torch.cat([batch for batch, _ in data.evaluation(5)])
    with torch.no_grad():
        out = net(images)
    torch.testing.assert_close(seen.logits, out.logits)
    torch.testing.assert_close(seen.embeddings, out.embedding[chosen.embedded])
    torch.testing.assert_close(seen.stages[1], out.features[1][chosen.compared].flatten(1))
    torch.testing.assert_close(seen.attention[0], out.features[0][chosen.shown.sort().values].square().mean(1))


def test_a_teacher_is_asked_about_images_of_its_own_size() -> None:
    """As when it was measured: images of files are read at that size, and not enlarged from the student's."""
    net, asked = tiny.net("cifar_resnet8"), []

    class Seen:
        def evaluation(self, count: int, side: str, size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
            asked.append((side, size))
            yield torch.zeros(2, 3, net.size, net.size), torch.zeros(2)

    for net.resizes in (False, True):
        forward_test_images(net, Seen(), choose(torch.arange(2), 2), "teacher")  # type: ignore[arg-type]
    assert asked == [("teacher", None), ("teacher", net.size)]


def test_a_teacher_is_measured_on_all_images_however_few_are_looked_at(taught: Path) -> None:
    """What is kept of it is what later runs are told."""
    (known,) = taught.parents[2].glob("teachers/*.json")
    before = read_json(known)
    known.unlink()
    load_analysis_data(finished_run.open_run(taught), CPU, 20)
    assert read_json(known) == before and before["images"] == 360


def test_a_page_says_of_how_many_classes_it_shows_the_accuracy() -> None:
    labels = torch.arange(100)
    student = SimpleNamespace(logits=torch.eye(100))
    info = SimpleNamespace(class_names=[str(k) for k in range(100)])
    seen = SimpleNamespace(
        student=student, teacher=None, labels=labels, info=info, part="test"
    )
    assert "of the 60 of 100 classes where it is lowest" in classes.draw(seen).caption  # type: ignore[arg-type]


def test_a_teacher_of_features_is_left_out() -> None:
    taught = [SimpleNamespace(net=SimpleNamespace(num_classes=classes)) for classes in (0, 6)]
    assert seen_teacher([]) is None and seen_teacher(taught) is None  # type: ignore[arg-type]
    assert seen_teacher(taught[1:]) is taught[1].net  # type: ignore[arg-type]


def test_shown_images_are_named_by_their_own_classes() -> None:
    """They are gathered batch by batch, their labels by position: both in the order of the images."""
    labels = torch.cat([torch.full((200,), k) for k in (3, 1, 2, 0)])
    assert choose(labels, 4).shown.tolist() == [0, 200, 400, 600]


def test_images_are_shown_as_they_are(analysis: AnalysisData) -> None:
    data = finished_run.get_data(analysis.run, CPU)
    expected = data.test.images[analysis.chosen.shown].float().numpy() / 255
    assert np.allclose(analysis.images, np.repeat(expected, 3, axis=3), atol=1e-6)


# ---- the program


def test_every_picture_of_a_run_and_the_page(taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(taught), "--device", "cpu"]) == 0, capsys.readouterr().err
    folder = taught / "analysis"
    assert sorted(path.stem for path in folder.glob("*.svg")) == sorted(gallery.PICTURES)
    for path in folder.glob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        assert 600 <= width <= 980 and height > 100 and len(list(root.iter())) > 12, path.name
        assert "prefers-color-scheme: dark" in path.read_text() and "var(" not in path.read_text()
    html = (folder / "index.html").read_text()
    assert html.count("<figure") == html.count('<div class="narrow"><svg') == len(gallery.PICTURES)
    assert not re.search(r'(src|href)="(https?:|/)', html) and "resnet14 → resnet8, kd, seed 1" in html
    assert {name for names in gallery.SECTIONS.values() for name in names} == set(gallery.PICTURES)


def test_the_page_can_be_read_in_every_view(taught: Path, look: Look) -> None:
    page = taught / "analysis" / "index.html"
    assert page.exists() or main([str(taught), "--device", "cpu"]) == 0
    for view in VIEWS:
        with look(page, view) as opened:
            check(opened, view, "analysis")


def test_numbers_beside_the_pictures_are_those_of_the_run(taught: Path) -> None:
    assert main([str(taught), "--device", "cpu", "--only", "curves", "gaps", "classes", "calibration"]) == 0
    numbers = read_json(taught / "analysis" / "numbers.json")
    result = read_json(taught / "result.json")
    labels = finished_run.get_data(finished_run.open_run(taught), CPU).test.labels
    by_class = [numbers["classes"]["accuracy"][str(k)]["student"] for k in range(10)]
    weighted = sum(value * (labels == k).sum().item() for k, value in enumerate(by_class)) / len(labels)
    assert weighted == pytest.approx(result["accuracy"]["last"], abs=1e-3)
    assert numbers["calibration"]["student"]["ece"] == pytest.approx(result["ece"], abs=1e-3)
    seeds = [read_json(taught.parent / f"s{seed}" / "result.json") for seed in (1, 2)]
    mean = sum(one["accuracy"]["last"] for one in seeds) / 2
    assert numbers["gaps"]["gaps"]["kd, n = 2"] == pytest.approx(result["teacher_accuracy"] - mean)
    assert "student alone, n = 1" in numbers["gaps"]["gaps"]
    rows = [RunFolder(taught.parent / f"s{s}").rows("epoch") for s in (1, 2)]
    tested = [[row["test_accuracy"] for row in one] for one in rows]
    curves = numbers["curves"]
    assert curves["seeds"] == 2 and curves["epochs"] == [1, 2, 3]
    assert curves["low"] == [min(pair) for pair in zip(*tested, strict=True)]
    assert curves["high"] == [max(pair) for pair in zip(*tested, strict=True)]
    assert curves["losses"]["kd"]["mean"][0] == pytest.approx((rows[0][0]["kd"] + rows[1][0]["kd"]) / 2)


def test_a_picture_is_the_same_each_time(analysis: AnalysisData, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    assert main([str(analysis.run.folder), "--out", str(out), "--only", "gaps", "attention", "--device", "cpu"]) == 0
    first = {path.name: path.read_text() for path in out.glob("*.svg")}
    assert first.keys() == {"gaps.svg", "attention.svg"}
    again = {f"{picture.name}.svg": file_of(picture) for picture in gallery.draw(analysis, ["gaps", "attention"])}
    assert again == first


@pytest.mark.parametrize(("names", "refused"), [
    (["index.html"], "index.html"), (["curves.svg", "logo.svg"], "logo.svg"), (["numbers.json", "x"], "numbers.json"),
    ([], ""), ([".git"], ""), (["curves.svg", "gaps.svg"], ""),
])  # fmt: skip
def test_a_folder_of_other_things_is_not_drawn_into(
    names: list[str], refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page of somebody's was replaced; what a run cut off has left of its pictures is no other thing."""
    for name in names:
        (tmp_path / name).write_text("mine")
    monkeypatch.setattr("distill.analyze.command.open_run", lambda *_: SimpleNamespace(folder=tmp_path))
    monkeypatch.setattr("distill.analyze.command.load_analysis_data", raised(ValueError("it is drawn")))
    assert main(["a run", "--out", str(tmp_path), "--device", "cpu"]) == 2
    said = f"{tmp_path} holds {refused}, and is no analysis: give a new" if refused else "it is drawn"
    assert said in capsys.readouterr().err
    write_json(tmp_path / "numbers.json", {"curves": {}})  # of an analysis, which is drawn anew
    assert main(["a run", "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "it is drawn" in capsys.readouterr().err


def raised(error: Exception) -> Any:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def test_a_run_without_a_teacher_has_fewer_pictures(taught: Path) -> None:
    alone = next(taught.parents[2].glob("none-resnet8/*/s1"))
    assert main([str(alone), "--device", "cpu", "--images", "60"]) == 0
    drawn = {path.stem for path in (alone / "analysis").glob("*.svg")}
    assert drawn == set(gallery.PICTURES) - {"gaps", "correlation"}
    numbers = read_json(alone / "analysis" / "numbers.json")
    assert set(numbers["cka"]) == set(numbers["calibration"]) == {"student"}
    assert sum(numbers["calibration"]["student"]["images"]) == 60


def test_nets_without_maps_have_the_pictures_that_need_none(analysis: AnalysisData) -> None:
    def bare(net: NetOutputs) -> NetOutputs:
        return replace(net, stages=[], attention=[])

    nothing = replace(analysis, student=bare(analysis.student), teacher=bare(analysis.teacher))
    assert cka.draw(nothing) is None and maps.draw(nothing) is None
    half = replace(analysis, teacher=bare(analysis.teacher))
    assert set(cka.draw(half).numbers) == {"student"} and maps.draw(half).numbers["sizes"]["teacher"] == []


def test_a_net_is_like_itself_stage_by_stage(analysis: AnalysisData) -> None:
    numbers = cka.draw(analysis).numbers
    assert np.diag(numbers["student"]) == pytest.approx([1.0] * 3) and (numbers["teacher"] < 1).all()
    assert numbers["student"] == pytest.approx(numbers["student"].T)


def test_a_student_that_equals_its_teacher_shows_no_difference(analysis: AnalysisData) -> None:
    same = replace(analysis, student=analysis.teacher)
    picture = correlation.draw(same)
    assert picture is not None and picture.numbers["mean_absolute_difference"] == 0
    different = correlation.draw(analysis)
    assert different is not None and different.numbers["mean_absolute_difference"] > 0.01


def test_images_for_probabilities_run_from_certain_to_uncertain(analysis: AnalysisData) -> None:
    logits = analysis.student.logits
    doubt = entropy(softened(logits, 4.0))[probabilities.by_certainty(logits, 4.0)]
    assert len(doubt) == 4 and (doubt.diff() > 0).all()
    numbers = probabilities.draw(analysis).numbers["mean_entropy_nats"]
    assert numbers["teacher"]["T=4"] > numbers["teacher"]["T=1"]


def test_two_classes_far_apart_stay_apart_in_the_plane() -> None:
    points = tsne.in_plane(torch.cat([randn(20, 8), randn(20, 8, seed=1) + 50]))
    centre = (points[:20].mean(0) + points[20:].mean(0)) / 2
    side = (points - centre) @ (points[:20].mean(0) - points[20:].mean(0))
    assert (side[:20] > 0).all() and (side[20:] < 0).all()


def test_many_classes_of_long_names_are_drawn(analysis: AnalysisData) -> None:
    classes_, images = 40, 400
    names = [f"a rather long name of class {k}" for k in range(classes_)]
    labels = torch.arange(images) % classes_

    def net(seed: int) -> NetOutputs:
        logits = randn(images, classes_, seed=seed) + 3 * torch.nn.functional.one_hot(labels, classes_)
        stages = [randn(50, 64, seed=seed), randn(50, 16, seed=seed)]
        return NetOutputs("net", logits, randn(len(chosen.embedded), 8, seed=seed), stages, [randn(6, 4, 4).square()])

    chosen = choose(labels, classes_)
    info = replace(analysis.info, class_names=names, num_classes=classes_)
    many = replace(analysis, labels=labels, chosen=chosen, info=info, student=net(1), teacher=net(2))
    for draw in (classes.draw, correlation.draw, maps.draw, probabilities.draw, tsne.draw, cka.draw):
        picture = draw(many)
        assert picture is not None and len(picture.draw(600)) > 2_000
        ElementTree.fromstring(picture.draw(330))
    assert json.dumps(classes.draw(many).numbers["accuracy"]["a rather long name of class 0"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "DONE").unlink(), "is not finished"),
        (lambda folder: (folder / "student.safetensors").unlink(), "student.safetensors is missing"),
        (lambda folder: (folder / "student.safetensors").write_bytes(b"{}"), "is damaged"),
        (lambda folder: (folder / "tracking.json").write_text("{"), "does not hold the run's configuration"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(
    taught: Path, tmp_path: Path, spoil, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = shutil.copytree(taught, tmp_path / "s1", ignore=shutil.ignore_patterns("analysis"))
    spoil(copy)
    assert main([str(copy), "--device", "cpu"]) == 2
    text = capsys.readouterr().err
    assert said in text and text.count("\n") == 1


def test_a_run_away_from_its_output_folder_is_drawn_as_well(taught: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(taught, tmp_path / "s1", ignore=shutil.ignore_patterns("analysis"))
    assert main([str(copy), "--device", "cpu", "--only", "curves", "gaps"]) == 0
    numbers = read_json(copy / "analysis" / "numbers.json")
    assert numbers["curves"]["seeds"] == 1 and set(numbers["gaps"]["gaps"]) == {"kd, n = 1"}


def test_too_few_images(taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(taught), "--images", "3"]) == 2 and "give at least 10" in capsys.readouterr().err
