"""Methods, nets, readers of data and YAML files of the user's own, outside the package."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from distill import api
from distill.config import DataSpec, groups, identity, own_code, plugins
from distill.config.method_rules import method_rules
from distill.config.naming import following
from distill.content.readers import OWN_FILES, READERS, Arrays, Part
from distill.data import load_data
from distill.data.download import fetched
from distill.run import run
from distill.sweep import checked, snapshot
from tests import program, tiny

MODULE = """
import torch
from torch.nn import functional as F
from distill.data import READERS, register_reader
from distill.method import Method


class Mine(Method):
    def __init__(self, student, teachers, data, *, ce=1.0, kd=0.0, temperature=4.0, weight=1.0):
        super().__init__(student, teachers, data, ce=ce, kd=kd, temperature=temperature)
        self.weight = weight
        self.head = torch.nn.Linear(student.embedding_dim, self.teacher.embedding_dim)

    def distill(self, student, teacher, batch):
        found = F.cosine_similarity(self.head(student.embedding), teacher.embedding)
        return {"mine": self.weight * (1 - found.mean())}


@register_reader("halves", files=["halves.txt"])
def read_halves(root):
    arrays = READERS["digits"](root)
    arrays.train.images[0, 0, 0, 0] = int((root / "halves.txt").read_text())
    return arrays
"""
NET = """
import timm
from timm.models import register_model


@register_model
def my_net(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **options):
    return timm.create_model("test_resnet", **options)
