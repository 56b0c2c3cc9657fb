"""A student outside: by timm, in onnxruntime, as a file of few bits, from image files; the same answers everywhere."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from distill import finished_run
from distill.__main__ import main
from distill.config import DataSpec, identity, resolve
from distill.data import load_data
from distill.export import write
from distill.export.card import _of_features, licences, own_terms
from distill.export.data import batches, files_of, node_of
from distill.export.evaluate import note
from distill.export.facts import CENTER, SQUASH, Facts, facts_of
from distill.export.predict import as_seen, harmless, most_probable
from distill.export.shipped import as_timm_loads, open_shipped
from distill.export.shipped import shipped_student as student_of
from distill.files import read_json
from distill.record.result import takes
from distill.result import Accuracy
from distill.run import run
from tests import tiny

CPU = torch.device("cpu")
SHORT = (
    "schedule.epochs=1",
    "schedule.batch_size=32",
    "precision=fp32",
    "threads=1",
    "device=cpu",
    "dataset.workers=0",
)


def finished(output: Path, *overrides: str) -> Path:
    """The folder of a run that was just made."""
    added = [text for text in SHORT if "dataset=folder" in overrides or "workers" not in text]
    cfg = tiny.composed(*added, f"output={output}", *overrides)
    folder = Path(identity(cfg)["folder"])
    run(cfg, folder, table=False)
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that learned from a teacher, and sees images by constants of its own."""
    own = ("student.mean=[0.5]", "student.std=[0.25]", "dataset.fraction=0.1")
    nets = ("method=kd", "student=resnet8", "teacher=resnet14", "teacher.weights=none")
    return finished(tmp_path_factory.mktemp("taught"), *nets, *own)


@pytest.fixture(scope="module")
def few_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of 4 bits, inputs of 8."""
    bits = "student.quantize={weights: 4, activations: 8}"
    return finished(tmp_path_factory.mktemp("bits"), "method=none", "student=resnet8", "dataset.fraction=0.05", bits)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image files of two classes, wide and high, in colour."""
    top, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, name, k in [(p, n, k) for p in ("train", "val") for n in ("=ant", "bee") for k in range(4)]:
        folder = top / part / name
        folder.mkdir(parents=True, exist_ok=True)
        shape = (40 + 9 * k, 60, 3) if k % 2 else (48, 48, 3)
        Image.fromarray(draw.integers(256, size=shape, dtype=np.uint8)).save(folder / f"{k}.png")
    return top


