"""Data: batches against torchvision's arithmetic, resume, subsets, missing, damaged and hostile files."""

from __future__ import annotations

import gzip
import os
import pickle
import random
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from distill.config import DataSpec, load_node
from distill.content import readers as readers_module
from distill.content.pickles import read_pickle
from distill.content.readers import read_cifar10, read_cifar100, read_digits, read_idx
from distill.data import ArraySource, DataInfo, Split, evaluation_batches, load_data
from distill.data.arrays import seeded
from distill.data.folder import FolderSource
from distill.data.select import numbers, select, split_holdout, stratified
from distill.data.shared_folder import SharedFolder
from distill.data.views import Images, evaluation_view, random_crop
from distill.engine.static_buffers import StaticBuffers

CONF = Path(__file__).resolve().parents[2] / "conf"
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
real_data = pytest.mark.skipif(
    "DISTILL_DATA" not in os.environ, reason="DISTILL_DATA names no folder of data sets"
)


def node(file: str, **changes) -> dict:
    merged = OmegaConf.merge(OmegaConf.load(CONF / "dataset" / f"{file}.yaml"), changes)
    return OmegaConf.to_container(merged, resolve=True)


def config(file: str, **changes) -> DataSpec:
    return DataSpec.of(node(file, **changes))


def part(**changes) -> DataSpec:
    return DataSpec("toy", 8, MEAN, STD, **changes)


def toy(count: int = 50, size: int = 8, classes: int = 5, **options) -> ArraySource:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    info = DataInfo("toy", classes, count, 3, size, MEAN, STD, labels, [str(k) for k in range(classes)])
    return ArraySource(Split(images, labels), info, **{"batch_size": 16, "seed": 3, "pad": 2, **options})


def same(one, two) -> bool:
    return (
        torch.equal(one.inputs, two.inputs)
        and torch.equal(one.labels, two.labels)
        and torch.equal(one.index, two.index)
        and torch.equal(one.crop, two.crop)
    )


# ---- batches ----


def test_batches_are_bitwise_what_torchvision_gives():
    source = toy(pad=4)
    plan = source._plan(2)
    for step, batch in enumerate(source.epoch(2)):
        for k, i in enumerate(batch.index.tolist()):
            dy, dx, flip, view = plan.draws[16 * step + k].tolist()
            image = V.pad(Image.fromarray(source.split.images[i].numpy()), 4, fill=0)
            image = V.crop(image, dy, dx, 8, 8)
            image = V.hflip(image) if flip else image
            expected = torchvision.transforms.functional.normalize(
                torchvision.transforms.functional.to_tensor(image), MEAN, STD
            )
            assert torch.equal(batch.inputs[k], expected)
            assert batch.labels[k] == source.split.labels[i]
            assert batch.crop[k] == (dy * 9 + dx) * 2 + flip == view
    assert plan.draws[:, 0].unique().tolist() == plan.draws[:, 1].unique().tolist() == list(range(9))
    assert plan.draws[:, 2].unique().tolist() == [0, 1]


def test_an_epoch_sees_every_image_once_in_channels_last():
    batches = list(toy().epoch(1))
    assert [len(b.labels) for b in batches] == [16, 16, 16, 2]
    assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(50))
    assert all(b.inputs.is_contiguous(memory_format=torch.channels_last) for b in batches)
    assert batches[0].inputs.dtype == torch.float32 and batches[0].labels.dtype == torch.int64


def test_resumed_epoch_is_the_tail():
    whole, tail = list(toy().epoch(4)), list(toy().epoch(4, start=2))
    assert len(tail) == 2 and all(same(a, b) for a, b in zip(whole[2:], tail, strict=True))


def test_epochs_and_seeds_differ_and_repeat():
    first = [next(s.epoch(e)) for s, e in ((toy(), 1), (toy(), 1), (toy(), 2), (toy(seed=4), 1))]
    assert same(first[0], first[1])
    assert not torch.equal(first[0].index, first[2].index) and not torch.equal(first[0].index, first[3].index)