"""
METHOD = """
_target_: my_method.Mine
name: mine
about: {kind: feature, taps: [embedding], phases: [distill], teachers: 1, aliases: []}
ce: 1.0
kd: 0.0
temperature: 4.0
weight: 2.0
"""
DATA = """
defaults: [digits, _self_]
name: halves
fraction: 0.05
"""
SHORT = "student=resnet8 teacher=resnet8 teacher.weights=none schedule.epochs=1 schedule.batch_size=32 device=cpu"
OWN = f"--config-dir own plugins=[my_method] method=mine dataset=halves precision=fp32 threads=1 compile=false {SHORT}"
WORDS = [word for word in OWN.split() if word not in ("--config-dir", "own")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a module, and YAML files laid out as conf/."""
    for name, text in (("my_method.py", MODULE), ("own/method/mine.yaml", METHOD), ("own/dataset/halves.yaml", DATA)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/halves.txt").write_text("7")
    return tmp_path


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder as this process's own, which knows nothing of the user's yet."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(groups, "_own", [])
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    return folder


def test_an_own_method_net_and_data_set_run_as_ours_do(folder: Path) -> None:
    (folder / "my_net.py").write_text(NET)  # which takes two seconds to import timm
    net = "student=timm student.model=my_net dataset.resize=true dataset.size=32"
    words = OWN.replace("[my_method]", "[my_method,my_net]").replace("student=resnet8", net)
    done = program.run(*words.split(), cwd=folder)
    assert done.returncode == 0, done.stderr
    (result,) = folder.glob("outputs/halves/resnet8-my_net/mine-*/s1/result.json")
    assert '"mine"' in result.with_name("metrics.jsonl").read_text()
    assert '"schedule": "crd"' not in result.read_text() and '"protocol": "crd"' in result.read_text()


def test_what_the_files_of_an_own_reader_hold_is_part_of_the_hash(inside: Path) -> None:
    hashes = []
    for value in ("7", "88"):
        (inside / "data/halves.txt").write_text(value)
        hashes.append(identity(api.composed(WORDS, "own"))["hash"])
    del sys.modules["my_method"], READERS["halves"]
    assert hashes[0] != hashes[1]


def test_code_of_ones_own_is_part_of_the_hash_and_comments_are_not(inside: Path) -> None:
    helper = inside / "my_helper.py"
    (inside / "my_method.py").write_text("from my_helper import SHARE\n" + MODULE)
    hashes = []
    for text in ("SHARE = 1\n", "# said otherwise\nSHARE   =  1\n", "SHARE = 2\n"):
        helper.write_text(text)
        hashes.append(identity(api.composed(WORDS, "own"))["hash"])
        helper.write_text("SHARE = 77777")
        with pytest.raises(ValueError, match="the code of my_method has changed since it was imported"):
            api.composed(WORDS, "own")
        plugins._loaded.clear()
        importlib.invalidate_caches()
        del sys.modules["my_method"], sys.modules["my_helper"], READERS["halves"]
        own_code._digests.clear()
        shutil.rmtree(inside / "__pycache__", ignore_errors=True)
    assert hashes[0] == hashes[1] != hashes[2]
    assert identity(tiny.composed())["hash"] == identity(tiny.composed("plugins=[json]"))["hash"]


def test_a_module_that_is_imported_when_it_is_needed_counts_as_well(inside: Path) -> None:
    (inside / "late").mkdir()
    lazy = "    def loss(self, batch):\n        from late.helper import SHARE\n\n        return super().loss(batch)\n"
    (inside / "my_method.py").write_text(MODULE.replace("    def distill", f"{lazy}\n    def distill"))
    found = []
    for text in ("SHARE = 1", "SHARE = 2"):
        (inside / "late/__init__.py").write_text("raise RuntimeError('not to be imported for its hash')")
        (inside / "late/helper.py").write_text(text)
        found.append(identity(api.composed(WORDS, "own"))["hash"])
        assert own_code.sources().keys() == {"my_method.py", "late/__init__.py", "late/helper.py"}
        plugins._loaded.clear()
        own_code._digests.clear()
        del sys.modules["my_method"], READERS["halves"]
    assert found[0] != found[1]


def of_package(inside: Path, part: str, method: str, helper: str = "VALUE = 1\n") -> str | None:
    """The hash of a class in a package of `part` that its __init__.py does not import."""
    package = inside / part / "my_package"
    for name, text in (("__init__", ""), ("method", method), ("helper", helper)):
        package.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(text)
    sys.path.insert(0, str(inside / part))
    try:
        plugins.import_plugins(["my_package"])
        return own_code.code_of_class("my_package.method.Mine")
    finally:
        plugins._loaded.clear()
        for name in ("my_package", "my_package.method", "my_package.helper", "my_torch"):
            sys.modules.pop(name, None)
        shutil.rmtree(package)
        sys.path.remove(str(inside / part))


def test_a_class_that_its_package_does_not_import_counts_and_so_do_the_modules_beside_it(inside: Path) -> None:
    for part in ("src", "venv/site-packages"):
        method = "from my_package.helper import VALUE\nclass Mine: pass\n"
        first, other = (of_package(inside, part, method, f"VALUE = {value}\n") for value in (1, 2))
        assert first is not None and other is not None and first != other


@pytest.mark.parametrize("place", ["system/dist-packages", "cluster/lib/python3/site-packages"])
def test_what_is_installed_elsewhere_on_the_path_is_no_code_of_ones_own(place: str, inside: Path) -> None:
    """As torch is for an environment that sees the system's packages, or a cluster's modules."""
    (inside / place).mkdir(parents=True)
    sys.path.insert(0, str(inside / place))
    found = set()
    for text in ("VERSION = 1\n", "VERSION = 22\n"):
        (inside / place / "my_torch.py").write_text(text)
        found.add(of_package(inside, "src", "import my_torch\nclass Mine: pass\n"))
    assert len(found) == 1 and None not in found


def test_a_kernel_that_goes_on_reads_the_files_and_the_folder_of_now(inside: Path) -> None:
    """As the same command on the command line would: its runs are called by the files as they are."""
    found = []
    for own, model in (("one", "resnet8"), ("two", "resnet14"), ("one", "resnet32"), ("one", "vgg8")):
        path = inside / own / "student" / "mine.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"name: mine\nmodel: cifar_{model}\nargs: {{}}\nlr_scale: 1.0\n")
        os.utime(path, ns=(0, len(found)))
        groups.use_folder(own)
        node = following("student", groups.load_node("student", "mine") or {})
        found.append((node["name"], node["model"]))
    assert found == [("mine", f"cifar_{name}") for name in ("resnet8", "resnet14", "resnet32", "vgg8")]


def test_a_method_whose_file_is_mended_is_held_against_what_it_says_now(inside: Path) -> None:
    path = inside / "own/method/mine.yaml"
    groups.use_folder("own")
    fits = []
    for number, default in enumerate(("2", "2.0")):
        path.write_text(METHOD.replace("weight: 2.0", f"weight: {default}"))
        os.utime(path, ns=(0, number))
        fits.append(method_rules("mine")["weight"][0](0.5))
    assert fits == [False, True]


def test_code_of_a_cohorts_own_nets_is_part_of_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    words, found = ("method=dml", "method.models=[resnet18]"), []
    for code in (None, "one", "two"):
        monkeypatch.setattr("distill.config.hashing.code_of_net", lambda net, code=code: code if "18" in net else None)
        found.append(identity(tiny.composed(*words))["hash"])
    assert len(set(found)) == 3
    monkeypatch.undo()
    assert identity(tiny.composed(*words))["hash"] == found[0]


@pytest.mark.parametrize("launcher", ["local", "packed"])
def test_launchers_know_them_too(launcher: str, folder: Path) -> None:
    done = program.run(*OWN.split(), "-m", "seed=1,2", f"hydra/launcher={launcher}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob("outputs/halves/resnet8-resnet8/mine-*/s*/DONE"))) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("plugins=[my_method]", "plugins=[my_methods]"), "plugins=[my_methods]: there is no such module, neither on"),
        (("plugins=[my_method]", "plugins=[my_method,own]"), "plugins=[own] is a folder without __init__.py"),
        (("plugins=[my_method]", ""), "name its module, plugins=[my_method]"),
        (("plugins=[my_method]", "plugins=[my_method.py]"), "plugins=[my_method.py]: there is no such module"),
        (("method=mine", "method=copied"), "my_method.Mine is called kd, which is the name of distill.methods.kd.KD"),
        (("dataset=halves", "dataset=halve"), "there is no dataset 'halve': did you mean halves?"),
        (("--config-dir own", "--config-dir owned"), "--config-dir owned: there is no such folder"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(change: tuple[str, str], said: str, folder: Path) -> None:
    (folder / "own/method/copied.yaml").write_text(METHOD.replace("name: mine", "name: kd"))
    done = program.run(*OWN.replace(*change).split(), cwd=folder)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not list(folder.glob("outputs/*/*"))


def test_a_key_that_an_own_class_does_not_take_is_said_before_a_teacher_is_trained(folder: Path) -> None:
    with open(folder / "own/method/mine.yaml", "a") as file:
        file.write("wait: 3\n")
    done = program.run(*OWN.replace("teacher.weights=none", "").split(), cwd=folder)
    assert done.returncode == 2 and "mine does not take the key 'wait': did you mean weight" in done.stderr
    assert not list(folder.glob("outputs/*/*"))


def test_a_snapshot_of_the_program_has_the_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("single_plugin.py", "plugin_package/__init__.py", "plugin_package/part.py", "beside_plugin.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("VALUE = 1")
    (tmp_path / "single_plugin.py").write_text("from beside_plugin import VALUE\nimport torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    plugins.import_plugins(["single_plugin", "plugin_package"])
    copied = snapshot.take_snapshot(tmp_path / "outputs")
    assert (copied / "beside_plugin.py").read_text() == (copied / "plugin_package/part.py").read_text() == "VALUE = 1"
    assert "import torch" in (copied / "single_plugin.py").read_text() and not (copied / "torch").exists()
    for name in ("single_plugin", "plugin_package", "beside_plugin"):
        del sys.modules[name]


def test_a_module_that_breaks_is_a_sentence(folder: Path) -> None:
    (folder / "my_method.py").write_text("import nowhere_to_be_found")
    done = program.run(*OWN.split(), cwd=folder)
    assert done.returncode == 2 and "plugins=[my_method] wants nowhere_to_be_found" in done.stderr


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.ones((4, 8, 8, 1), np.float32), [0, 1, 0, 1], r"train images are float32 \[4, 8, 8, 1\]: give uint8"),
        (np.ones((4, 8, 8), np.uint8), [0, 1, 0, 1], r"train images are uint8 \[4, 8, 8\]"),
        (np.ones((4, 8, 8, 1), np.uint8), [1, 2, 1, 2], "train labels should be 4 whole numbers from 0 to 1"),
        (np.ones((4, 8, 8, 1), np.uint8), [0.0, 1.0, 0.0, 1.0], "train labels should be 4 whole numbers from 0 to 1"),
    ],
)
def test_what_an_own_reader_gives_is_looked_at(
    images: np.ndarray, labels: list[int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = Part(np.ones((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1], np.int32))
    for part, valid in ((fine, True), (Part(images, np.array(labels)), False)):
        monkeypatch.setitem(READERS, "moons", lambda root, part=part: Arrays(part, fine, ["new", "full"]))
        monkeypatch.setitem(OWN_FILES, "moons", ())
        if valid:
            assert fetched("moons", Path()).train.labels.dtype == np.int64
            continue
        with pytest.raises(ValueError, match=f"dataset.kind=moons: its reader's {said}"):
            fetched("moons", Path())


FOUR = Part(np.ones((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((FOUR, FOUR, ["new", "full"]), " gives something else than Arrays"),
        (Arrays(FOUR, None, ["new", "full"]), " gives something else than Arrays"),
        (Arrays(FOUR, Part(FOUR.images[:0], FOUR.labels[:0]), ["new", "full"]), "'s test images are none"),
        (Arrays(FOUR, FOUR, ["new", "new"]), " calls two classes 'new'"),
    ],
)
def test_an_own_reader_gives_two_parts_and_a_name_for_each_class(
    given: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READERS, "moons", lambda root: given)
    monkeypatch.setitem(OWN_FILES, "moons", ())
    with pytest.raises(ValueError, match=f"dataset.kind=moons: its reader{said}"):
        fetched("moons", Path())


def test_images_that_are_no_squares_are_brought_to_one_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were cropped to squares in training, and evaluated whole."""
    wide = Part(np.ones((4, 8, 12, 1), np.uint8), FOUR.labels)
    monkeypatch.setitem(READERS, "moons", lambda root: Arrays(wide, wide, ["new", "full"]))
    monkeypatch.setitem(OWN_FILES, "moons", ())
    digits: Any = groups.load_node("dataset", "digits")
    spec = {**OmegaConf.to_container(digits, resolve=True), "kind": "moons", "name": "moons", "num_classes": 2}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="moons has 8x12 images, no squares: dataset.resize=true"):
        load_data(DataSpec.of(spec))
    assert load_data(DataSpec.of({**spec, "resize": True})).train.images.shape == (4, 8, 8, 1)


def test_what_is_no_list_of_modules_is_refused() -> None:
    with pytest.raises(ValueError, match=r"plugins=1: give a list, plugins=\[1\]"):
        plugins.load_plugins(OmegaConf.create({"seed": 1, "plugins": "${seed}"}))


def test_losses_that_are_no_scalars_are_told_before_a_teacher_is_trained(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the plan of --dry-run, and by the run itself."""
    monkeypatch.delitem(sys.modules, "my_method", raising=False)
    file = inside / "my_method.py"
    file.write_text(file.read_text().replace("(1 - found.mean())", "(1 - found)"))
    cfg = api.composed([*(word for word in WORDS if "weights" not in word), "output=there"], "own")
    words = "the loss 'mine' is a tensor of shape"
    assert words in checked._checked(cfg, [None]).reason
    with pytest.raises(ValueError, match=words):
        run(cfg)
    assert not list(inside.glob("there/**/metrics.jsonl")), "nothing was trained"


@pytest.mark.parametrize(("code", "said"), [
    ("found.mean().total()", r"method=mine ends in AttributeError: .*'total' \(my_method.py, line \d+\): mend"),
    ("founds.mean()", r"ends in NameError: .*'founds'.* \(my_method.py, line \d+\)"),
])  # fmt: skip
def test_mistakes_of_the_code_are_told_before_a_teacher_is_trained(
    code: str, said: str, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They ended the run after its teacher's day of training."""
    cfg = with_loss(code, inside, monkeypatch)
    assert re.search(said, checked._checked(cfg, [None]).reason)
    with pytest.raises(ValueError, match=said):
        run(cfg)
    assert not list(inside.glob("there/**/metrics.jsonl")), "nothing was trained"


@pytest.mark.parametrize(("code", "more", "said"), [
    ("found.view(-1, 7777).mean()", (), r"ends in RuntimeError: .*7777.* \(my_method.py, line \d+\), for images"),
    ("found.mean().detach()", ("method.ce=1.0",), "the loss 'mine' has no gradient, for it is detached or a constant"),
])  # fmt: skip
def test_what_may_be_true_of_such_images_alone_is_told(
    code: str, more: tuple[str, ...], said: str, inside: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    assert checked._checked(with_loss(code, inside, monkeypatch, *more), [None]).reason == ""
    assert re.search(said, caplog.text)


def test_losses_without_a_gradient_are_refused(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = with_loss("found.mean().detach()", inside, monkeypatch, "method.ce=0.0")
    assert "the loss 'mine' has no gradient, and trains nothing: it is detached" in checked._checked(cfg, [None]).reason


def with_loss(code: str, inside: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    """The configuration of a run of the method with another loss, whose teacher is to be trained."""
    monkeypatch.delitem(sys.modules, "my_method", raising=False)
    file = inside / "my_method.py"
    file.write_text(file.read_text().replace("(1 - found.mean())", f"({code})"))
    return api.composed([*(word for word in WORDS if "weights" not in word), "output=there", *more], "own")


@pytest.mark.parametrize("loss", ["found.mean() / 0", "(found - found.detach()).square().mean().sqrt()"])
def test_a_loss_that_is_not_finite_from_the_first_steps_is_told_before_a_teacher_is_trained(
    loss: str, inside: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended the run after its teacher's day of training. Such images may be why, so that it is no refusal."""
    monkeypatch.delitem(sys.modules, "my_method", raising=False)
    file = inside / "my_method.py"
    file.write_text(file.read_text().replace("(1 - found.mean())", f"({loss})"))
    cfg = api.composed([*(word for word in WORDS if "weights" not in word), "output=there"], "own")
    assert checked._checked(cfg, [None]).reason == ""
    assert "for images and nets drawn at random: a run for which it is ends there" in caplog.text
