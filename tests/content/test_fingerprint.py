"""Identity is content: other data or other weights are another experiment, the same ones in another place are not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from distill import config
from distill.config import DataSpec, resolve
from distill.config.hashing import student_node, teacher_name
from distill.content import fingerprint
from distill.content.data_sets import KNOWN_SETS
from distill.content.fingerprint import arrays_digest, data_fingerprint, state_digest, weights_fingerprint
from distill.content.readers import READERS, read_cifar100, read_digits
from distill.content.state_file import read_state, sum_of
from distill.engine.checkpoint import export
from distill.models import build, load_weights
from distill.run_folder import RunFolder
from distill.teachers import store
from tests import tiny
from tests.data.test_data import write_cifar100, write_folder


def hash_of(*overrides: str, **changes) -> str:
    cfg = tiny.composed("method=none", *overrides)
    OmegaConf.set_struct(cfg, False)
    for key, value in changes.items():
        OmegaConf.update(cfg, f"dataset.{key}", value, force_add=True)
    return config.identity(cfg)["hash"]


def folder_keys(root: Path, **changes) -> dict[str, object]:
    """The keys of a data set of image files."""
    node = config.plain(OmegaConf.create({"dataset": config.load_node("dataset", "folder")}), "dataset")
    return {**node, "root": str(root), "size": 14, "workers": 0, "name": "x", **changes}


def of_folder(root: Path, **changes) -> str:
    return hash_of(**folder_keys(root, **changes))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Files that are changed within a second of a look are told apart too."""
    monkeypatch.setattr(fingerprint, "_found", {})


# ---- data ----


def test_another_folder_is_another_experiment_and_a_copy_is_the_same(tmp_path):
    one, same = write_folder(tmp_path / "a"), write_folder(tmp_path / "b")
    other = write_folder(tmp_path / "c", count=5)
    assert of_folder(one) == of_folder(same) != of_folder(other)


@pytest.mark.parametrize("change", ["pixels", "label", "fewer", "name", "val"])
def test_a_folder_that_changes_is_another_experiment(tmp_path, change):
    root = write_folder(tmp_path)
    before = of_folder(root)
    first = root / ("val" if change == "val" else "train") / "cat" / "0.png"
    if change in ("pixels", "val"):
        first.write_bytes((root / "train" / "dog" / "1.png").read_bytes())
    elif change == "label":
        first.rename(root / "train" / "dog" / "9.png")
    elif change == "name":
        first.rename(first.with_name("99.png"))
    else:
        first.unlink()
    assert of_folder(root) != before


def test_val_counts_only_where_it_is_read(tmp_path):
    root = write_folder(tmp_path)
    before = of_folder(root, holdout=0.25)
    (root / "val" / "cat" / "0.png").unlink()
    assert of_folder(root, holdout=0.25) == before


def test_where_nothing_lies_yet_the_name_counts():
    assert hash_of() == hash_of(root="/nowhere") == hash_of(content=None)


def cifar100_of(root: Path, monkeypatch, **changes) -> str | None:
    write_cifar100(root, **changes)
    monkeypatch.setitem(READERS, "cifar100", lambda place: read_cifar100(place, counts=(200, 200)))
    return data_fingerprint({"name": "cifar100", "root": str(root)})


def test_arrays_count_by_their_bytes_and_not_by_how_they_are_packed(tmp_path, monkeypatch):
    one = cifar100_of(tmp_path / "a", monkeypatch)
    packed_otherwise = cifar100_of(tmp_path / "b", monkeypatch, filenames=["y"] * 200)
    other = cifar100_of(tmp_path / "c", monkeypatch, fine_labels=[1] * 200)
    assert one and one == packed_otherwise != other


def test_published_files_are_what_their_name_says(tmp_path, monkeypatch):
    folder = write_cifar100(tmp_path)
    sums = tuple(hashlib.md5((folder / name).read_bytes()).hexdigest() for name in ("train", "test", "meta"))
    monkeypatch.setitem(KNOWN_SETS, "cifar100", replace(KNOWN_SETS["cifar100"], md5=sums))
    assert data_fingerprint({"name": "cifar100", "root": str(tmp_path)}) is None


def test_published_arrays_are_what_their_name_says(tmp_path, monkeypatch):
    content = cifar100_of(tmp_path / "a", monkeypatch)
    monkeypatch.setitem(KNOWN_SETS, "cifar100", replace(KNOWN_SETS["cifar100"], content=content))
    assert cifar100_of(tmp_path / "b", monkeypatch) is None


def test_the_embedded_digits_are_pinned():
    assert data_fingerprint({"name": "digits"}) is None
    assert arrays_digest(read_digits(Path())) == KNOWN_SETS["digits"].content