def test_neighbouring_seeds_and_epochs_do_not_share_a_stream():
    draws = {int(torch.randint(2**62, (1,), generator=seeded(s, e))) for s in range(20) for e in range(20)}
    assert len(draws) == 400


def test_order_and_views_do_not_depend_on_the_batch_size():
    def by_position(batch_size):
        batches = list(toy(batch_size=batch_size).epoch(1))
        return [torch.cat([getattr(b, key) for b in batches]) for key in ("index", "crop", "inputs")]

    for one, two in zip(by_position(7), by_position(50), strict=True):
        assert torch.equal(one, two)


def test_drop_last_and_replace():
    source = toy()
    dropped = source.replace(last_batch="drop")
    assert (source.steps, dropped.steps) == (4, 3)
    assert same(list(dropped.epoch(1))[2], list(source.epoch(1))[2])
    still = source.replace(pad=0, flip=False)
    batch = next(still.epoch(1))
    assert batch.crop.eq(0).all()
    images, _ = next(evaluation_batches(source.split, source.info, 50))
    assert torch.equal(batch.inputs, images[batch.index])
    assert source.replace(seed=9).crops is source.crops and still.crops is not source.crops


@pytest.mark.parametrize("size", [0, -4])
def test_batch_size_below_one(size):
    with pytest.raises(ValueError, match="at least 1"):
        toy(batch_size=size)


def test_drop_last_with_too_few_images():
    with pytest.raises(ValueError, match="no batch of 64"):
        toy(batch_size=64, last_batch="drop")


def test_evaluation_is_in_order_and_normalised():
    source = toy()
    images, labels = (
        torch.cat(parts) for parts in zip(*evaluation_batches(source.split, source.info, 16), strict=True)
    )
    expected = torchvision.transforms.functional.normalize(
        source.split.images.permute(0, 3, 1, 2).float().div(255), MEAN, STD
    )
    assert torch.equal(images, expected) and torch.equal(labels, source.split.labels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_are_the_same_on_the_gpu():
    host = toy()
    split = Split(host.split.images.cuda(), host.split.labels.cuda())
    for one, two in zip(host.epoch(1), host.replace(split=split).epoch(1), strict=True):
        assert torch.equal(one.inputs, two.inputs.cpu()) and torch.equal(one.index, two.index.cpu())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_step_waits_for_the_gpu():
    host = toy()
    batches = host.replace(split=Split(host.split.images.cuda(), host.split.labels.cuda())).epoch(1)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(batches)) == 3
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- which images ----


def test_stratified_count_is_exact_and_fair():
    labels = np.repeat(np.arange(7), [10, 20, 30, 40, 50, 60, 77])
    mask = stratified(labels, 50, salt=0)
    share = np.bincount(labels[mask]) / np.bincount(labels)
    assert mask.sum() == 50 and np.all(
        np.abs(share * np.bincount(labels) - 50 / 287 * np.bincount(labels)) < 1
    )


def test_holdout_is_a_partition():
    labels = np.arange(1000) % 10
    kept, held = split_holdout(labels, 0.1)
    assert np.bincount(labels[held]).tolist() == [10] * 10
    assert sorted([*kept, *held]) == list(range(1000))


def test_smaller_subsets_lie_in_larger_ones():
    labels, names = np.arange(300) % 3, ["a", "b", "c"]
    for key, small, large in (("shots", 2, 5), ("fraction", 0.1, 0.3)):
        inner, outer = (set(select(labels, part(**{key: value}), names)) for value in (small, large))
        assert inner < outer
    assert np.bincount(labels[select(labels, part(shots=4), names)]).tolist() == [4, 4, 4]
    assert np.bincount(labels[select(labels, part(fraction=0.25, omit=("b",)), names)]).tolist() == [
        25,
        0,
        25,
    ]


