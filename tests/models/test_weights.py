"""Checkpoints of others: every layout that is read, and every file that is refused."""

from __future__ import annotations

import argparse
import gzip
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distill.content.state_file import read_state
from distill.models import FeatureNet, build, load_weights

CLASSES = 10


@pytest.fixture
def source() -> FeatureNet:
    return build("cifar_resnet8", CLASSES, size=16, seed=1)


def target(name: str = "cifar_resnet8", classes: int = CLASSES) -> FeatureNet:
    return build(name, classes, size=16, seed=2)


def same(a: FeatureNet, b: FeatureNet) -> bool:
    ours, theirs = a.model.state_dict(), b.model.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def repdistiller(state: dict[str, Tensor]) -> Any:
    """RepDistiller and mdistiller, down to the numpy scalar that plain weights_only loading refuses."""
    return {"epoch": 240, "best_acc": np.float64(72.34), "model": state, "opt": argparse.Namespace(lr=0.05)}


def akamaster(state: dict[str, Tensor]) -> Any:
    return {"state_dict": OrderedDict((f"module.{k}", v) for k, v in state.items()), "best_prec1": 91.7}


def nested(state: dict[str, Tensor]) -> Any:
    return {"model": {"state_dict": {f"_orig_mod.module.{k}": v.half() for k, v in state.items()}}}


def old(state: dict[str, Tensor]) -> Any:
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("layout", [dict, repdistiller, akamaster, old])
@pytest.mark.parametrize("zipped", [True, False])
def test_layouts(layout: Any, zipped: bool, source: FeatureNet, tmp_path: Path) -> None:
    net = target()
    assert not same(net, source)
    torch.save(layout(source.model.state_dict()), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    load_weights(net, tmp_path / "a.pth")
    assert same(net, source)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in net.parameters())


def test_nested_wrappers_and_half_precision(source: FeatureNet, tmp_path: Path) -> None:
    net = target()
    torch.save(nested(source.model.state_dict()), tmp_path / "a.pth")
    load_weights(net, str(tmp_path / "a.pth"))
    assert torch.equal(net.model.conv1.weight, source.model.conv1.weight.half().float())


def wrapped(layout: str, state: dict[str, Tensor]) -> Any:
    """Layouts of other people's trainers around one state."""
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    return {
        "backbone": {f"backbone.{key}": value for key, value in state.items()},
        "lightning": {"state_dict": {f"net.{key}": value for key, value in state.items()}, "global_step": 3},
        "teacher": {"teacher": {f"module.backbone.{key}": value for key, value in state.items()}},
        "averaged beside the last": {"state_dict": state, "state_dict_ema": other, "epoch": 3},
        "averaged alone": {"state_dict_ema": {f"module.{key}": value for key, value in state.items()}},
        "averaged by torch": {
            "model": other,
            "model_ema": {"n_averaged": torch.tensor(7), **{f"module.{key}": value for key, value in state.items()}},
        },
        "profiled": {**state, "total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)},
        "compiled": {"model": {f"_orig_mod.{key}": value for key, value in state.items()}, "scaler": {}},
    }[layout]


@pytest.mark.parametrize(
    "layout",
    ["backbone", "lightning", "teacher", "averaged beside the last", "averaged alone", "profiled", "compiled"],
)
def test_layouts_of_other_trainers(layout: str, source: FeatureNet, tmp_path: Path) -> None:
    net = target()
    torch.save(wrapped(layout, source.model.state_dict()), tmp_path / "a.pth")
    load_weights(net, tmp_path / "a.pth")
    assert same(net, source)


def test_one_of_several_states_is_taken_by_its_name(source: FeatureNet, tmp_path: Path) -> None:
    path, state = tmp_path / "a.pth", source.model.state_dict()
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"student": other, "teacher": state, "epoch": 3}, path)
    with pytest.raises(ValueError, match="holds several states, student, teacher: name one, as in .*a.pth::student"):
        read_state(path)
    load_weights(net := target(), f"{path}::teacher")
    assert same(net, source)
    with pytest.raises(ValueError, match="has no entry ema: its entries are student, teacher"):
        read_state(f"{path}::ema")


def test_one_of_several_nets_in_one_module_is_taken_by_the_first_word_of_its_names(
    source: FeatureNet, tmp_path: Path
) -> None:
    path, state = tmp_path / "a.ckpt", source.model.state_dict()
    other = {f"student.{key}": torch.zeros_like(value) for key, value in state.items()}
    torch.save({"state_dict": {**{f"teacher.model.{key}": value for key, value in state.items()}, **other}}, path)
    with pytest.raises(ValueError, match=f"teacher and student of it would fit: {path}::teacher takes that"):
        load_weights(target(), path)
    load_weights(net := target(), f"{path}::teacher")
    assert same(net, source)


