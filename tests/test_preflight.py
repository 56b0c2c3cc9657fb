"""What does not fit is said before a teacher is trained for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill import preflight
from distill import run as run_module
from distill.config import resolve
from distill.engine.checkpoint import export
from distill.models import build
from distill.models.pretrained import check_pretrained
from distill.signals import StopSignals
from distill.timed_step import macs_of, net_seconds
from tests import tiny


def spec_of(folder: Path, *overrides: str):
    return resolve(tiny.composed(f"output={folder}", *overrides))


@pytest.mark.parametrize(("overrides", "words"), [
    (["method=fsp", "student=vgg8"], "fsp"),
    (["method=reviewkd", "teacher=resnet56", "student=vgg8"], "reviewkd pairs stages"),
    (["method=kd", "+student.args.bogus=1"], "bogus"),
    (["method=at", "student=timm", "student.model=resnet18", "+student.args.bogus=1"], "bogus"),
    (["method=mlkd", "dataset.cutout=2"], "beside the strong view the weak one is cropped and flipped alone"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_its_teacher_is_trained(tmp_path, monkeypatch, overrides, words):
    def trained(spec):
        raise AssertionError("a teacher was trained")

    monkeypatch.setattr(run_module, "run_first", trained)
    with pytest.raises(ValueError, match=words):
        run_module.Experiment(spec_of(tmp_path, *overrides), StopSignals())


def test_a_file_that_is_no_start_is_refused_before_its_teacher_is_trained(tmp_path):
    net = build("cifar_resnet14", 10, in_chans=1, size=8, seed=1)
    export(net.model, tmp_path / "w.safetensors")
    spec = spec_of(tmp_path, "student=resnet8", f"student.weights={tmp_path / 'w.safetensors'}")
    with pytest.raises(ValueError, match="is no start for cifar_resnet8"):
        preflight.check_fit(spec, tiny.tiny_data().info)


def test_nets_of_timm_are_looked_at_and_timed_with_memory(tmp_path):
    args = "+student.args={img_size:16,patch_size:8,embed_dim:12,depth:1,num_heads:1}"
    timm = ["student=timm", "student.model=vit_tiny_patch16_224", args, "teacher=resnet8", "method=kd"]
    spec, info = spec_of(tmp_path, *timm), tiny.tiny_data().info
    preflight.check_fit(spec, info, on_meta=True)
    assert macs_of(spec.student, info) == net_seconds(
        spec.student, info, device=torch.device("cpu"), precision="fp32", batch_size=2
    ).macs > 0  # fmt: skip


def test_a_look_at_what_fits_draws_no_number(tmp_path):
    spec, info = spec_of(tmp_path, "method=srrl"), tiny.tiny_data().info  # which is not made without memory
    before = torch.get_rng_state()
    preflight.check_fit(spec, info)
    assert torch.equal(torch.get_rng_state(), before) and preflight.trains_first(spec)
    assert not preflight.trains_first(spec_of(tmp_path, "method=none"))


@pytest.mark.parametrize(("overrides", "words"), [
    (["dataset.classes=[3,77]"], "dataset.classes names class 77"),
    (["dataset.shots=100000"], "dataset.shots is 100000"),
    (["dataset.num_classes=12"], "dataset.num_classes is 12 but digits has 10 classes"),
    (["++dataset.kind=other"], "dataset 'other' is not known"),
    (["student.upstream={schedule:digits,dataset:{classes:[0]}}"], "name two classes or more"),
    (["student.upstream={schedule:digits,dataset:{name:cifar10}}"], "student.upstream is no start for cifar_resnet"),
    (["method=simkd", "method.factor=1000"], "method.factor=1000 leaves none of 64 channels"),
    (["method=wkd-l", "method.samples=100000"], "method.samples=100000: a class of digits has"),
    (["method=dot", "method.delta=0.9"], "method.delta=0.9 takes momentum 0.9 out of"),
    (["method=deepkd", "method.deltas=[0.5,0.5,0.5]"], "take momentum 0.9 out of"),
    (["schedule.batch_size=2000", "schedule.last_batch=drop"], "make no batch of 2000"),
    (["schedule.decay=cosine", "schedule.lr_min=0.02", "student.lr_scale=0.2"], "where rates end, and one is 0.01"),
    (["method=mlkd", "dataset.randaugment=2"], "beside the strong view the weak one is cropped and flipped alone"),
    (["method=mcl", "method.per_class=8", "schedule.batch_size=16", "dataset.shots=4"], "8 of each class, cannot be"),
    (["method=cs-kd", "dataset.erasing=0.5"], "leave schedule.repeats and dataset.erasing null"),
    (["teacher.dataset.pad=9", "teacher.dataset.pad_mode=reflect"], "images of 8 pixels reflect 7 at most"),
])  # fmt: skip
def test_what_the_data_cannot_be_is_told_without_training(tmp_path, overrides, words):
    spec = spec_of(tmp_path, "teacher=resnet8", "student=resnet8", *overrides)
    assert words in preflight.refusal_of_command(spec)


def test_pretrained_weights_are_looked_for_in_the_caches_and_then_on_the_net(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.models.pretrained.reachable", lambda host: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for words, key in ((["student=timm", "student.model=resnet18", "student.weights=pretrained"], "student.weights"),
                       (["teacher=timm", "teacher.model=resnet18", "teacher.weights=pretrained"], "teacher.weights"),
                       (["teacher=timm", "teacher.model=resnet18", "teacher.start=pretrained"], "teacher.start")):
        said = preflight.refusal_of_command(spec_of(tmp_path, *words))
        assert said.startswith(f"{key}=pretrained: the weights of resnet18 are in no cache") and f"{key}=FILE" in said
    monkeypatch.setattr("distill.models.pretrained.reachable", lambda host: True)
    check_pretrained("resnet18", "student.weights")
    with pytest.raises(ValueError, match="student.weights=pretrained: cifar_vgg8 has no published weights"):
        check_pretrained("cifar_vgg8", "student.weights")


@pytest.mark.parametrize("words", [["method=okddip"], ["method=mcl", "method.form=branches"]])
def test_what_compares_values_is_not_refused_for_having_none_on_the_meta_device(tmp_path, words):
    assert not preflight.refusal_of_command(spec_of(tmp_path, *words))
