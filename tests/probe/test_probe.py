"""Linear probes: what is frozen stays frozen, steps by hand, data sets, files, and the report's table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from PIL import Image
from torch.nn import functional as F

from distill import config, finished_run
from distill.cli import verbs
from distill.config import DataSpec, hashing
from distill.content.parts import Arrays, Part
from distill.content.small_images import read_stl10, read_tinyimagenet, resized
from distill.data import load_data
from distill.engine.neighbours import Embedded, embed
from distill.files import read_json, write_json
from distill.probe.experiment import data_node
from distill.probe.linear import RECIPES, Recipe, fit_linear
from distill.report.collect import collect
from distill.report.probes import probes, published_probe
from distill.report.summary import summarize
from distill.run import run
from tests import tiny
from tests.report.test_report import write_run

CPU = torch.device("cpu")
SMALL = (
    "student=resnet8",
    "teacher=resnet14",
    "method=kd",
    "dataset.fraction=0.15",
    "schedule.init_epochs=1",
    "schedule.epochs=3",
    "schedule.batch_size=32",
    "precision=fp32",
    "threads=1",
)
QUICK = ("--dataset", "digits", "--epochs", "4", "--device", "cpu")


def main(arguments: Sequence[str]) -> int:
    return verbs.run("probe", *arguments)


def report(arguments: Sequence[str]) -> int:
    return verbs.run("report", *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a distilled student."""
    cfg = tiny.composed(*SMALL, f"output={tmp_path_factory.mktemp('outputs')}")
    folder = Path(config.identity(cfg)["folder"])
    run(cfg, folder, table=False)
    return folder


# ---- the layer


def random_set(count: int, width: int = 5, classes: int = 3, seed: int = 0) -> Embedded:
    generator = torch.Generator().manual_seed(seed)
    return Embedded(torch.randn(count, width, generator=generator), torch.arange(count) % classes)


def test_one_step_is_the_gradient_step_by_hand() -> None:
    train, lr, decay = random_set(12), 0.3, 0.01
    recipe = Recipe("one", epochs=1, lr=lr, weight_decay=decay, batch_size=12)
    start = fit_linear(train, train, 3, replace(recipe, lr=0.0)).layer
    moved = fit_linear(train, train, 3, recipe).layer
    probabilities = (train.features @ start.weight.T + start.bias).softmax(1)
    wrong = (probabilities - F.one_hot(train.labels, 3)) / 12
    expected = start.weight - lr * (wrong.T @ train.features + decay * start.weight)
    torch.testing.assert_close(moved.weight, expected)
    torch.testing.assert_close(moved.bias, start.bias - lr * (wrong.sum(0) + decay * start.bias))


def test_rates_fall_after_the_milestones_and_mobile_nets_start_lower() -> None:
    train = random_set(6)
    recipe = Recipe(
        "falls",
        epochs=3,
        lr=0.1,
        weight_decay=0.0,
        milestones=(1, 2),
        momentum=0.0,
        batch_size=6,
        scaled=True,
    )
    whole = fit_linear(train, train, 3, recipe, lr_scale=0.2).layer.weight
    weight, bias = (p.detach() for p in fit_linear(train, train, 3, replace(recipe, lr=0.0)).layer.parameters())
    for lr in (0.02, 0.002, 0.0002):
        wrong = ((train.features @ weight.T + bias).softmax(1) - F.one_hot(train.labels, 3)) / 6
        weight, bias = weight - lr * wrong.T @ train.features, bias - lr * wrong.sum(0)
    torch.testing.assert_close(whole, weight)


def test_a_layer_learns_what_is_linear_and_depends_on_the_seed_alone() -> None:
    train, test = random_set(300, seed=1), random_set(90, seed=2)
    direction = torch.eye(5)[:3] * 6
    train, test = (Embedded(part.features + direction[part.labels], part.labels) for part in (train, test))
    recipe = RECIPES["distillers"].changed(epochs=10)
    one, two = (fit_linear(train, test, 3, recipe, seed=4) for _ in range(2))
    assert one.tested[-1] > 98 and len(one.tested) == 10 and torch.equal(one.layer.weight, two.layer.weight)
    assert not torch.equal(one.layer.weight, fit_linear(train, test, 3, recipe, seed=5).layer.weight)


def test_a_loss_that_is_not_finite_is_a_sentence() -> None:
    train = random_set(12)
    train = Embedded(train.features * 1e30, train.labels)
    with pytest.raises(ValueError, match="lower it with --lr"):
        fit_linear(train, train, 3, Recipe("steep", epochs=3, lr=1e30, weight_decay=0.0))