@pytest.mark.parametrize(("content", "name"), [("prefix", "ema_model"), ("entry", "my_weights")])
def test_a_state_below_a_name_of_its_own_is_told_how_to_be_taken(
    content: str, name: str, source: FeatureNet, tmp_path: Path
) -> None:
    path, state = tmp_path / "a.pth", source.model.state_dict()
    below = {f"{name}.{key}": value for key, value in state.items()}
    torch.save(below if content == "prefix" else {name: state, "epoch": 3}, path)
    with pytest.raises(ValueError, match=f"{path}::{name} takes that"):
        load_weights(target(), path)
    load_weights(net := target(), f"{path}::{name}")
    assert same(net, source)


def test_the_averaged_state_of_torch_s_is_taken_by_its_name(source: FeatureNet, tmp_path: Path) -> None:
    """torchvision's references keep that of torch.optim.swa_utils.AveragedModel, which counts what it has averaged."""
    torch.save(wrapped("averaged by torch", source.model.state_dict()), tmp_path / "a.pth")
    load_weights(net := target(), f"{tmp_path / 'a.pth'}::model_ema")
    assert same(net, source)


def test_the_folder_of_a_run_stands_for_its_student(source: FeatureNet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no checkpoint file"):
        read_state(tmp_path)
    save_file(source.model.state_dict(), tmp_path / "student.safetensors")
    load_weights(net := target(), tmp_path)
    assert same(net, source)


def test_values_that_no_net_takes_are_refused(tmp_path: Path) -> None:
    bad = {
        "complex": torch.zeros(2, dtype=torch.complex64), "sparse": torch.eye(2).to_sparse(),
        "meta": torch.zeros(2, device="meta"), "infinite": torch.tensor([1.0, -torch.inf]),
    }  # fmt: skip
    for name, value in bad.items():
        torch.save({"fine": torch.zeros(1), name: value}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=f"a.pth: {name} (is no dense tensor|holds values that are not finite)"):
            read_state(tmp_path / "a.pth")


def test_a_dictionary_that_holds_itself_is_no_state(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth (holds no state dict|is damaged)"):
        read_state(tmp_path / "a.pth")


def test_safetensors(source: FeatureNet, tmp_path: Path) -> None:
    net = target()
    save_file(source.model.state_dict(), tmp_path / "a.safetensors", {"format": "pt"})
    load_weights(net, tmp_path / "a.safetensors")
    assert same(net, source)


class Runs:
    """A pickle of this runs a command when loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_file_that_would_run_code_is_refused(how: str, source: FeatureNet, tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"model": source.model.state_dict(), "extra": Runs(marker)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content["extra"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    net = target()
    before = net.model.conv1.weight.clone()
    with pytest.raises(ValueError, match="evil.pth would run code when loaded, so it was refused"):
        load_weights(net, path)
    assert not marker.exists()
    assert torch.equal(before, net.model.conv1.weight)


@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_files(suffix: str, part: float, source: FeatureNet, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    state = source.model.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"cut{suffix} is damaged or no"):
        read_state(path)


def test_a_flipped_bit_among_the_weights_is_noticed(source: FeatureNet, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": source.model.state_dict()}, path)
    content = bytearray(path.read_bytes())
    weights = source.model.conv1.weight.detach().numpy().tobytes()
    content[content.index(weights) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.pth is damaged"):
        read_state(path)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no checkpoint file"):
        read_state(tmp_path / "nowhere.pth")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="page.pth is a web page in place of the file: download that by"):
        read_state(tmp_path / "page.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="empty.pth holds no state dict"):
        read_state(tmp_path / "empty.pth")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth holds no state dict"):
        read_state(tmp_path / "list.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
@pytest.mark.parametrize(("name", "told"), [
    ("script.pt", "script.pt is a TorchScript program .* torch.save\\(torch.jit.load\\(FILE\\).state_dict\\(\\)"),
    ("trace.safetensors", "trace.safetensors is a TorchScript program"),
    ("export.pt2", "export.pt2 is an exported program .* torch.save\\(torch.export.load\\(FILE\\).state_dict, NEW\\)"),
    ("arrays.npz", "arrays.npz holds arrays of NumPy"),
    ("named.bin", "named.bin is a safetensors file by its content: let its name end in .safetensors"),
    ("graph.onnx", "graph.onnx is an ONNX graph"),
    ("pointer.pth", "pointer.pth is a pointer of Git LFS"),
    ("keras.h5", "keras.h5 holds weights of Keras"),
    ("packed.pth.gz", "packed.pth.gz is a compressed file: unpack it"),
    ("zipped.pth", "zipped.pth is an archive: unpack it"),
])  # fmt: skip
def test_files_of_other_kinds_are_called_what_they_are(name: str, told: str, tmp_path: Path) -> None:
    """They are whole: "damaged: download it again" sent people after the same file."""
    net, path = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval(), tmp_path / name
    image = torch.rand(1, 3, 8, 8)
    make: dict[str, Callable[[], object]] = {
        "script.pt": lambda: torch.jit.save(torch.jit.script(net), path),
        "trace.safetensors": lambda: torch.jit.save(torch.jit.trace(net, image), path),
        "export.pt2": lambda: torch.export.save(torch.export.export(net, (image,)), path),
        "arrays.npz": lambda: np.savez(path, a=np.ones(3)),
        "named.bin": lambda: save_file(net.state_dict(), path),
        "graph.onnx": lambda: path.write_bytes(b"\x08\x08\x12\x07pytorch"),
        "pointer.pth": lambda: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "keras.h5": lambda: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)),
        "packed.pth.gz": lambda: path.write_bytes(gzip.compress(b"weights")),
        "zipped.pth": lambda: zipfile.ZipFile(path, "w").writestr("weights.bin", "weights"),
    }
    make[name]()
    with pytest.raises(ValueError, match=told):
        read_state(path)


def refusal(net: FeatureNet, state: Any, path: Path) -> str:
    torch.save(state, path)
    before = {key: value.clone() for key, value in net.model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_weights(net, path)
    assert all(torch.equal(value, before[key]) for key, value in net.model.state_dict().items())
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    return str(caught.value)


def test_the_net_that_fits_is_named(tmp_path: Path) -> None:
    theirs = akamaster(target("cifar_resnet20_a").model.state_dict())
    message = refusal(target("cifar_resnet20"), theirs, tmp_path / "a.th")
    assert "lacks layer2.0.downsample.0.weight" in message and "has unknown linear.weight" in message
    assert message.endswith("(it fits cifar_resnet20_a with 10 classes: set model=cifar_resnet20_a)")
    load_weights(target("cifar_resnet20_a"), tmp_path / "a.th")


def test_another_number_of_classes_is_named(source: FeatureNet, tmp_path: Path) -> None:
    message = refusal(target(classes=7), source.model.state_dict(), tmp_path / "a.pth")
    assert "fc.weight is 10x64 and should be 7x64" in message
    assert message.endswith("(it is cifar_resnet8 for 10 classes and 3 channels, this run has 7 and 3)")


def test_of_two_nets_that_fit_the_runs_own_is_named(tmp_path: Path) -> None:
    """resnet20_a and resnet20_bss have the same weights, and other shortcuts."""
    path = tmp_path / "a.pth"
    torch.save(target("cifar_resnet20_bss", 3).model.state_dict(), path)
    with pytest.raises(ValueError, match=r"it is cifar_resnet20_bss for 3 classes and 3 channels, this run has 10"):
        load_weights(target("cifar_resnet20_bss"), path)


def test_a_stranger_is_described_without_a_guess(tmp_path: Path) -> None:
    message = refusal(target(), {"weight": torch.ones(3, 3), "bias": torch.ones(3)}, tmp_path / "a.pth")
    assert "has unknown weight, bias" in message and "it fits" not in message


def test_timm_nets_load_too(tmp_path: Path) -> None:
    source, net = (build("resnet18", CLASSES, seed=seed) for seed in (1, 2))
    torch.save({"state_dict": source.model.state_dict()}, tmp_path / "a.pth")
    load_weights(net, tmp_path / "a.pth")
    assert same(net, source)


@pytest.mark.parametrize("depth", [20, 56])
def test_public_cifar10_checkpoints(depth: int) -> None:
    folder = Path(os.environ.get("DISTILL_TEACHERS") or pytest.skip("DISTILL_TEACHERS is not set"))
    files = sorted(folder.glob(f"resnet{depth}-*.th"))
    if not files:
        pytest.skip(f"no resnet{depth}-*.th in DISTILL_TEACHERS")
    net = build(f"cifar_resnet{depth}_a", 10, seed=0)
    load_weights(net, files[0])
    assert net.model.bn1.running_mean.any()
    with pytest.raises(ValueError, match=f"it fits cifar_resnet{depth}_a"):
        load_weights(build(f"cifar_resnet{depth}", 10), files[0])
