"""Several processes on a folder: each reads the images of its part alone, and sees what it would of whole batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import parallel
from distill.batch import Batch
from distill.data import load_data
from distill.data.pairs import Partners, PeerViews
from distill.data.tasks import ClassSource
from distill.data.views import Images
from distill.parallel import PartSource
from tests.data.test_data import folder_config, write_folder

WHOLE = ({"mixup": 0.8}, {"cutmix": 1.0}, {"erasing": 0.9})  # need the images of the other parts, or their draws
OWN = ({}, {"crops": 2, "sizes": [10]}, {"drawn": 2}, {"repeats": 2}, {"last_batch": "merge"}, {"per_class": 2})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 images of 3 classes."""
    return write_folder(tmp_path_factory.mktemp("pets"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions of the images that are read."""
    seen: list[int] = []
    read = Images.__getitem__
    monkeypatch.setattr(Images, "__getitem__", lambda images, key: seen.append(key[0]) or read(images, key))
    return seen


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Be one of two processes."""
    monkeypatch.setattr(parallel, "world", lambda: 2)
    return lambda number: monkeypatch.setattr(parallel, "rank", lambda: number)


def source_of(root: Path, batch: int = 5, workers: int = 0, **options: Any) -> Any:
    return load_data(folder_config(root, workers=workers)).source(batch, seed=1, **options)


def same(one: Batch, two: Batch) -> bool:
    alike = one.views.keys() == two.views.keys() and one.inputs.stride()[1:] == two.inputs.stride()[1:]
    pairs = [(getattr(one, name), getattr(two, name)) for name in ("inputs", "labels", "index", "truth")]
    pairs += [(view, two.views[name]) for name, view in one.views.items()]
    return alike and all(torch.equal(a, b) for a, b in pairs)


def check_parts(make: Callable[[], Any], process: Callable[[int], None]) -> None:
    """Each process's parts, from the second epoch and from its second step on, are cut from the whole batches."""
    for number in range(2):
        process(number)
        for start in (0, 1):
            whole, parts = list(make().epoch(2, start)), PartSource(make())
            for step, (batch, seen) in enumerate(zip(whole, parts.epoch(2, start), strict=True), start):
                assert same(seen, parallel.part(batch, number, 2)), (number, step)
                assert parallel.whole_size(seen) == len(batch) and parallel._BatchShare.own == len(seen)


@pytest.mark.parametrize("options", [*OWN, *WHOLE], ids=str)
def test_the_part_of_a_process_is_bit_for_bit_that_of_the_whole_batch(options, root, process) -> None:
    check_parts(lambda: source_of(root, 4 if "per_class" in options else 5, **options), process)


@pytest.mark.parametrize("view", [Partners, lambda source: PeerViews(source, 2), lambda s: ClassSource(s, [0, 2])])
def test_images_beside_those_of_a_part_are_those_beside_the_whole_batch(view, root, process) -> None:
    check_parts(lambda: view(source_of(root)), process)


@pytest.mark.parametrize("options", OWN, ids=str)
def test_each_process_reads_the_images_of_its_part_alone(options, root, process, reads) -> None:
    source = source_of(root, 4 if "per_class" in options else 5, **options)
    whole = [batch.index.tolist() for batch in source.epoch(1)]
    for number in range(2):
        process(number)
        reads.clear()
        list(PartSource(source).epoch(1))
        assert reads == [i for batch in whole for i in batch[number::2]]
    reads.clear()
    list(source.epoch(1))  # what asks the source itself, as for a teacher's class means, has whole batches
    assert len(reads) == sum(map(len, whole))


def test_views_of_a_part_are_read_for_its_images_alone(root, process, reads) -> None:
    process(1)
    list(PartSource(PeerViews(source_of(root), 2)).epoch(1))
    assert len(reads) == 3 * (2 + 2 + 1)


@pytest.mark.parametrize("options", WHOLE, ids=str)
def test_what_needs_the_whole_batch_reads_it(options, root, process, reads) -> None:
    process(1)
    list(PartSource(source_of(root, **options)).epoch(1))
    assert len(reads) == 12


def test_an_epoch_of_a_part_that_is_begun_early_is_no_epoch_of_the_whole(root, process) -> None:
    process(0)
    source, wanted = source_of(root, workers=1), [batch.index for batch in source_of(root).epoch(2)]
    parts = PartSource(source)
    parts.read_ahead(2)
    assert all(torch.equal(seen.index, i[::2]) for seen, i in zip(parts.epoch(2), wanted, strict=True))
    parts.read_ahead(2)
    assert all(torch.equal(seen.index, i) for seen, i in zip(source.epoch(2), wanted, strict=True))


def test_a_batch_of_fewer_images_than_processes_is_refused(root, monkeypatch) -> None:
    monkeypatch.setattr(parallel, "rank", lambda: 0)
    source = source_of(root)
    monkeypatch.setattr(parallel, "world", lambda: 6)
    with pytest.raises(ValueError, match="a batch of 5 images cannot be shared by 6 processes"):
        next(PartSource(source).epoch(1))
