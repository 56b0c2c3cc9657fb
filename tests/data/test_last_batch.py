"""What becomes of the images that an epoch's last batch lacks."""

from __future__ import annotations

import pytest
import torch

from distill import config, parallel
from distill.config.check import check
from distill.data import load_data
from distill.data.augment import Augment
from distill.data.order import cut_up
from distill.data.strong import StrongSource
from distill.method import refuse
from tests import tiny
from tests.data.test_data import folder_config, toy, write_folder


@pytest.mark.parametrize(("mode", "count", "expected"), [
    ("keep", 97, (7, 97)), ("drop", 97, (6, 96)), ("merge", 97, (6, 97)), ("auto", 97, (6, 97)),
    ("auto", 98, (7, 98)), ("merge", 98, (6, 98)), ("merge", 96, (6, 96)), ("auto", 1, (1, 1)), ("merge", 5, (1, 5)),
])  # fmt: skip
def test_steps_and_end(mode, count, expected):
    assert cut_up(count, 16, mode) == expected


def test_auto_leaves_no_process_a_single_image(monkeypatch):
    monkeypatch.setattr(parallel, "world", lambda: 4)
    assert cut_up(96 + 7, 16, "auto") == (6, 103) and cut_up(96 + 8, 16, "auto") == (7, 104)
    with pytest.raises(ValueError, match="ends in a batch of 3, which 4 processes cannot share: give schedule.last_ba"):
        cut_up(96 + 3, 16, "keep")  # and not where the first epoch has come to it


@pytest.mark.parametrize("mode", ["keep", "drop", "merge"])
def test_each_image_once_in_whole_batches_alike(mode):
    source, kept = toy(count=50, batch_size=16, last_batch=mode), toy(count=50, batch_size=16)
    batches = list(source.epoch(1))
    assert [len(b.labels) for b in batches] == {"keep": [16, 16, 16, 2], "drop": [16] * 3, "merge": [16, 16, 18]}[mode]
    whole = torch.cat([b.inputs for b in kept.epoch(1)])
    assert torch.equal(whole[: source.end], torch.cat([b.inputs for b in batches]))
    assert torch.equal(next(source.epoch(1, start=2)).inputs, batches[2].inputs)


def test_a_merged_batch_of_augmented_images_is_that_of_two():
    augment = Augment(8, rotate=20, operations=2, fill=(1, 2, 3))
    merged, kept = (toy(count=50, batch_size=16, augment=augment, last_batch=mode) for mode in ("merge", "keep"))
    assert torch.equal(*(torch.cat([b.inputs for b in each.epoch(2)]) for each in (merged, kept)))


def test_a_merged_batch_has_its_strong_views():
    *_, last = StrongSource(toy(count=33, batch_size=16, last_batch="auto")).epoch(1)
    assert last.views["strong"].shape == last.inputs.shape and len(last.labels) == 17


def test_folders_merge_too(tmp_path):
    source = load_data(folder_config(write_folder(tmp_path))).source(11, seed=1, last_batch="auto")
    assert [len(b.labels) for b in source.epoch(1)] == [12]


def test_the_key_is_in_the_hash_but_for_what_null_stands_for():
    plain, auto, keep = (tiny.composed("method=none", *more) for more in (
        [], ["schedule.last_batch=auto"], ["schedule.last_batch=keep"]))  # fmt: skip
    hashes = [config.identity(cfg)["hash"] for cfg in (plain, auto, keep)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("overrides", [["method=semckd"], ["method=mcl"]])
def test_methods_of_whole_batches_say_so(overrides):
    cfg = tiny.composed(*overrides, "schedule.last_batch=merge")
    with pytest.raises(ValueError, match="takes whole batches alone"):
        check(cfg)
    check(tiny.composed(*overrides, "schedule.last_batch=drop"))


def test_a_methods_own_drop_last_rules_out_another_wish():
    kind = config.class_of(config.load_node("method", "avg-multi-teacher"))
    refuse(kind, "avg-multi-teacher", {"last_batch": "keep"}, settings={"drop_last": False})
    with pytest.raises(ValueError, match="method.drop_last=true"):
        refuse(kind, "avg-multi-teacher", {"last_batch": "keep"}, settings={"drop_last": True})
