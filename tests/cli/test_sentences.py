"""Errors of libraries become one sentence with the file or key and a remedy."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image, UnidentifiedImageError

from distill import errors
from distill.cli.sentences import LONGEST, format_error
from distill.config import instantiate, load_node
from distill.data import load_data
from distill.files import SaveError
from distill.models import build as build_net
from distill.models import load_weights
from tests.data.test_data import config


def raised(call) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def loads(folder: Path) -> None:
    torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict())


CASES = {  # what goes wrong, words of its sentence, its exit code
    "a folder": (lambda folder: folder.read_bytes(), ("Is a directory: give a file", "test_errors"), errors.USAGE),
    "no folder": (lambda folder: list((folder / "x").iterdir()), ("x: No such file", "check the path"), errors.USAGE),
    "a file's folder": (lambda folder: (folder / "f" / "g").read_bytes(), ("Not a directory",), errors.USAGE),
    "zlib": (lambda folder: zlib.decompress(b"xyz"), ("a compressed file is damaged", "fetch it again"), errors.USAGE),
    "an image": (lambda folder: Image.open(folder / "f"), ("an image cannot be decoded", "/f", "skip"), errors.USAGE),
    "weights": (loads, ("weights do not fit the net (size mismatch for weight", "teacher.weights"), errors.USAGE),
    "one image": (lambda folder: torch.nn.BatchNorm1d(2)(torch.ones(1, 2)), ("last_batch=merge",), errors.USAGE),
    "arguments": (lambda folder: Image.new("L", (1, 1), colr=1), ("does not take", "'colr'"), errors.FAILED),
    "text": (lambda folder: b"\xff".decode(), ("no text in UTF-8", "write it anew"), errors.USAGE),
    "nesting": (lambda folder: eval("f()", {"f": lambda: (_ for _ in ()).throw(RecursionError("deep"))}),
                ("nested without an end",), errors.FAILED),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_errors_of_libraries(name, tmp_path):
    (tmp_path / "f").write_text("no image")
    call, words, code = CASES[name]
    error = raised(lambda: call(tmp_path))
    text = format_error(error)
    assert all(word in text for word in words) and "\n" not in text and len(text) <= LONGEST
    assert errors.exit_code(error) == code


def test_a_full_disk_is_no_mistake_of_the_user():
    assert errors.exit_code(OSError(28, "No space left on device", "x")) == errors.FAILED
    assert format_error(OSError(28, "No space left on device", "x")) == "x: No space left on device: free some space"
    assert format_error(SaveError("said already")) == "said already"
    assert format_error(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_long_sentences_keep_the_file_and_the_remedy(monkeypatch):
    text = "/a/file holds " + "word " * 2000 + ": remove it"
    short = format_error(ValueError(text))
    assert len(short) <= LONGEST and short.startswith("/a/file holds word") and short.endswith(": remove it")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert format_error(ValueError(text)) == " ".join(text.split())


def test_unidentified_images_have_no_number():
    assert errors.exit_code(UnidentifiedImageError("x")) == errors.USAGE


@pytest.mark.filterwarnings("ignore:torch.quantize")
@pytest.mark.parametrize("what", ["sparse", "complex", "infinite", "quantised"])
def test_weights_without_plain_values_are_refused_by_name(what, tmp_path):
    net = build_net("cifar_resnet8", 10)
    state = net.model.state_dict()
    key = "conv1.weight"
    state[key] = {
        "sparse": lambda v: v.to_sparse(),
        "complex": lambda v: v.to(torch.complex64),
        "infinite": lambda v: v * float("inf"),
        "quantised": lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8),
    }[what](state[key])
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth"):
        load_weights(net, tmp_path / "w.pth")


@pytest.mark.parametrize("what", ["a folder", "a loop", "a file for root", "deflate"])
def test_data_in_odd_places(what, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    name = raw / "train-images-idx3-ubyte"
    root = tmp_path
    if what == "a folder":
        name.mkdir()
    elif what == "a loop":
        name.symlink_to(name)
    elif what == "deflate":
        packed = bytearray(gzip.compress(bytes(1000)))
        packed[12] ^= 0xFF
        name.with_name(name.name + ".gz").write_bytes(packed)
    else:
        root = tmp_path / "file"
        root.write_text("x")
    with pytest.raises(ValueError) as caught:
        load_data(config("mnist", root=str(root)))
    assert str(tmp_path) in str(caught.value) and len(format_error(caught.value)) <= LONGEST


def test_a_methods_type_error_names_the_method():
    with pytest.raises(ValueError, match=r"kd cannot be made of its keys \(.*missing"):
        instantiate(load_node("method", "kd"))