@pytest.fixture(scope="module")
def of_files(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net of timm's that was trained on image files."""
    data = ("dataset=folder", f"dataset.root={pictures}", "dataset.size=32", "schedule.batch_size=4")
    return finished(tmp_path_factory.mktemp("files"), "method=none", "student=timm", "student.model=test_resnet", *data)


@pytest.fixture(scope="module")
def folder(taught: Path) -> Path:
    """The exported folder, with an ONNX file."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    assert main(["export", str(taught), "--onnx"]) == 0
    return taught / "export"


def test_timm_and_onnxruntime_are_as_right_as_the_record_says(
    taught: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = read_json(taught / "result.json")
    for target, who in (
        (taught, {"distill"}),
        (folder, {"timm", "onnxruntime"}),
        (folder / "model.onnx", {"onnxruntime"}),
    ):
        assert main(["eval", str(target), "--device", "cpu", "--out", str(tmp_path / "measured.json")]) == 0
        measured = read_json(tmp_path / "measured.json")
        assert set(measured) == who
        for scored in measured.values():
            assert scored["errors"] == recorded["errors"] and scored["accuracy"] == pytest.approx(
                recorded["accuracy"]["last"]
            )
    assert capsys.readouterr().out.count("equal") == 4


def test_constants_of_its_own_go_along_with_a_net(taught: Path, folder: Path) -> None:
    net = as_timm_loads(folder)
    opened = finished_run.open_run(taught)
    images, _ = next(finished_run.get_data(opened, CPU).evaluation(16))
    spec = opened.spec.dataset
    raw = images * spec.std[0] + spec.mean[0]
    assert net.pretrained_cfg["mean"] == pytest.approx([0.5]) and net.pretrained_cfg["std"] == pytest.approx([0.25])
    expected = finished_run.student(opened, CPU)(images).logits
    assert torch.allclose(net((raw - 0.5) / 0.25), expected, atol=1e-4)


def test_config_json_says_what_the_hub_needs(folder: Path) -> None:
    found = read_json(folder / "config.json")
    assert found["architecture"] == "cifar_resnet8" and found["label_names"] == [str(k) for k in range(10)]
    known = found["pretrained_cfg"]
    assert (known["input_size"], known["crop_pct"], known["interpolation"]) == ([1, 8, 8], 1.0, "bilinear")
    onnx = found["distill"]["onnx"]
    assert onnx["difference"] < 1e-3 * onnx["largest"] and onnx["milliseconds"] > 0 and onnx["teachers"]["resnet14"] > 0


def test_a_card_says_who_taught_what_and_under_which_terms(taught: Path, folder: Path) -> None:
    text, recorded = (folder / "README.md").read_text(), read_json(taught / "result.json")
    for said in (
        "distilled from resnet14 by kd", "| licence of the teacher | resnet14: untrained |", "dataset.fraction=0.1",
        f"| accuracy, test of digits | {recorded['accuracy']['last']:.2f} % (last epoch) |", recorded["command"],
        "import distill.models.timm", "latency of the teacher resnet14", f"{recorded['params']:,}",
    ):  # fmt: skip
        assert said in text.replace("\\_", "_"), said


def test_a_card_opens_image_files_as_the_net_was_shown_them(of_files: Path, tmp_path: Path) -> None:
    assert main(["export", str(of_files), "--to", str(tmp_path / "made")]) == 0
    text = (tmp_path / "made/README.md").read_text()
    assert 'seen(ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB"))' in text
    assert "lays transparent parts on the colour [255, 255, 255]" in text


def test_other_classes_replace_the_head_as_with_any_net_of_timms(folder: Path) -> None:
    import timm

    import distill.models.timm_registry  # noqa: F401

    net = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)
    assert net.fc.weight.shape[0] == 3
    assert torch.equal(net.conv1.weight, as_timm_loads(folder).conv1.weight)


def test_few_bits_stay_few_bits(few_bits: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["export", str(few_bits), "--to", str(tmp_path / "few")]) == 0
    assert "w4a8" in capsys.readouterr().out and not (tmp_path / "few" / "model.safetensors").exists()
    assert (tmp_path / "few" / "model.w4a8.safetensors").stat().st_size < 70_000  # 310 kB in floats
    opened, shipped = finished_run.open_run(few_bits), open_shipped(tmp_path / "few", CPU)
    image = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    coded, bits = student_of(opened, CPU, coded=True)
    assert bits == "w4a8" and coded.model.conv1.parametrizations.weight.original.dtype == torch.uint8
    assert torch.equal(coded(image).logits, shipped.net(image).logits)
    assert main(["eval", str(tmp_path / "few"), "--device", "cpu"]) == 0
    assert "equal" in capsys.readouterr().out


def test_files_are_classified_as_timms_own_transform_lets_the_net_see_them(
    of_files: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import timm

    assert main(["export", str(of_files), "--to", str(tmp_path / "made")]) == 0
    capsys.readouterr()
    told = []
    for target in (of_files, tmp_path / "made"):
        assert main(["predict", str(target), str(pictures / "val"), "--device", "cpu"]) == 0
        told.append(list(csv.DictReader(io.StringIO(capsys.readouterr().out))))
    net = timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True).eval()
    seen = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    assert len(told[0]) == len(told[1]) == 8
    for inside, outside in zip(*told, strict=True):
        with torch.no_grad():
            expected = net(seen(Image.open(inside["file"]).convert("RGB"))[None]).softmax(1)[0]
        assert inside["class"] == outside["class"] == ["'=ant", "bee"][int(expected.argmax())]
        assert float(inside["probability"]) == pytest.approx(expected.max().item(), abs=1e-5)
        assert float(outside["probability"]) == pytest.approx(expected.max().item(), abs=1e-5)


@pytest.mark.parametrize(("epoch", "told"), [(3, ["61.00 %", None]), (None, [None, None])])
def test_a_card_tells_what_the_features_of_its_own_weights_are_worth(epoch: int | None, told: list[str | None]) -> None:
    finished_one = SimpleNamespace(result=SimpleNamespace(knn=Accuracy(58.0, 61.0, epoch), linear_probe=70.0))
    assert list(_of_features(finished_one, best=True).values()) == told
    assert list(_of_features(finished_one, best=False).values()) == ["58.00 %", "70.00 %"]


def test_of_equal_logits_the_first_class_is_told_and_tiny_probabilities_keep_their_order() -> None:
    equal = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    assert [index for index, _ in most_probable(equal, 3)] == [3, 7, 0]
    sure = torch.tensor([200.0, 60.0, 61.0, *[0.0] * 7])
    assert most_probable(sure, 3) == [(0, 1.0), (2, 0.0), (1, 0.0)]


def test_foreign_names_are_made_harmless() -> None:
    assert [harmless(name) for name in ("=1+1", "-x", "a\x1b[2Jb", "é b")] == ["'=1+1", "'-x", "a\\x1b[2Jb", "é b"]


def test_data_of_other_classes_is_refused(folder: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(folder), "dataset=folder", f"dataset.root={pictures}", "dataset.workers=0"]) == 2
    assert "folder has other classes than resnet8 knows (2 classes, 10 expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("eval {folder} dataset.rot=x", "there is no key 'dataset.rot' here: did you mean dataset.root"),
        ("eval {folder} dataset=digitz", "there is no dataset 'digitz': did you mean digits"),
        ("eval nowhere", "there is no folder nowhere: give a finished run"),
        ("predict {folder} nothing.png", "there is no nothing.png: give image files"),
        ("predict {folder} {folder}/config.json", "cannot be decoded"),
        ("predict {folder} {folder} --top 99", "--top is 99, and resnet8 knows 10 classes"),
        ("export {folder}", "is no run's folder"),
        ("export {taught} --to {folder}/config.json", "is a file: give a folder"),
        ("export {taught} --to {taught}", "is the folder of a run: give another"),
        ("analyze {taught} --out /dev/null/x", "--out /dev/null/x cannot be written (Not a directory)"),
        ("predict {folder} {folder} --out {folder}", "is a folder: give a file"),
        ("predict {folder} {folder} --out -", "--out - would be called so on the disk: leave --out away"),
        ("search method.kd=0.1,0.2 --trials 0", "--trials is 0: give at least 1"),
        ("methods crd nosuchword", "no method has crd and nosuchword in its entry"),
        ("export {taught} --to {own}", "holds README.md, which is no export of this run: give a new or an empty"),
        ("eval {folder} dataset.fraction=0.5", "dataset.fraction=0.5 is of training"),
        ("eval {folder} dataset.flip=true", "dataset.flip=true is of training"),
        ("eval {folder} dataset.mean=[0.9]", "by the mean and std of its training"),
        ("eval {folder} dataset.holdout=0.2", "was trained on images that this would hold out"),
        ("eval {folder} dataset.root=/data", "dataset.root=/data does nothing here: the digits come with scikit-learn"),
        ("analyze {taught} --root /data", "--root=/data does nothing here: the digits come with scikit-learn"),
        ("eval {folder} --best", "--best is for a run"),
        ("export {taught} --threads 2", "--threads is of the timing of an ONNX file"),
    ],
)
def test_mistakes_are_one_sentence(
    argv: str, said: str, folder: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert main(argv.format(folder=folder, taught=taught, own=tmp_path).split()) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_weights_that_are_not_those_of_the_result_are_refused(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(taught, tmp_path / "s1")
    result = read_json(copy / "result.json")
    (copy / "result.json").write_text(json.dumps(result | {"weights": "0" * 16}))
    assert main(["eval", str(copy), "--device", "cpu"]) == 2
    assert "is not what its run measured" in capsys.readouterr().err


def test_the_export_of_another_run_is_not_overwritten(
    folder: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    content = read_json(tmp_path / "config.json")
    assert content["distill"]["run"].endswith("/s1") and main(["export", str(taught), "--to", str(tmp_path)]) == 0
    content["distill"]["run"] = "digits/other/kd-00000000/s1"
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert main(["export", str(taught), "--to", str(tmp_path)]) == 2
    assert "which is the export of digits/other/kd-00000000/s1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["labels.csv", "teacher.onnx", "images/0.png", ".git/HEAD"])
def test_a_folder_of_other_things_is_not_exported_into(
    name: str, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hidden files are those of tools: a repository that was just begun is empty."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    if name.startswith("."):
        assert main(["export", str(taught), "--to", str(tmp_path)]) == 0
        return
    assert main(["export", str(taught), "--to", str(tmp_path)]) == 2
    said = f"holds {name.partition('/')[0]}, which is no export of this run: give a new or an empty folder"
    assert said in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == [name.partition("/")[0]]


def test_an_onnx_file_is_that_of_the_export_or_none(folder: Path, taught: Path, tmp_path: Path) -> None:
    """The last epoch's, left where the best epoch's weights are exported anew, was measured as theirs."""
    copy = shutil.copytree(folder, tmp_path / "export")
    (copy / "model.int8.onnx").write_text("of others")
    assert open_shipped(copy, CPU).also == copy / "model.onnx"
    assert main(["export", str(taught), "--best", "--to", str(copy)]) == 0
    assert open_shipped(copy, CPU).also is None
    assert sorted(path.name for path in copy.iterdir()) == [
        "README.md", "config.json", "model.int8.onnx", "model.safetensors",
    ]  # fmt: skip


def test_hidden_files_are_no_pictures_and_changed_ones_are_told(
    of_files: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in ("a.jfif", "._a.png", ".ipynb_checkpoints/a.png"):
        shutil.copy(pictures / "val/bee/0.png", tmp_path / name)
    assert files_of([str(tmp_path)]) == [tmp_path / "a.jfif"]
    (tmp_path / "linked").symlink_to(pictures / "val/bee")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "b.heic").touch()
    found = [path.relative_to(tmp_path) for path in files_of([str(tmp_path)])]
    assert found == [Path("a.jfif"), *(Path(f"linked/{k}.png") for k in range(4))]
    assert "files or folders are no images and are left out (2 hidden, 1 .heic" in caplog.text
    other = shutil.copytree(pictures, tmp_path / "other")
    assert main(["eval", str(of_files), f"dataset.root={other}", "dataset.workers=0"]) == 0
    assert "not those of the record" not in capsys.readouterr().out
    shutil.copy(pictures / "val/bee/0.png", other / "val/bee/1.png")
    assert main(["eval", str(of_files), f"dataset.root={other}", "dataset.workers=0"]) == 0
    assert "The data are not those of the record" in capsys.readouterr().out


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["distill"]["facts"]["mean"] = []
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert main(["eval", str(tmp_path)]) == 2
    assert "is no folder that distill export wrote" in capsys.readouterr().err


def test_damaged_files_are_told_before_the_first_is_classified(
    of_files: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (pictures / "val/bee/0.png").read_bytes()
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(whole if k == 0 else whole[:-30])
    assert main(["predict", str(of_files), str(tmp_path), "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert "1.png cannot be decoded (" in said.err and "), nor can 1 more: replace or remove" in said.err


def test_a_run_is_asked_and_exported_where_its_data_are_not(
    of_files: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(shutil.copy(pictures / "val/bee/0.png", tmp_path))
    moved = pictures.rename(tmp_path / "elsewhere")
    try:
        assert main(["export", str(of_files), "--to", str(tmp_path / "made")]) == 0
        assert main(["predict", str(of_files), image, "--device", "cpu"]) == 0
        told = capsys.readouterr().out
        assert main(["predict", str(tmp_path / "made"), image, "--device", "cpu"]) == 0
    finally:
        moved.rename(pictures)
    assert told.endswith(capsys.readouterr().out)


def test_the_classes_of_a_data_set_are_recorded_in_order(of_files: Path) -> None:
    assert read_json(of_files / "result.json")["classes"] == ["=ant", "bee"]


def test_a_record_of_fewer_bits_is_said_to_be_one(taught: Path) -> None:
    facts = replace(open_shipped(taught, CPU).facts, precision="bf16", accuracy=50.0)
    assert note(facts, [50.0, 50.0]) is None and note(replace(facts, precision="fp32"), [49.0]) is None
    assert "is of bf16" in str(note(facts, [50.0, 49.9]))


@pytest.mark.parametrize(("crop", "resize"), [(SQUASH, 32), (CENTER, False)])
def test_images_of_another_folder_are_shown_as_the_net_is_used_to(
    crop: str, resize: int | bool, of_files: Path, pictures: Path
) -> None:
    facts = open_shipped(of_files, torch.device("cpu")).facts
    facts = replace(facts, crop=crop, dataset=facts.dataset | {"name": "own"})
    node = node_of(facts, ["dataset=folder", f"dataset.root={pictures}"])
    assert (node.size, node.resize) == (32, resize)


def test_files_of_another_folder_are_decoded_as_the_net_is_used_to(of_files: Path, pictures: Path) -> None:
    facts = open_shipped(of_files, CPU).facts
    reads: dict[str, Any] = {"exif": False, "background": (0, 0, 0), "value_range": (0, 4095)}
    facts = replace(facts, dataset=facts.dataset | {"name": "own", **reads})
    node = node_of(facts, ["dataset=folder", f"dataset.root={pictures}"])
    assert (node.exif, tuple(node.background), tuple(node.value_range or ())) == (False, (0, 0, 0), (0, 4095))
    assert node_of(facts, ["dataset=folder", "dataset.exif=true"]).exif


def bordered_facts() -> Facts:
    """Of a net that is shown MNIST's images with a border, and no word of it: runs of before did not tell."""
    kind = {"name": "mnist", "kind": "mnist", "size": 32, "in_chans": 1, "mean": [0.1307], "std": [0.3081]}
    spec = SimpleNamespace(dataset=DataSpec.of(kind), schedule=SimpleNamespace(rule=None))
    document = {"input": {"size": 32, "channels": 1, "mean": [0.1307], "std": [0.3081]}}
    accuracy = SimpleNamespace(last=99.0, best=99.0)
    result = SimpleNamespace(document=document, student="x", accuracy=accuracy, evaluated_on="test", precision="fp32")
    run: Any = SimpleNamespace(spec=spec, result=result, folder=Path("s1"))
    return facts_of(run, "x", {}, ["0", "1"], None, False)


def test_images_that_were_padded_to_size_are_padded_outside_too(tmp_path: Path) -> None:
    """Enlarged ones would be others: MNIST's 28 pixels in 32, and CIFAR's 32 in a quarter of dataset.size=64."""
    import timm

    facts, draw = bordered_facts(), np.random.default_rng(0)
    stored = draw.integers(256, size=(28, 28), dtype=np.uint8)
    Image.fromarray(stored).save(tmp_path / "7.png")
    expected = (torch.from_numpy(np.pad(stored, 2)).float()[None] / 255 - 0.1307) / 0.3081
    (seen,) = batches(facts, [tmp_path / "7.png"], CPU)
    assert facts.border == 2 and torch.allclose(seen[0], expected, atol=1e-6)
    known = {"input_size": (1, 32, 32), "crop_pct": facts.crop_pct, "crop_mode": facts.crop, "mean": facts.mean}
    outside = timm.data.create_transform(**known, std=facts.std, interpolation="bilinear")
    assert torch.allclose(outside(Image.open(tmp_path / "7.png")), expected, atol=1e-6)
    assert "28 x 28 pixels of grey, with 2 black ones on each side" in as_seen(facts)
    with pytest.raises(ValueError, match="2 zeros on each side, as those of mnist were given"):
        node_of(facts, ["dataset=folder", f"dataset.root={tmp_path}"])


def test_a_run_records_the_border_of_its_images() -> None:
    digits = {"name": "digits", "size": 12, "in_chans": 1, "mean": [0.5], "std": [0.5]}
    data = load_data(DataSpec.of(digits))
    net: Any = SimpleNamespace(constants=lambda mean, std: (list(mean), list(std)))
    assert takes(net, data)["border"] == 2 and data.test.images[:, :2].max() == 0
    assert "border" not in takes(net, load_data(DataSpec.of({**digits, "resize": True})))


def test_a_teacher_that_began_with_weights_of_others_stands_under_their_terms() -> None:
    import timm

    taught = ("method=kd", "teacher=timm", "teacher.model=test_resnet")
    known = timm.get_pretrained_cfg("test_resnet").license or "not stated by timm"
    runs: list[Any] = [
        SimpleNamespace(spec=resolve(tiny.composed(*taught, *start))) for start in ((), ("teacher.start=pretrained",))
    ]
    scratch, begun = (licences(run)[0] for run in runs)
    assert scratch == "test_resnet: trained by this program on the same data, no other terms"
    assert begun == f"test_resnet: trained by this program on the same data, from timm's weights ({known})"


@pytest.mark.parametrize("weights", [None, "pretrained", "FILE"])
def test_a_card_says_under_which_terms_its_own_weights_began(weights: str | None, tmp_path: Path) -> None:
    import timm

    net = timm.create_model("test_resnet", num_classes=10)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    given = {None: [], "FILE": [f"student.weights={tmp_path / 'net.safetensors'}"]}
    words = given.get(weights, [f"student.weights={weights}"])
    spec = resolve(tiny.composed("method=none", "student=timm", "student.model=test_resnet", *words))
    known = timm.get_pretrained_cfg("test_resnet").license or "not stated by timm"
    said = {None: None, "FILE": "from a file's weights (not stated there)"}
    assert own_terms(spec) == said.get(weights, f"from timm's weights ({known})")


def test_a_teachers_latency_is_that_of_its_own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def build(model: str, classes: int, *, size: int, **_: Any) -> None:
        asked.append((classes, size))
        raise ValueError("enough")

    monkeypatch.setattr(write, "build", build)
    spec = resolve(tiny.composed("method=kd", "teacher=resnet14", "teacher.weights=none"))
    result = SimpleNamespace(document={"input": {"size": 8}}, teacher_accuracy=None)
    run: Any = SimpleNamespace(spec=spec, result=result)
    for teacher, knows in ((spec.teachers[0], True), (replace(spec.teachers[0], size=24), False)):
        assert write._taught(run, teacher, knows, 10, 1) == "not measured (enough)"
    assert asked == [(10, 8), (0, 24)] and write._classifiers(run) == [False]


def test_a_value_that_the_data_cannot_have_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(folder), "dataset.size=-1"]) == 2
    assert "dataset.size=-1: dataset.size must be a whole number" in capsys.readouterr().err
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = read_json(copy / "config.json")
    content["distill"]["facts"]["dataset"]["views"] = True
    (copy / "config.json").write_text(json.dumps(content))
    assert main(["eval", str(copy)]) == 2
    assert "is no folder that distill export wrote" in capsys.readouterr().err