def test_a_number_that_is_another_classs_name_is_refused():
    names = ["1", "10", "2"]  # folders, in their order
    assert numbers(["1", "2"], names) == [0, 2] and numbers([0, 3], [str(k) for k in range(10)]) == [0, 3]
    with pytest.raises(ValueError, match=r"has 1, which is the name of one class and not its number, 0: quote names"):
        numbers([1, 2], names)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"holdout": 1.0}, "dataset.holdout is 1.0"),
        ({"holdout": 0.0001}, "leaves a part empty"),
        ({"holdout": 0.999}, "leaves [1-9] classes without a training image: lower it"),
        ({"fraction": 0.0}, "dataset.fraction is 0.0"),
        ({"fraction": 1.5}, "dataset.fraction is 1.5"),
        ({"shots": 0}, "dataset.shots is 0"),
        ({"shots": 1000}, "from 1 to 13"),
        ({"omit": [10]}, "from 0 to 9"),
        ({"omit": ["ten"]}, "names such as '0'"),
        ({"omit": list(range(10))}, "names every class"),
        ({"num_classes": 11}, "has 10 classes"),
        ({"mean": [0.5, 0.5]}, "need 1 values"),
        ({"std": [0.0]}, "above 0"),
        ({"size": 9}, "8x8 images"),
        ({"size": 4}, "8x8 images"),
        ({"name": "digts"}, "did you mean digits"),
    ],
)
def test_values_that_do_not_fit(changes, text):
    with pytest.raises(ValueError, match=text) as caught:
        load_data(config("digits", **changes))
    assert "\n" not in str(caught.value)


def test_digits_split_and_constants():
    data = load_data(config("digits"))
    assert (len(data.train), len(data.test), data.info.num_train) == (1437, 360, 1437)
    pixels = data.train.images.double() / 255
    assert data.info.mean[0] == pytest.approx(pixels.mean().item(), abs=1e-6)
    assert data.info.std[0] == pytest.approx(pixels.std(correction=0).item(), abs=1e-6)
    assert data.train.images.unique().tolist() == [(255 * v + 8) // 16 for v in range(17)]
    assert (data.pad, data.flip, data.info.evaluated_on) == (1, False, "test")
    assert data.test.labels.bincount().tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    every = torch.cat([data.train.images, data.test.images]).flatten(1)
    assert (
        len(every.unique(dim=0))
        == len(np.unique(read_digits(Path()).train.images.reshape(1437, -1), axis=0)) + 360
    )


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits  # takes a second

    train, test, _ = read_digits(Path())
    values, labels = load_digits(return_X_y=True)
    held = stratified(labels.astype(np.int64), 360, salt=0)
    for part, rows in ((train, ~held), (test, held)):
        assert np.array_equal(part.labels, labels[rows])
        assert np.array_equal(np.rint(part.images.reshape(-1, 64) * (16 / 255)), values[rows])


def test_holdout_leaves_the_test_set_alone():
    plain, held = load_data(config("digits")), load_data(config("digits", holdout=0.2, omit=[3], shots=5))
    assert held.info.evaluated_on == "holdout" and len(held.test) == 287
    assert held.info.labels.bincount(minlength=10).tolist() == [5, 5, 5, 0, 5, 5, 5, 5, 5, 5]
    assert torch.equal(held.info.labels, held.train.labels) and held.info.num_train == 45
    rows = {tuple(image.flatten().tolist()) for image in plain.test.images}
    assert not any(tuple(image.flatten().tolist()) in rows for image in held.test.images)
    index = torch.cat([b.index for b in held.source(16, 0).epoch(1)])
    assert sorted(index.tolist()) == list(range(45))


def test_padding_with_zeros_and_grey_to_colour():
    plain = load_data(config("digits"))
    wide = load_data(config("digits", size=32, in_chans=3, mean=[0.3] * 3, std=[0.4] * 3))
    assert wide.train.images.shape == (1437, 32, 32, 3)
    assert torch.equal(wide.train.images[:, 12:20, 12:20], plain.train.images.expand(-1, -1, -1, 3))
    assert wide.train.images.sum() == 3 * plain.train.images.sum()


# ---- files ----


def write_cifar100(root: Path, count: int = 200, classes: int = 100, **changes) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    random_bytes = np.random.RandomState(0).randint(0, 256, (count, 3072)).astype(np.uint8)
    content = {
        "data": random_bytes,
        "fine_labels": [i % classes for i in range(count)],
        "filenames": ["x"] * count,
    }
    for split in ("train", "test"):
        (folder / split).write_bytes(pickle.dumps({**content, **changes}, protocol=4))
    (folder / "meta").write_bytes(
        pickle.dumps({b"fine_label_names": [str(k) for k in range(100)]}, protocol=2)
    )
    return folder


def test_cifar_layouts(tmp_path):
    folder = write_cifar100(tmp_path)
    arrays = read_cifar100(tmp_path, counts=(200, 200))
    raw = read_pickle(folder / "train")["data"]
    assert arrays.train.images.shape == (200, 32, 32, 3) and arrays.train.labels[101] == 1
    assert arrays.train.images[7, 3, 4].tolist() == [raw[7, c * 1024 + 3 * 32 + 4] for c in range(3)]
    ten = tmp_path / "cifar-10-batches-py"
    ten.mkdir()
    for b, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        content = {b"data": np.full((10, 3072), b, np.uint8), b"labels": list(range(10))}
        (ten / name).write_bytes(pickle.dumps(content, protocol=2))
    (ten / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    arrays = read_cifar10(tmp_path, counts=(10, 10))
    assert arrays.train.images[:, 0, 0, 0].tolist() == np.repeat(range(5), 10).tolist()
    assert arrays.test.images.max() == arrays.test.images.min() == 5 and arrays.class_names[9] == "j"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"data": np.zeros((200, 3072))}, "should be uint8"),
        ({"data": np.zeros((199, 3072), np.uint8)}, r"\[199, 3072\]"),
        ({"data": None}, "NoneType"),
        ({"fine_labels": [100] * 200}, "from 0 to 99"),
        ({"fine_labels": [0] * 199}, "200 numbers"),
        ({"fine_labels": None}, "200 numbers"),
    ],
)
def test_cifar_with_wrong_content(tmp_path, changes, text):
    write_cifar100(tmp_path, **changes)
    with pytest.raises(ValueError, match=text) as caught:
        read_cifar100(tmp_path, counts=(200, 200))
    assert "cifar-100-python/train" in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_age(tmp_path, protocol):
    value = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2]}
    (tmp_path / "p").write_bytes(pickle.dumps(value, protocol=protocol))
    content = read_pickle(tmp_path / "p")
    assert np.array_equal(content["data"], value["data"]) and content["labels"] == [1, 2]