def test_recipes_are_those_of_the_two_reimplementations() -> None:
    ours, other = RECIPES["distillers"], RECIPES["hsakd"]
    assert (ours.epochs, ours.lr, ours.weight_decay, ours.batch_size, ours.milestones) == (
        120,
        0.05,
        5e-4,
        64,
        (30, 60, 90),
    )
    assert (other.epochs, other.lr, other.weight_decay, other.nesterov, other.scaled) == (
        100,
        0.1,
        0.0,
        True,
        False,
    )
    layer = fit_linear(*[random_set(6, 400)] * 2, 3, replace(ours, epochs=1, lr=0.0)).layer  # transfer_student.py
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1) and not layer.bias.any() and other.start is None
    assert ours.changed(epochs=3, lr=0.05).name == "distillers,epochs=3" and ours.changed(epochs=None) == ours


# ---- the backbone


@pytest.mark.parametrize("name", ["cifar_vgg8", "cifar_ShuffleV2", "cifar_ResNet50", "resnet18", "efficientnet_b0"])
def test_no_statistics_move_and_features_are_those_of_eval_mode(name: str) -> None:
    """Classifiers have different names (classifier, linear, fc); embeddings come before all of them."""
    data = tiny.tiny_data()
    net = tiny.build(name, 7, size=32, seed=0)
    images = [(F.interpolate(batch, 32), labels) for batch, labels in data.evaluation(4)]
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    features, labels = embed(net, images)
    after = net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before) and net.training
    net.eval()
    with torch.no_grad():
        expected = torch.cat([net(batch).embedding for batch, _ in images])
        logits = torch.cat([net(batch).logits for batch, _ in images])
    assert torch.equal(features, expected) and features.shape == (8, net.embedding_dim) and not features.requires_grad
    assert torch.equal(labels, data.test.labels)
    torch.testing.assert_close(net.classifier(features).flatten(1), logits)


def test_the_net_sees_the_images_that_the_result_names(finished: Path) -> None:
    net = tiny.build("cifar_resnet8", 10, size=32, seed=0)
    node = data_node("digits", net, RECIPES["distillers"], {"fraction": 0.1})
    data = load_data(DataSpec.of(node))
    assert data.test.images.shape == (360, 32, 32, 3) and node["mean"] == [0.305861] * 3
    cfg = {"stl10": ((0.5,) * 3, (0.5,) * 3), "tinyimagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
    for name, (mean, std) in cfg.items():
        node = data_node(name, net, RECIPES["hsakd"], {})
        assert (tuple(node["mean"]), tuple(node["std"]), node["size"]) == (mean, std, 32)
    assert data_node("stl10", net, RECIPES["distillers"], {})["mean"] == [0.4467, 0.4398, 0.4066]
    assert data_node("tinyimagenet", net, RECIPES["distillers"], {})["std"] == [0.2770, 0.2691, 0.2821]
    with pytest.raises(ValueError, match="cifar_resnet8 takes grey images and cifar10 is in colour"):
        data_node("cifar10", tiny.build("cifar_resnet8", 10, in_chans=1), RECIPES["hsakd"], {})


# ---- the program


def test_student_and_teacher_of_a_run_are_probed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished), *QUICK]) == 0
    assert "cifar_resnet8 on digits, distillers,epochs=4" in capsys.readouterr().out
    assert main([str(finished), *QUICK, "--teacher"]) == 0
    assert main([str(finished), *QUICK, "--recipe", "hsakd", "--fraction", "0.2", "--seed", "3"]) == 0
    names = sorted(path.name for path in (finished / "probe").iterdir())
    assert names == ["digits-distillers-epochs4-teacher.json", "digits-distillers-epochs4.json",
                     "digits-hsakd-epochs4-fraction0.2-seed3.json"]  # fmt: skip
    student, teacher = (read_json(finished / "probe" / names[k]) for k in (1, 0))
    assert (student["net"], student["model"], student["trained_on"]) == ("student", "cifar_resnet8", "digits")
    assert (teacher["net"], teacher["model"]) == ("teacher", "cifar_resnet14")
    assert student["recipe"]["name"] == "distillers,epochs=4" and student["recipe"]["lr"] == 0.05
    assert student["num_train"] == 1437 and student["num_test"] == 360 and "once" in student["features"]
    assert student["accuracy"]["last"] > 20 and student["accuracy"]["best"] >= student["accuracy"]["last"]