def test_a_record_keeps_what_the_data_held(tmp_path):
    root = write_folder(tmp_path / "a")
    cfg = tiny.composed("method=none")
    OmegaConf.set_struct(cfg, False)
    for key, value in folder_keys(root).items():
        OmegaConf.update(cfg, f"dataset.{key}", value, force_add=True)
    spec = resolve(cfg)
    (tmp_path / "a").rename(tmp_path / "moved")
    again = resolve(OmegaConf.create(config.thawed(spec.composed)))
    assert again.hash == spec.hash and spec.dataset.content and isinstance(again.dataset, DataSpec)


# ---- weights ----


def test_the_same_weights_in_three_files_are_one_experiment(tmp_path):
    net = build("cifar_resnet8", 10, in_chans=1, size=8, seed=1)
    state = {key: value.half().float() if value.is_floating_point() else value
             for key, value in net.model.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "wrapped.pth")
    torch.save({key: value.half() for key, value in state.items() if value.is_floating_point()}, tmp_path / "half.pth")
    hashes = {config.identity(tiny.composed(f"teacher.weights={tmp_path / name}"))["hash"]
              for name in ("plain.pth", "wrapped.pth", "half.pth")}  # fmt: skip
    assert len(hashes) == 1
    state["conv1.weight"] = state["conv1.weight"] + 1
    torch.save(state, tmp_path / "plain.pth")
    assert config.identity(tiny.composed(f"teacher.weights={tmp_path / 'plain.pth'}"))["hash"] not in hashes


def test_a_start_from_a_file_counts_by_its_weights(tmp_path):
    for seed in (1, 2):
        net = build("cifar_resnet8", 10, in_chans=1, size=8, seed=seed)
        torch.save(net.model.state_dict(), tmp_path / f"{seed}.pth")
    (tmp_path / "copy.pth").write_bytes((tmp_path / "1.pth").read_bytes())
    one, copy, two = (hash_of(f"student.weights={tmp_path / name}.pth") for name in ("1", "copy", "2"))
    assert one == copy != two and weights_fingerprint(tmp_path / "none") is None


def test_an_export_with_a_flipped_bit_is_refused(tmp_path):
    net = build("cifar_resnet8", 10, in_chans=1, size=8, seed=1)
    path = tmp_path / "student.safetensors"
    export(net.model, path, {"model": net.name})
    whole = path.read_bytes()
    assert state_digest(read_state(path)) == state_digest(net.model.state_dict()) and len(sum_of(path) or "") == 64
    for place in (len(whole) - 1, len(whole) // 2, whole.index(b"cifar_resnet8") + 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"altered after it was written|damaged"):
            load_weights(net, path)


def test_a_stored_teacher_is_held_against_its_own_result(tmp_path):
    folder = RunFolder(tmp_path)
    nets = [build("cifar_resnet8", 10, in_chans=1, size=8, seed=seed) for seed in (1, 2)]
    export(nets[0].model, folder.student)
    result = {"dataset": "digits", "student": "resnet8", "method": "none", "accuracy": {"last": 1.0}}
    folder.finish({**result, "weights": sum_of(folder.student)})
    assert store.own_weights(folder) == folder.student
    export(nets[1].model, folder.student)  # whole, and another's
    with pytest.raises(ValueError, match="is not what its run measured"):
        store.own_weights(folder)


def test_an_accuracy_written_by_hand_is_not_believed(tmp_path):
    data = tiny.tiny_data()
    net = build("cifar_resnet8", data.info.num_classes, size=data.info.size, seed=1)
    run = resolve(tiny.composed("method=none", f"output={tmp_path}"))
    first = store._accuracy(net, "f", data, run)
    (file,) = tmp_path.rglob("*.json")
    for change in ({"accuracy": 99.9}, {"images": 7}, {"sum": "x"}):
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        assert store._accuracy(net, "f", data, run) == first
    assert np.isfinite(first[0])


# ---- names ----


def test_a_name_follows_its_model():
    cfg = tiny.composed("student.model=mobilenetv3_small_050", "teacher.model=cifar_wrn_40_2")
    assert student_node(cfg)["name"] == "mobilenetv3_small_050" and teacher_name(cfg) == "wrn_40_2"
    assert "/wrn_40_2-mobilenetv3_small_050/" in config.identity(cfg)["folder"]
    assert resolve(cfg).student.name == "mobilenetv3_small_050" and resolve(cfg).teachers[0].name == "wrn_40_2"
    assert student_node(tiny.composed("student=resnet8"))["name"] == "resnet8"
    assert hash_of("student=resnet20", "student.model=cifar_resnet8") == hash_of("student=resnet8")


def test_a_folders_model_counts_by_what_it_holds(tmp_path):
    hashes = []
    for place, content in (("a", "{}"), ("b", "{}"), ("a", '{"x": 1}')):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "config.json").write_text(content)
        hashes.append(hash_of(f"student.model=local-dir:{tmp_path / place}", "student.name=mine"))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.pth", "mine.pth.tar"])
def test_weights_of_a_folders_model_count_by_what_they_hold(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    found = set()
    for content in (b"one", b"other"):
        (tmp_path / name).write_bytes(content)
        found.add(fingerprint.folder_model(f"local-dir:{tmp_path}"))
    assert len(found) == 2