def test_python_2_pickle(tmp_path):
    old = (
        b"(dp0\nS'data'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\n"
        b"Rp7\n(I1\n(I1\nI3\ntp8\ncnumpy\ndtype\np9\n(S'u1'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'|'\np13\nNNNI-1\nI-1\nI0\n"
        b"tp14\nbI00\nS'\\x00\\x80\\xff'\np15\ntp16\nbs."
    )
    (tmp_path / "p").write_bytes(old)
    assert read_pickle(tmp_path / "p")["data"].tolist() == [[0, 128, 255]]


class Hostile:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("call", [os.mkdir, eval, getattr, np.load, np.fromfile])
def test_hostile_pickle_is_refused_and_runs_nothing(tmp_path, call):
    target = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(target)!r})" if call is eval else str(target)
    (tmp_path / "train").write_bytes(pickle.dumps({"data": Hostile(call, argument)}))
    with pytest.raises(ValueError, match="could run code") as caught:
        read_pickle(tmp_path / "train")
    assert str(tmp_path / "train") in str(caught.value) and not target.exists()


def test_codec_that_is_not_latin1_is_refused(tmp_path):
    import codecs

    (tmp_path / "p").write_bytes(pickle.dumps({"data": Hostile(codecs.encode, "x", "zlib")}, protocol=2))
    with pytest.raises(ValueError, match="codec 'zlib'"):
        read_pickle(tmp_path / "p")


