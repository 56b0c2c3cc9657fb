"""Teachers that are no classifiers of the data's classes, and images without labels: from a folder to a shipped net."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from distill.__main__ import main
from distill.batch import view_at
from distill.config import DataSpec, identity, resolve
from distill.config.needs import without_classifiers
from distill.contract import clauses
from distill.contract.world import world_of
from distill.data import load_data
from distill.data.arrays import Normaliser
from distill.data.views import random_view
from distill.files import write_json
from distill.method import teacher_forward
from distill.models import FeatureNet, build
from distill.report.collect import collect
from distill.run import run
from distill.teachers.making import has_published_constants, make_teacher
from tests import tiny

VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SHORT = ("schedule.epochs=1", "schedule.batch_size=16", "precision=fp32", "threads=1", "device=cpu",
         "dataset.workers=0")  # fmt: skip
OF_VIT = ("teacher=timm", "teacher.model=vit_small_patch14_dinov2", *(f"+teacher.args.{k}={v}" for k, v in VIT.items()),
          "+teacher.args.img_size=48")  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 images of no class, and 24 of two classes to evaluate on."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.RandomState(0)

    def write(path: Path, level: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (draw.rand(20, 24, 3) * 100 + level).astype(np.uint8)
        Image.fromarray(pixels).save(path)

    for k in range(32):
        write(root / "train" / ("deeper" if k % 2 else ".") / f"{k}.png", 150 * (k % 3 == 0))
    for k in range(24):
        write(root / "val" / ("dark", "light")[k % 2] / f"{k}.png", 150 * (k % 2))
    return root


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a small DINOv2 without a head, as timm names them, and with a classifier of seven classes."""
    torch.manual_seed(0)
    net = timm.create_model("vit_small_patch14_dinov2", num_classes=7, img_size=48, **VIT)
    file = tmp_path_factory.mktemp("backbone") / "vit.safetensors"
    save_file(net.state_dict(), file)
    return file


def of_photos(photos: Path) -> tuple[str, ...]:
    named = (f"dataset.root={photos}", "dataset.name=photos")
    return ("dataset=folder", *named, "dataset.size=16", "dataset.labels=false")


def test_a_backbone_shows_tokens_and_an_embedding_and_no_logits() -> None:
    net = build("vit_small_patch14_dinov2", 0, size=48, args=VIT, seed=0)
    net.eval()
    images = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        seen = net(images)
        assert seen.logits is None and torch.equal(seen.embedding, net.model(images))
    assert seen.tokens.shape == (3, 36, 32) and seen.class_tokens.shape == (3, 1, 32)
    assert torch.allclose(seen.embedding, seen.class_tokens[:, 0], atol=1e-5)
    with pytest.raises(ValueError, match="has no classifier"):
        net.classify(seen.features[-1])


def test_a_net_brings_images_to_its_own_size() -> None:
    net = build("vit_small_patch14_dinov2", 0, size=48, args=VIT, seed=0)
    net.eval().resizes = True
    images = torch.randn(2, 3, 16, 16)
    larger = F.interpolate(images, (48, 48), mode="bilinear", antialias=True, align_corners=False)
    with torch.no_grad():
        assert torch.equal(net(images).embedding, net(larger).embedding)


def test_a_file_of_other_classes_teaches_features(backbone: Path) -> None:
    """With the mean and std of its model, at its own size; a method on logits is refused, and told which are not."""
    spec = resolve(tiny.composed("method=at", *OF_VIT, f"teacher.weights={backbone}", "student=resnet8"))
    info = tiny.tiny_data().info
    net = make_teacher(spec, spec.teachers[0], info, pretrained=False)
    assert (net.num_classes, net.size, net.resizes) == (0, 48, True)
    kept = {"num_classes": 7, "img_size": 48, "checkpoint_path": str(backbone)}
    stored = timm.create_model("vit_small_patch14_dinov2", **kept, **VIT)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.allclose(net.eval()(images).embedding, stored.eval().forward_head(
            stored.forward_features(images), pre_logits=True), atol=1e-5)  # fmt: skip
    spec = resolve(tiny.composed("method=kd", *OF_VIT, f"teacher.weights={backbone}", "student=resnet8"))
    with pytest.raises(ValueError, match=r"method=kd reads logits, .*vit.safetensors: .* no classifier .* none: ab,"):
        make_teacher(spec, spec.teachers[0], info, pretrained=False)
    with pytest.raises(ValueError, match=f"or fine-tune the teacher first, .* teacher.start={backbone}"):
        make_teacher(spec, spec.teachers[0], info, pretrained=False)
    spec = resolve(tiny.composed("method=at", "method.kd=1", *OF_VIT, f"teacher.weights={backbone}", "student=resnet8"))
    with pytest.raises(ValueError, match=r"reads logits \(method.kd=1\).*set method.kd=0"):
        make_teacher(spec, spec.teachers[0], info, pretrained=False)