def test_a_students_classifier_is_what_its_own_embeddings_meet(finished: Path) -> None:
    """The rebuilt student's classifier on its embeddings measures what the run measured."""
    opened = finished_run.open_run(finished)
    data, net = finished_run.get_data(opened, CPU), finished_run.student(opened, CPU)
    features, labels = embed(net, data.evaluation(100))
    right = (net.classifier(features).argmax(1) == labels).double().mean().item()
    assert 100 * right == pytest.approx(opened.result.accuracy.last)
    assert not any(p.requires_grad for p in net.parameters())


def test_a_run_may_be_moved_with_its_output_folder(finished: Path, tmp_path: Path) -> None:
    output = finished.parents[3]
    moved = output.rename(output.with_name("moved"))
    try:
        opened = finished_run.open_run(moved / finished.relative_to(output))
        (teacher,) = finished_run.teachers(opened, finished_run.get_data(opened, CPU), CPU)
        assert teacher.accuracy == pytest.approx(opened.result.teacher_accuracy)
        for path in (moved / "digits").glob("none-*/*/s*/DONE"):
            path.rename(path.with_name("GONE"))
        with pytest.raises(ValueError, match="the teacher of .* is not in .*none-resnet14"):
            finished_run.teachers(opened, finished_run.get_data(opened, CPU), CPU)
    finally:
        for path in (moved / "digits").glob("none-*/*/s*/GONE"):
            path.rename(path.with_name("DONE"))
        moved.rename(output)


def test_a_moved_run_is_known_by_its_recorded_hash(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of a method of one's own may have changed since, and with it what the run would be called now."""
    moved, hashed = tmp_path.joinpath(*finished.parts[-4:]), hashing.hashed_config
    shutil.copytree(finished, moved)
    monkeypatch.setattr(hashing, "hashed_config", lambda cfg: {**hashed(cfg), "code": "another"})
    assert finished_run.open_run(moved).spec.output == tmp_path


def test_what_simkd_deploys_is_rebuilt_with_its_teacher(tmp_path: Path) -> None:
    cfg = tiny.composed(*SMALL, "method=simkd", "teacher.weights=none", f"output={tmp_path}", "schedule.epochs=1")
    folder = Path(config.identity(cfg)["folder"])
    result = run(cfg, folder, table=False)
    opened = finished_run.open_run(folder)
    net = finished_run.student(opened, CPU)
    features, labels = embed(net, finished_run.get_data(opened, CPU).evaluation(100))
    right = (net.classifier(features).argmax(1) == labels).double().mean().item()
    assert 100 * right == pytest.approx(result["accuracy"]["last"])


def test_a_file_of_weights_is_probed(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished / "best.safetensors"), *QUICK]) == 0
    assert (finished / "probe" / "digits-distillers-epochs4-best.json").exists()
    capsys.readouterr()
    assert main([str(finished / "best.safetensors"), str(finished), *QUICK]) == 0
    assert capsys.readouterr().out.count("wrote") == 2
    net = tiny.build("cifar_vgg8", 100, seed=3)
    file = tmp_path / "old.pth"
    torch.save({"model": net.model.state_dict()}, file)
    assert main([str(file), "--dataset", "digits", "--epochs", "1", "--fraction", "0.05"]) == 0
    result = read_json(tmp_path / "probe" / "digits-distillers-epochs1-fraction0.05-old.json")
    assert result["net"] == "cifar_vgg8" and result["num_train"] < 100
    torch.save(tiny.build("resnet18", 9, size=32, seed=3).model.state_dict(), file)
    assert main([str(file), *QUICK]) == 2 and "give --model" in capsys.readouterr().err
    assert main([str(file), *QUICK, "--model", "vgg8"]) == 2 and "does not fit cifar_vgg8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--dataset", "digits"], "there is no nowhere"),
        ([".", "--dataset", "digits"], "is no run's folder"),
        (["RUN", "--dataset", "stl11"], "did you mean stl10"),
        (["RUN", "--dataset", "digits", "--epochs", "0"], "--epochs=0: --epochs must be a whole number"),
        (["RUN", "--dataset", "digits", "--lr", "nan"], "--lr=nan: --lr must be a number above 0"),
        (["RUN", "--dataset", "digits", "--seed", "-1"], "--seed=-1: --seed must be a whole number"),
        (["RUN", "--dataset", "stl10"], "takes grey images"),
        (["RUN", "--dataset", "folder", "--root", "nowhere"], "nowhere/train: there is no such folder"),
        (["RUN", "--dataset", "digits", "--device", "tpu"], "device=tpu"),
        (["RUN", "--dataset", "digits", "--root", "x"], "--root=x does nothing here: the digits come with"),
        (["RUN", "--dataset", "digits", "--model", "vgg8"], "--model=vgg8 is for a file of weights"),
    ],
)
def test_mistakes_are_one_sentence(
    finished: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(finished) if word == "RUN" else word for word in arguments]) == 2
    text = capsys.readouterr().err
    assert said in text and text.count("\n") == 1 and "Traceback" not in text