def test_damaged_pickles(tmp_path):
    whole = (write_cifar100(tmp_path) / "train").read_bytes()
    for blob in (b"", whole[:1000], b"\x00" * 100, b"<html>not found</html>", pickle.dumps([1])):
        (tmp_path / "bad").write_bytes(blob)
        with pytest.raises(ValueError, match="bad.*put a good copy there") as caught:
            read_pickle(tmp_path / "bad")
        assert "\n" not in str(caught.value)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_layouts_plain_and_gzipped(tmp_path, name, folder):
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    images = np.random.RandomState(0).randint(0, 256, (20, 28, 28)).astype(np.uint8)
    labels = (np.arange(20) % 10).astype(np.uint8)
    for stem in ("train", "t10k"):
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    data = load_data(config(name, root=str(tmp_path)))
    assert data.train.images.shape == (20, 32, 32, 1)
    assert np.array_equal(data.train.images[:, 2:30, 2:30, 0], images)
    assert data.train.images.sum().item() == images.sum() and data.test.labels.tolist() == labels.tolist()
    assert (data.pad, data.flip) == ((2, False) if name == "mnist" else (4, True))


def test_damaged_idx_files(tmp_path):
    whole = idx(np.zeros((2, 3, 3), np.uint8))
    for blob in (
        b"",
        whole[:-1],
        whole + b"x",
        whole[:10],
        b"\x01" + whole[1:],
        idx(np.zeros((2, 3), np.uint8)),
    ):
        (tmp_path / "images").write_bytes(blob)
        with pytest.raises(ValueError, match="images: not a whole idx file"):
            read_idx(tmp_path / "images", dims=3)
    (tmp_path / "labels.gz").write_bytes(gzip.compress(whole)[:-12])
    with pytest.raises(ValueError, match="labels.gz: not a whole gzip"):
        read_idx(tmp_path / "labels", dims=3)


