"""Where nets start: student.weights and teacher.start, as they are hashed, resolved and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from distill import config
from distill.config.check import check
from distill.config.net_names import is_known
from distill.models import build
from distill.models.timm_factory import pretrained_constants
from distill.start import started_pretrained
from tests import tiny

TIMM = ("teacher=timm", "teacher.model=resnet10t")


def test_no_start_is_the_same_run_however_it_is_said() -> None:
    runs = [tiny.composed(*words) for words in ((), ("student.weights=none",), ("teacher.start=none",))]
    assert len({config.identity(cfg)["hash"] for cfg in runs}) == 1


def test_a_record_of_an_older_version_says_pretrained() -> None:
    old, new = tiny.composed(), tiny.composed("student.weights=pretrained")
    OmegaConf.set_struct(old, False)
    old.student["pretrained"] = True
    assert config.identity(old)["hash"] == config.identity(new)["hash"] != config.identity(tiny.composed())["hash"]
    assert config.resolve(old).student.pretrained


def test_what_a_teacher_starts_from_is_the_start_of_its_own_run() -> None:
    spec = config.resolve(tiny.composed(*TIMM, "teacher.start=pretrained"))
    (teacher,) = spec.teachers
    alone = config.resolve(tiny.composed(
        "method=none", "student=timm", "student.model=resnet10t", "student.weights=pretrained", "seed=0"
    ))  # fmt: skip
    assert teacher.training is not None and teacher.training.hash == alone.hash
    assert teacher.training.student.pretrained and not teacher.pretrained and started_pretrained(teacher)
    assert spec.hash != config.resolve(tiny.composed(*TIMM)).hash


def test_a_teacher_with_a_runs_weights_sees_images_as_that_net_did(tmp_path: Path) -> None:
    """A net that began with timm's weights has their mean and std; by the data's its answers would be others."""
    save_file(build("cifar_resnet8", 10, in_chans=1).model.state_dict(), tmp_path / "student.safetensors")
    found = []
    for mean, std in ((0.5, 0.25), (0.305861, 0.37641)):  # those of the digits come second
        takes = {"size": 8, "channels": 1, "mean": [mean], "std": [std]}
        result = {"dataset": "digits", "student": "resnet8", "method": "none", "accuracy": {"last": 90.0}}
        (tmp_path / "result.json").write_text(json.dumps(result | {"input": takes}))
        for place in (tmp_path, tmp_path / "student.safetensors"):
            spec = config.resolve(tiny.composed("method=kd", "teacher=resnet8", f"teacher.weights={place}"))
            found.append((spec.teachers[0].mean, spec.teachers[0].std, spec.hash))
    assert found[0] == found[1] == ((0.5,), (0.25,), found[0][2])
    assert found[2] == found[3] == (None, None, found[2][2]) and found[2][2] != found[0][2]


def test_what_a_run_measures_of_its_features_trains_no_other_teacher() -> None:
    first = "student.upstream={dataset: {classes: [0, 1]}, schedule: digits}"
    specs = [config.resolve(tiny.composed("method=kd", first, *words)) for words in ((), ("evaluate.knn=true",))]
    assert specs[0].hash != specs[1].hash
    for one, other in ((spec.teachers[0].training, spec.student.upstream) for spec in specs):
        assert one is not None and other is not None and not one.evaluate.knn and not other.evaluate.knn
    assert len({spec.teachers[0].training.hash for spec in specs if spec.teachers[0].training}) == 1
    assert len({spec.student.upstream.hash for spec in specs if spec.student.upstream}) == 1


def test_a_net_of_timm_is_not_called_as_one_of_ours() -> None:
    """Under one name their runs would be measured by each other's student alone, and by published values of ours."""
    nets = {}
    for words in (("student=vgg13", "teacher=vgg16"), ("student=timm", "student.model=vgg13", "teacher=timm",
                  "teacher.model=vgg16"), ("student=timm", "student.model=resnet18")):  # fmt: skip
        spec = config.resolve(tiny.composed("method=kd", *words))
        nets[spec.student.name] = spec.student.model, spec.teachers[0].name
    assert nets == {"vgg13": ("cifar_vgg13", "vgg16"), "timm_vgg13": ("vgg13", "timm_vgg16"),
                    "resnet18": ("resnet18", "resnet56")}  # fmt: skip