def left_by_a_run(folder: Path, classes: list[str], size: int = 24) -> Path:
    """A folder as a run leaves it whose student, a small net of timm's, knows these classes."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=len(classes)).state_dict(), folder / "student.safetensors")
    takes = {"size": size, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    named = {"dataset": "own", "student": "test_resnet", "method": "none", "accuracy": {}}
    write_json(folder / "result.json", {**named, "input": takes, "classes": classes})
    return folder


def taught_by(folder: Path, method: str) -> FeatureNet:
    """The teacher of that run, for images of classes 0 to 5."""
    words = ("teacher=timm", "teacher.model=test_resnet", f"teacher.weights={folder}", "student=resnet8")
    spec = resolve(tiny.composed(f"method={method}", "dataset.mean=[0.5]", "dataset.std=[0.25]", *words))
    return make_teacher(spec, spec.teachers[0], tiny.tiny_data().info, pretrained=False)


def test_classes_at_other_places_are_other_classes(tmp_path: Path) -> None:
    """As many of the same names, in another order: logits would be taken for those of other classes."""
    folder = left_by_a_run(tmp_path, ["0", "1", "2", "4", "3", "5"])
    with pytest.raises(ValueError, match=r"\(its class 3 is 4, which is class 4 of tiny\) is no classifier of tiny"):
        taught_by(folder, "kd")
    assert taught_by(folder, "at").num_classes == 0
    assert taught_by(left_by_a_run(folder, ["0", "1", "2", "three", "4", "5"]), "kd").num_classes == 6


def test_a_runs_net_of_other_classes_sees_images_as_that_run_has(tmp_path: Path) -> None:
    """And not by the size and constants of what timm published under its name."""
    folder = left_by_a_run(tmp_path, ["a", "b"])
    net = taught_by(folder, "at")
    assert (net.num_classes, net.size) == (0, 24)
    spec = resolve(tiny.composed("method=at", "teacher=timm", "teacher.model=test_resnet", f"teacher.weights={folder}"))
    assert not has_published_constants(net, spec.teachers[0])
    (folder / "result.json").unlink()
    assert taught_by(folder, "at").size == 160 and has_published_constants(net, spec.teachers[0])


def test_a_model_of_the_hub_with_other_classes_teaches_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"input_size": [3, 48, 48], "fixed_input_size": False, "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 7}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "pretrained_cfg": own}))
    monkeypatch.setattr("timm.models._hub.download_from_hf", lambda _, name, **options: str(tmp_path / name))
    words = ("teacher=timm", "teacher.model=hf-hub:somebody/net", "teacher.weights=pretrained", "student=resnet8")
    spec = resolve(tiny.composed("method=at", *words))
    net = make_teacher(spec, spec.teachers[0], tiny.tiny_data().info, pretrained=False)
    assert (net.num_classes, net.size, net.resizes) == (0, 48, True)


def test_a_file_with_the_authors_names_keeps_its_classifier(tmp_path: Path) -> None:
    args, info = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, tiny.tiny_data().info
    stored = timm.create_model("convnext_tiny", num_classes=info.num_classes, **args).eval()
    torch.save({"model": tiny.as_convnexts_authors(stored.state_dict())}, file := tmp_path / "convnext.pth")
    words = ("teacher=timm", "teacher.model=convnext_tiny", "teacher.size=32", f"teacher.weights={file}")
    spec = resolve(tiny.composed("method=kd", *words, "+teacher.args={depths:[1,1,1,1],dims:[8,8,8,8]}"))
    net = make_teacher(spec, spec.teachers[0], info, pretrained=False).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(net(images).logits, stored(images), atol=1e-5)


def test_a_teachers_view_is_of_the_same_crop(photos: Path) -> None:
    keys = {"name": "photos", "kind": "folder", "size": 16, "mean": [0.5] * 3, "std": [0.2] * 3, "workers": 0}
    data = load_data(DataSpec.of({**keys, "root": photos, "labels": False}))
    source = data.at_sizes(data.source(batch_size=8, seed=1), [40, 16])
    batch = next(source.epoch(1))
    assert batch.labels is None and batch.inputs.shape[2:] == (16, 16)
    for row, (position, seed) in enumerate(source._plan(1)[0]):
        crop = random_view(Image.open(data.train.paths[position]).convert("RGB"), 40, True, seed)
        expected = Normaliser(data.info, (40, 40, 3), torch.device("cpu"))(torch.from_numpy(np.array(crop))[None])
        assert torch.equal(batch.views[view_at(40)][row], expected[0])
    teacher = build("vit_small_patch14_dinov2", 0, size=40, args=VIT, seed=0).eval()
    teacher.resizes = True
    with torch.no_grad():
        assert torch.equal(teacher_forward(teacher, batch).embedding, teacher(batch.views[view_at(40)]).embedding)


def test_images_of_no_class_are_a_folder_too(photos: Path, tmp_path: Path) -> None:
    keys = {"name": "photos", "kind": "folder", "size": 16, "mean": [0.5] * 3, "std": [0.2] * 3, "workers": 0}
    data = load_data(DataSpec.of({**keys, "root": photos, "labels": False}))
    assert (len(data.train), len(data.test), data.info.num_classes, data.references) == (32, 24, 0, None)
    (tmp_path / "flat/train").mkdir(parents=True)
    (tmp_path / "flat/train/1.png").write_bytes((photos / "train/2.png").read_bytes())
    with pytest.raises(ValueError, match="no class folder is in it.*dataset.labels=false"):
        load_data(DataSpec.of({**keys, "root": tmp_path / "flat"}))
    alone = load_data(DataSpec.of({**keys, "root": photos / "train", "labels": False}))
    assert len(alone.train) == 32 and alone.test is None
    with pytest.raises(ValueError, match="no image of photos has a label"):
        next(alone.evaluation(8))
    (tmp_path / "train").symlink_to(photos / "val")
    (tmp_path / "val").symlink_to(photos / "val")
    known = load_data(DataSpec.of({**keys, "root": tmp_path, "labels": False}))
    assert known.train.labels is None and known.references.labels.tolist() == [0] * 12 + [1] * 12
    with pytest.raises(ValueError, match="dataset.shots=1 chooses images by their class folders"):
        load_data(DataSpec.of({**keys, "root": photos, "labels": False, "shots": 1}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=kd",), r"method=kd reads labels \(method.ce=0.1\): with ce=0 and kd=0 these read none: ab, "),
        (("method=at",), r"method=at reads labels \(method.ce=1\): set method.ce=0"),
        (("method=at", "method.ce=0", "method.kd=1"), r"reads logits \(method.kd=1\): set method.kd=0"),
        (("method=crd", "method.ce=0"), "method=crd reads labels: with"),
        (("method=at", "method.ce=0", "teacher=resnet56"), "teacher.weights=auto trains resnet56 on labels"),
    ],
)
def test_what_needs_labels_is_refused_before_anything_is_trained(words: tuple[str, ...], said: str) -> None:
    from distill.config.check import check

    with pytest.raises(ValueError, match=said):
        check(tiny.composed("dataset.labels=false", "student=resnet8", *words))


@pytest.mark.parametrize("name", ["pseudo-label-queue", "unic", "am-radio"])
def test_foundation_methods_read_no_labels_where_there_are_none(name: str) -> None:
    from distill.config.check import check

    words = ["dataset.labels=false", f"method={name}", "student=resnet8", "teacher.weights=none"]
    words += ["teacher.seeds=[0,1]"] if name != "pseudo-label-queue" else []
    cfg = tiny.composed(*words)
    check(cfg)
    assert resolve(cfg).method.node["ce"] == 0.0 and resolve(tiny.composed(*words[1:])).method.node["ce"] == 1.0


def test_several_teachers_have_keys_of_their_own(backbone: Path) -> None:
    """Each its size and its constants, beside a name of conf/teacher."""
    one = "{model: vit_small_patch14_dinov2, args: {patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}, size: 48, "
    models = f"teacher.models=[{one}weights: {backbone}}}, {{name: resnet8, weights: none}}]"
    spec = resolve(tiny.composed("method=unic", "student=resnet8", "dataset.labels=false", models))
    info = replace(tiny.tiny_data().info, num_classes=0, labels=None)
    nets = [make_teacher(spec, each, info, pretrained=False) for each in spec.teachers]
    assert [(net.num_classes, net.size, net.resizes) for net in nets] == [(0, 48, True), (0, info.size, False)]
    assert spec.teacher == "vit_small_patch14_dinov2+resnet8"
    wrong = "teacher.models=[{model: resnet18, wieghts: x}, resnet8]"
    with pytest.raises(ValueError, match="teacher.models has the key 'wieghts'"):
        resolve(tiny.composed("method=unic", "student=resnet8", wrong))


def test_a_key_that_says_what_null_does_changes_no_hash() -> None:
    plain = identity(tiny.composed("method=kd"))["hash"]
    assert identity(tiny.composed("method=kd", "dataset.labels=true"))["hash"] == plain
    assert identity(tiny.composed("method=kd", "evaluate.knn=true"))["hash"] != plain


@pytest.mark.parametrize("name", without_classifiers(labels=False))
def test_methods_read_what_their_taps_name(name: str) -> None:
    clauses.its_taps_name_logits_and_labels_that_it_reads(world_of(name, [], None))


def test_a_method_that_reads_more_is_found() -> None:
    world = world_of("logit-mse", [], None)
    silent = replace(world.spec.method, taps=frozenset({"embedding"}))
    with pytest.raises(clauses.Broken, match="reads logits or labels"):
        clauses.its_taps_name_logits_and_labels_that_it_reads(replace(world, spec=replace(world.spec, method=silent)))


def test_from_a_flat_folder_to_a_backbone_that_timm_loads(
    photos: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny.composed("method=rkd", "method.ce=0", *OF_VIT, f"teacher.weights={backbone}", "student=timm",
                        "student.model=test_resnet", f"output={tmp_path}", *of_photos(photos), *SHORT)  # fmt: skip
    folder = Path(identity(cfg)["folder"])
    result = run(cfg, folder)
    assert result["accuracy"]["last"] is None
    assert 0 <= result["knn"]["last"] <= 100 and 0 <= result["linear_probe"] <= 100
    assert len(result["teacher_knn"]) == 1 and result["classes"] == [] and "top5" not in result
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["knn_accuracy"] for row in rows if row["kind"] == "epoch"] == [result["knn"]["last"]]
    assert "nearest neighbours" in capsys.readouterr().out
    (found,) = collect([folder]).runs
    assert (found.last, found.part) == (result["knn"]["last"], "test, by nearest neighbours")
    assert main(["export", str(folder), "--to", str(tmp_path / "shipped")]) == 0
    net = timm.create_model(f"local-dir:{tmp_path / 'shipped'}", pretrained=True).eval()
    assert net.num_classes == 0 and net(torch.zeros(1, 3, 16, 16)).shape == (1, net.num_features)
    card = (tmp_path / "shipped/README.md").read_text()
    assert "pipeline_tag: image-feature-extraction" in card and "a backbone, which gives features" in card
    assert f"{result['knn']['last']:.2f} %" in card and "label_names" not in card
    assert main(["eval", str(tmp_path / "shipped")]) == 2 and "backbone without a classifier" in capsys.readouterr().err