def test_no_files_and_no_network_is_one_sentence(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", offline)
    with pytest.raises(ValueError) as caught:
        load_data(config("cifar100", root=str(tmp_path / "new")))
    text = str(caught.value)
    assert f"put cifar-100-python/{{train,test,meta}} under {tmp_path / 'new'}" in text
    assert "Name or service not known" in text and "\n" not in text


def test_download_happens_once_beside_its_place(tmp_path, monkeypatch):
    seen = []

    def fake(root, train, download):
        assert (
            train
            and download
            and Path(root).parent == tmp_path
            and not (tmp_path / "cifar-100-python").exists()
        )
        seen.append(write_cifar100(Path(root)))

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", fake)
    monkeypatch.setitem(
        readers_module.READERS, "cifar100", lambda root: read_cifar100(root, counts=(200, 200))
    )
    for _ in range(2):
        assert load_data(config("cifar100", root=str(tmp_path))).info.num_train == 200
    assert len(seen) == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == ["cifar-100-python"]


def test_download_completes_a_half_filled_folder_and_keeps_what_is_there(tmp_path, monkeypatch):
    folder = write_cifar100(tmp_path)
    kept = (folder / "train").read_bytes()
    (folder / "meta").unlink()
    monkeypatch.setattr(
        torchvision.datasets, "CIFAR100", lambda root, train, download: write_cifar100(Path(root), 100)
    )
    monkeypatch.setitem(
        readers_module.READERS, "cifar100", lambda root: read_cifar100(root, counts=(200, 200))
    )
    assert load_data(config("cifar100", root=str(tmp_path))).info.num_train == 200
    assert (folder / "train").read_bytes() == kept


@real_data
@pytest.mark.parametrize(
    ("name", "train", "mean_tolerance"), [("cifar10", 50_000, 2e-3), ("cifar100", 50_000, 2e-3)]
)
def test_real_files(name, train, mean_tolerance):
    data = load_data(config(name))
    assert (len(data.train), len(data.test)) == (train, 10_000)
    assert data.info.labels.bincount().unique().numel() == 1
    mean = (data.train.images.double().mean((0, 1, 2)) / 255).tolist()
    assert mean == pytest.approx(data.info.mean, abs=mean_tolerance)


# ---- folders ----


def write_folder(root: Path, parts=("train", "val"), classes=("cat", "dog", "eel"), count: int = 4) -> Path:
    draw = np.random.RandomState(0)
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                shape = (int(draw.randint(20, 60)), int(draw.randint(20, 60)), 3)
                Image.fromarray(draw.randint(0, 256, shape).astype(np.uint8)).save(
                    root / part / name / f"{i}.png"
                )
    return root


def folder_config(root: Path, **changes) -> DataSpec:
    return config("folder", **{"root": str(root), "size": 14, "workers": 0, "name": "pets", **changes})


def test_folder_batches_do_not_depend_on_workers_or_resume(tmp_path):
    write_folder(tmp_path)
    alone = load_data(folder_config(tmp_path)).source(5, seed=1)
    helped = load_data(folder_config(tmp_path, workers=2)).source(5, seed=1)
    for epoch in (1, 2):
        one, two = list(alone.epoch(epoch)), list(helped.epoch(epoch))
        assert [len(b.labels) for b in one] == [5, 5, 2]
        for a, b in zip(one, two, strict=True):
            assert (
                torch.equal(a.inputs, b.inputs)
                and torch.equal(a.index, b.index)
                and torch.equal(a.labels, b.labels)
            )
        tail = list(helped.epoch(epoch, start=1))
        assert len(tail) == 2 and torch.equal(tail[1].inputs, one[2].inputs)
    assert not torch.equal(next(alone.epoch(1)).index, next(alone.epoch(2)).index)
    assert helped.waits.take() > 0 and helped.replace(last_batch="drop").steps == 2


def test_a_folder_has_as_many_workers_as_this_process_has_processors(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.cores.cores", lambda: 3)
    assert folder_config(tmp_path, workers="auto").workers == 3
    monkeypatch.setattr("distill.cores.cores", lambda: 64)
    assert folder_config(tmp_path, workers="auto").workers == 8
    for processes, each in (("1", 8), ("16", 4), ("100", 1)):  # of torchrun, on this machine
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert folder_config(tmp_path, workers="auto").workers == each


def test_epochs_of_a_folder_that_are_begun_early_or_read_at_once_are_the_same(tmp_path):
    """Workers begin an epoch while the one before is measured; packed runs come to one source in turn."""
    data = load_data(folder_config(write_folder(tmp_path), workers=1))
    plain = load_data(folder_config(tmp_path)).source(5, seed=1)
    source = data.source(5, seed=1)
    wanted = {epoch: [batch.inputs for batch in plain.epoch(epoch)] for epoch in (1, 2)}

    def same(batches, epoch):
        return all(torch.equal(a.inputs, b) for a, b in zip(batches, wanted[epoch], strict=True))

    source.read_ahead(2)
    assert same(source.epoch(1), 1)  # another one was asked for
    source.read_ahead(2)
    data.begin_evaluation(5)
    evaluated = [torch.cat([images for images, _ in data.evaluation(5)]) for _ in range(2)]
    assert torch.equal(evaluated[0], evaluated[1]) and len(evaluated[0]) == 12
    one, two = [], []
    for a, b in zip(source.epoch(2), source.epoch(2), strict=True):
        one.append(a)
        two.append(b)
    assert same(one, 2) and same(two, 2) and same(source.epoch(1), 1)


def test_packed_runs_read_each_image_of_a_folder_once(tmp_path, monkeypatch):
    shared = SharedFolder(**load_data(folder_config(write_folder(tmp_path))).source(5, seed=1).settings)
    plain = [[batch.inputs for batch in FolderSource(**shared.settings).epoch(epoch)] for epoch in (1, 2)]
    reads, read = [], Images.__getitem__
    monkeypatch.setattr(Images, "__getitem__", lambda images, key: reads.append(key) or read(images, key))
    in_step, behind, seen = [shared.epoch(1), shared.epoch(1)], shared.epoch(1), [[], [], []]
    for step in range(3):
        for place, loop in zip(seen, [*in_step, *([behind] if step else [])], strict=False):
            place.append(next(loop))
    assert len(reads) == 12 + 10  # the third is one step behind the others
    seen[2].append(next(behind))
    assert len(reads) == 22  # it has caught up with them
    for place in seen:
        assert all(torch.equal(a.inputs, b) for a, b in zip(place, plain[0], strict=True))
    for loops in zip(shared.epoch(2), shared.epoch(2), plain[1], strict=True):
        assert torch.equal(loops[0].inputs, loops[2]) and loops[0].inputs is loops[1].inputs
    assert len(reads) == 34


def test_packed_runs_out_of_step_get_their_own_batches_where_all_lie_in_one_place(tmp_path):
    settings = load_data(folder_config(write_folder(tmp_path))).source(5, seed=1).settings
    first, second, _ = (batch.inputs for batch in FolderSource(**settings).epoch(1))
    shared = SharedFolder(**settings, prepare=StaticBuffers())
    one, other, behind = (shared.epoch(1) for _ in range(3))
    assert all(torch.equal(next(loop).inputs, first) for loop in (one, other))
    for loop, inputs in ((one, second), (behind, first), (other, second)):
        assert torch.equal(next(loop).inputs, inputs)


def test_folder_info_and_evaluation(tmp_path):
    data = load_data(folder_config(write_folder(tmp_path)))
    assert (data.info.name, data.info.num_classes, data.info.class_names) == (
        "pets",
        3,
        ["cat", "dog", "eel"],
    )
    assert data.info.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    images, labels = (torch.cat(x) for x in zip(*data.evaluation(5), strict=True))
    image = Image.open(tmp_path / "val" / "cat" / "2.png")
    transform = v2.Compose([v2.Resize(16), v2.CenterCrop(14)])
    pixels = torchvision.transforms.functional.to_tensor(transform(image))
    expected = torchvision.transforms.functional.normalize(pixels, data.info.mean, data.info.std)
    assert torch.equal(images[2], expected) and labels.tolist() == data.info.labels.tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_folder_leaves_the_global_generator_alone(tmp_path, workers):
    data = load_data(folder_config(write_folder(tmp_path), workers=workers))
    before = torch.get_rng_state()
    assert len(list(data.source(5, seed=1).epoch(1))) == len(list(data.evaluation(5))) == 3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(50, 33), (33, 50), (40, 40), (224, 500)])