def test_a_file_counts_by_what_it_holds(tmp_path: Path) -> None:
    state = build("cifar_resnet8", 4).model.state_dict()
    for name in ("one", "same"):
        save_file(state, tmp_path / f"{name}.safetensors")
    save_file({key: value + 1 for key, value in state.items()}, tmp_path / "other.safetensors")
    hashes = [
        config.identity(tiny.composed("teacher=resnet8", f"teacher.start={tmp_path / name}.safetensors"))["hash"]
        for name in ("one", "same", "other")
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("teacher.weights=none", "teacher.start=pretrained"), "leave one of them away"),
        (("teacher.start=/nonexistent.pt",), "is no file: give a checkpoint, .*; or none, or pretrained"),
        (("student.weights=/nonexistent.pt",), "is no file: give a checkpoint, .*; or none, or pretrained"),
        (("student.weights=pretrained", "student.upstream={schedule:digits}"), "two places to start from"),
    ],
)
def test_a_start_that_cannot_be_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(tiny.composed(*words))


def test_a_folder_of_the_hub_is_a_net(tmp_path: Path) -> None:
    assert not is_known(f"local-dir:{tmp_path}")
    save_file(build("resnet10t", 7, in_chans=1, seed=0).model.state_dict(), tmp_path / "model.safetensors")
    known = {"input_size": [1, 32, 32], "mean": [0.3], "std": [0.2], "first_conv": "conv1.0", "classifier": "fc"}
    told = {"architecture": "resnet10t", "num_classes": 7, "pretrained_cfg": known | {"num_classes": 7}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert is_known(f"local-dir:{tmp_path}")
    net = build(f"local-dir:{tmp_path}", 7, in_chans=1, pretrained=True)
    own = build("resnet10t", 7, in_chans=1, seed=0)
    assert torch.equal(net.model.fc.weight, own.model.fc.weight)  # type: ignore[union-attr, arg-type]


def test_what_export_wrote_of_a_net_of_ours_is_a_net_again(tmp_path: Path) -> None:
    """As the sentence advises that refuses such a folder as weights."""
    own = build("cifar_resnet8", 7, in_chans=1, size=8, seed=0)
    save_file(own.model.state_dict(), tmp_path / "model.safetensors")
    known = {"input_size": [1, 8, 8], "mean": [0.3], "std": [0.2], "num_classes": 7, "classifier": "fc"}
    told = {"architecture": "cifar_resnet8", "num_classes": 7, "model_args": {"in_chans": 1}, "pretrained_cfg": known}
    (tmp_path / "config.json").write_text(json.dumps(told))
    net = build(f"local-dir:{tmp_path}", 7, in_chans=1, size=8, pretrained=True)
    assert torch.equal(net.eval()(net.probe()).logits, own.eval()(own.probe()).logits)
    assert pretrained_constants(net.model, net.name, 1) == ((0.3,), (0.2,))
    assert net.model.pretrained_cfg["architecture"] == "cifar_resnet8"  # type: ignore[index]  # by which it is exported


def test_the_papers_resnet18_starts_as_torchvisions_does() -> None:
    """timm's own has the last BatchNorm of each block at 0; CRD, mdistiller, ReviewKD and DIST train torchvision's."""
    student = config.plain(tiny.composed("pair=resnet34_resnet18", "dataset=imagenet"), "student")
    net = build(student["model"], 10, size=64, args=student["args"], seed=0).model
    lasts = [block.bn2.weight for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage]
    assert len(lasts) == 8 and all(bool((weight == 1).all()) for weight in lasts)