# ---- the data sets


def write_stl10(root: Path, counts: tuple[int, int]) -> Path:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    for stem, count in zip(("train", "test"), counts, strict=True):
        random.randint(0, 256, count * 3 * 96 * 96).astype(np.uint8).tofile(folder / f"{stem}_X.bin")
        (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{stem}_y.bin")
    (folder / "class_names.txt").write_text(
        "\n".join(["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]) + "\n"
    )
    return folder


def test_stl10_is_what_torchvision_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_stl10(tmp_path, (20, 10))
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.STL10, "_STL10__load_folds", lambda self, folds: None, raising=False)
    ours = read_stl10(tmp_path, counts=(20, 10))
    for split, part in (("train", ours.train), ("test", ours.test)):
        theirs = torchvision.datasets.STL10(str(tmp_path), split=split)
        for k in range(len(theirs)):
            image, label = theirs[k]
            assert np.array_equal(np.asarray(image), part.images[k]) and label == part.labels[k]
    assert ours.class_names[:3] == ["airplane", "bird", "car"]
    with pytest.raises(ValueError, match=r"train_X.bin should have 580608 bytes and has 552960"):
        read_stl10(tmp_path, counts=(21, 10))
    (folder / "test_y.bin").write_bytes(bytes([11] * 10))
    with pytest.raises(ValueError, match="test_y.bin: the labels should be 10 numbers from 0 to 9"):
        read_stl10(tmp_path, counts=(20, 10))


def test_images_are_resized_as_torchvision_does() -> None:
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (3, 96, 96, 3)).astype(np.uint8)
    grey = random.randint(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    resize = torchvision.transforms.Resize(32)
    made = resized(Arrays(Part(images, np.zeros(3)), Part(grey, np.zeros(2)), ["a"]), 32)
    for before, after in zip(images, made.train.images, strict=True):
        assert np.array_equal(np.asarray(resize(Image.fromarray(before))), after)
    for before, after in zip(grey, made.test.images, strict=True):
        assert np.array_equal(np.asarray(resize(Image.fromarray(before[..., 0]))), after[..., 0])


def test_stl10_is_loaded_at_the_size_of_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distill.content import readers

    write_stl10(tmp_path, (20, 10))
    monkeypatch.setitem(readers.READERS, "stl10", lambda root: read_stl10(root, counts=(20, 10)))
    node = OmegaConf.load(config.conf_dir() / "dataset" / "stl10.yaml")
    data = load_data(DataSpec.of({**OmegaConf.to_container(node, resolve=True), "root": str(tmp_path)}))  # type: ignore[dict-item]
    assert data.train.images.shape == (20, 32, 32, 3) and data.info.num_classes == 10


def write_tiny(root: Path, listed: bool) -> Path:
    folder = root / "tiny-imagenet-200"
    for k, wnid in enumerate(("n02", "n01")):
        for part in ("train", "val"):
            inner = folder / part / wnid / "images" if part == "train" or not listed else folder / "val" / "images"
            inner.mkdir(parents=True, exist_ok=True)
            for number in range(2):
                mode = "L" if number else "RGB"
                Image.new(mode, (64, 64), 40 * k + 100).save(inner / f"{part}_{2 * k + number}.JPEG")
    (folder / "wnids.txt").write_text("n02\nn01\n")
    if listed:
        rows = [
            f"val_{2 * k + number}.JPEG\t{wnid}\t0\t0\t9\t9"
            for k, wnid in enumerate(("n02", "n01"))
            for number in range(2)
        ]
        (folder / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize("listed", [True, False])
def test_tiny_imagenet_is_read_as_published_or_sorted(tmp_path: Path, listed: bool) -> None:
    folder = write_tiny(tmp_path, listed)
    arrays = read_tinyimagenet(tmp_path)
    assert arrays.class_names == ["n01", "n02"] and arrays.train.images.shape == (4, 64, 64, 3)
    for part in (arrays.train, arrays.test):
        assert sorted(part.labels.tolist()) == [0, 0, 1, 1]
        assert {
            (int(label), int(image[0, 0, 2] > 120)) for image, label in zip(part.images, part.labels, strict=True)
        } >= {(0, 1), (1, 0)}
    bad = folder / "train" / "n01" / "images" / "train_2.JPEG"
    Image.new("RGB", (32, 64)).save(bad)
    with pytest.raises(ValueError, match="train_2.JPEG is 32x64 and should be 64x64"):
        read_tinyimagenet(tmp_path)
    bad.write_bytes(b"no image")
    with pytest.raises(ValueError, match="train_2.JPEG cannot be decoded"):
        read_tinyimagenet(tmp_path)


def test_tiny_imagenet_that_is_not_there_says_where_it_comes_from(tmp_path: Path) -> None:
    node = OmegaConf.to_container(OmegaConf.load(config.conf_dir() / "dataset" / "tinyimagenet.yaml"), resolve=True)
    with pytest.raises(ValueError, match=r"tiny-imagenet-200.zip\) under"):
        load_data(DataSpec.of({**node, "root": str(tmp_path)}))  # type: ignore[dict-item]


# ---- the report


def write_probe(folder: Path, last: float, net: str = "student", **changes: object) -> None:
    content = {
        "net": net,
        "dataset": "stl10",
        "accuracy": {"last": last, "best": last + 1},
        "recipe": {"name": "distillers"},
        "weights": "w",
        **changes,
    }
    write_json(folder / "probe" / f"{content['dataset']}-{net}.json", content)


def test_probes_over_seeds_stand_beside_the_published_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = {"teacher": "wrn_40_2", "student": "wrn_16_2"}
    for seed, last in enumerate((70.0, 71.0, 72.0)):
        folder = write_run(tmp_path, seed, method="crd", convention={"ce": 1.0, "kd": 0.0, "weight": 0.8}, **pair)
        write_probe(folder, last)
        write_probe(folder, 68.0, "teacher", accuracy={"last": 68.0, "best": None})
    write_probe(write_run(tmp_path, 9, method="none", teacher=None, student="wrn_16_2"), 69.5, dataset="tinyimagenet")
    (folder / "probe" / "half.json").write_text('{"net": "stud')
    (folder / "probe" / "foreign.json").write_text('["net"]')
    found = {probe.method: probe for probe in probes(summarize(collect([tmp_path]).runs))}
    crd, teacher = found["crd"], found["teacher"]
    assert (crd.last.mean, crd.last.std, crd.last.n, crd.published) == (71.0, 1.0, 3, 71.6)
    assert (teacher.last.mean, teacher.last.n, teacher.best, teacher.published) == (68.0, 1, None, 68.6)
    assert (found["none"].dataset, found["none"].published) == ("tinyimagenet", 33.7)
    assert report([str(tmp_path), "--format", "md"]) == 0
    text = capsys.readouterr().out
    assert "## Linear probe" in text and "71.00 ± 1.00" in text and "71.60" in text and "not known" in text
    assert report([str(tmp_path), "--table", "crd_table4", "--format", "csv"]) == 0
    assert "crd,wrn_40_2,wrn_16_2,cifar100->stl10,distillers,3,71.0,1.0,72.0,71.6" in capsys.readouterr().out


def test_probes_on_two_folders_are_two_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both data sets are called folder: what their files held tells them apart."""
    for seed, held in enumerate(("aaaaaaaa", "bbbbbbbb")):
        write_probe(write_run(tmp_path, seed), 60.0 + seed, dataset="folder", content=held)
    found = probes(summarize(collect([tmp_path]).runs))
    assert [(one.probed_on, one.last.mean, one.last.n) for one in found] == [
        ("folder (aaaaaa)", 60.0, 1), ("folder (bbbbbb)", 61.0, 1)
    ]  # fmt: skip


def test_published_cells_belong_to_one_pair_and_convention(tmp_path: Path) -> None:
    pair = {"teacher": "wrn_40_2", "student": "wrn_16_2"}
    (plain,) = collect([write_run(tmp_path / "a", method="crd", **pair)]).runs  # kd 0.9: CRD+KD
    assert published_probe(plain, "crd", "stl10") == 72.2 and published_probe(plain, "crd", "mnist") is None
    (kd,) = collect([write_run(tmp_path / "b", **pair)]).runs
    assert published_probe(kd, "kd", "stl10") == 70.9
    (other,) = collect([write_run(tmp_path / "c", teacher="wrn_40_2", student="wrn_40_1")]).runs
    assert published_probe(other, "kd", "stl10") is None and published_probe(other, "teacher", "stl10") == 68.6


def test_no_probes_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    assert report([str(tmp_path), "--format", "md"]) == 0 and "Linear probe" not in capsys.readouterr().out
    assert json.loads(json.dumps(probes([]))) == []