def test_evaluation_view_is_torchvisions(shape):
    image = Image.fromarray(np.random.RandomState(1).randint(0, 256, (*shape, 3)).astype(np.uint8))
    expected = v2.Compose([v2.Resize(36), v2.CenterCrop(32)])(image)
    assert np.array_equal(np.array(evaluation_view(image, 32)), np.array(expected))


def test_random_crops_cover_the_stated_range():
    draw = random.Random(0)
    boxes = np.array([random_crop(100, 80, draw) for _ in range(3000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, aspect = width * height / 8000, width / height
    assert boxes.min() == 0 and boxes[:, 2].max() == 100 and boxes[:, 3].max() == 80
    assert (
        0.07 < area.min() < 0.1
        and area.max() > 0.95
        and 0.7 < aspect.min() < 0.8
        and 1.25 < aspect.max() < 1.4
    )
    assert random_crop(1000, 10, draw) == (493, 0, 506, 10)


def test_folder_holdout_needs_no_val(tmp_path):
    write_folder(tmp_path, parts=("train",))
    data = load_data(folder_config(tmp_path, holdout=0.25, shots=2))
    assert data.info.evaluated_on == "holdout" and data.info.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(data.test) == 3 and not set(data.test.paths) & set(data.train.paths)


def test_folder_errors(tmp_path):
    with pytest.raises(ValueError, match="train: there is no such folder"):
        load_data(folder_config(tmp_path))
    write_folder(tmp_path, parts=("train",))
    with pytest.raises(ValueError, match="val: there is no such folder"):
        load_data(folder_config(tmp_path))
    write_folder(tmp_path, parts=("val",), classes=("cat", "dog"))
    with pytest.raises(ValueError, match="different classes .eel is in train alone"):
        load_data(folder_config(tmp_path))
    (tmp_path / "val" / "eel").mkdir()
    with pytest.raises(ValueError, match="eel") as caught:
        load_data(folder_config(tmp_path))
    assert "val" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="has 3 classes"):
        load_data(folder_config(tmp_path, num_classes=4))
    with pytest.raises(ValueError, match="1 or 3"):
        load_data(folder_config(tmp_path, in_chans=4))
    with pytest.raises(ValueError, match="workers=-1"):
        load_data(folder_config(tmp_path, workers=-1))


@pytest.mark.parametrize("workers", [0, 1])
def test_undecodable_image_is_named(tmp_path, workers):
    write_folder(tmp_path)
    bad = tmp_path / "train" / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:200])
    text = ""
    try:  # pytest.raises would keep the frames, and so the workers, alive until garbage is collected
        list(load_data(folder_config(tmp_path, workers=workers)).source(4, seed=0).epoch(1))
    except ValueError as error:
        text = str(error)
    assert f"{bad} cannot be decoded" in text and "\n" not in text


