"""A start lists a folder once, whoever asks; the next start sees what has changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distill import config
from distill.config.by_size import count_of
from distill.content import listing
from distill.content.index import train_indexed
from distill.content.memo import files_unchanged
from distill.data import load_data
from tests.compositions import composed
from tests.data.test_data import write_folder


def test_schedule_hash_and_data_list_each_part_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    root, asked = write_folder(tmp_path / "pets"), []
    whole = listing._listed
    monkeypatch.setattr(listing, "_listed", lambda folder, *more: asked.append(folder) or whole(folder, *more))
    words = ["method=none", "dataset=folder", f"dataset.root={root}", "dataset.size=14", "dataset.workers=0"]
    with files_unchanged():
        load_data(config.resolve(composed(*words)).dataset)
    assert sorted(asked) == [root / "train", root / "val"]


def test_what_is_added_is_seen_by_the_next_start_and_not_in_the_middle_of_one(tmp_path: Path) -> None:
    root = write_folder(tmp_path, count=2)
    cfg = composed("method=none", "dataset=folder", f"dataset.root={root}")
    with files_unchanged():
        first = train_indexed(root)
        shutil.copy(root / "train" / "cat" / "0.png", root / "train" / "cat" / "new.png")
        with files_unchanged():
            assert train_indexed(root) is first and count_of(cfg) == 6
        with files_unchanged(fresh=True):
            assert len(train_indexed(root).seen) == count_of(cfg) == 7
        assert train_indexed(root) is first
    assert count_of(cfg) == 7