# ---- configuration ----


@pytest.mark.parametrize("path", sorted((CONF / "dataset").glob("*.yaml")), ids=lambda p: p.stem)
def test_dataset_files_hold_every_key(path):
    cfg = node(path.stem)
    assert {
        "name",
        "root",
        "num_classes",
        "in_chans",
        "size",
        "mean",
        "std",
        "pad",
        "flip",
        "holdout",
        "shots",
        "omit",
        "fraction",
    } <= set(cfg)
    assert cfg["name"] == path.stem and len(cfg["mean"]) == len(cfg["std"]) == cfg["in_chans"]
    assert all(isinstance(v, float) for v in [*cfg["mean"], *cfg["std"], cfg["holdout"], cfg["fraction"]])
    assert (CONF / "schedule" / path.name).exists()


MORE = {*OmegaConf.load(CONF / "config.yaml").schedule, "rule", "resize", "crop", "zero_head"}  # null where not named
OTHERS = ("paper", "cifar10", "cifar100")  # look values up, or take crd's over
SCHEDULES = sorted(path for path in (CONF / "schedule").glob("*.yaml") if path.stem not in OTHERS)


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda p: p.stem)
def test_schedule_files_hold_every_key(path):
    cfg = OmegaConf.to_container(load_node("schedule", path.stem))
    cfg = cfg.get("schedule", cfg)
    if set(cfg) == {"defaults"}:  # nothing but another's
        assert (path.parent / f"{cfg['defaults'][0]}.yaml").exists()
        return
    assert set(cfg) - MORE == {
        "name",
        "epochs",
        "batch_size",
        "optimizer",
        "lr",
        "milestones",
        "gamma",
        "warmup_epochs",
        "init_epochs",
        "decay",
    }
    numbers = [cfg[key] for key in ("lr", "gamma") if "${" not in str(cfg[key])]
    assert all(isinstance(v, float) for v in [*numbers, cfg["optimizer"]["weight_decay"]])
    assert cfg["milestones"] == sorted(cfg["milestones"])
    assert "by_pair" in str(cfg["epochs"]) or all(m < cfg["epochs"] for m in cfg["milestones"])
    assert cfg["milestones"] or cfg["decay"] != "step"


def test_the_crd_protocol():
    cfg = OmegaConf.to_container(OmegaConf.load(CONF / "schedule" / "crd.yaml"))
    for name in ("cifar10", "cifar100"):
        assert OmegaConf.load(CONF / "schedule" / f"{name}.yaml") == {"defaults": ["crd"]}
    assert cfg == {
        "name": "crd",
        "epochs": 240,
        "batch_size": 64,
        "lr": 0.05,
        "lr_scales": {"cifar_MobileNetV2": 0.2, "cifar_ShuffleV1": 0.2, "cifar_ShuffleV2": 0.2},
        "milestones": [150, 180, 210],
        "gamma": 0.1,
        "decay": "step",
        "warmup_epochs": 0,
        "init_epochs": 30,
        "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0005},
    }
    data = node("cifar100")
    assert (data["mean"], data["std"], data["pad"], data["flip"]) == ([*MEAN], [*STD], 4, True)
