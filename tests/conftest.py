"""One thread and no trackers for every test; numbers must not depend on how many cores there are."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["DISTILL_CACHE"] = tempfile.mkdtemp(prefix="distill-cache-")
os.environ.pop("HYDRA_FULL_ERROR", None)
if "DISTILL_TESTS_COMPOSITIONS" not in os.environ:  # those that the first process starts share its folder
    os.environ["DISTILL_TESTS_COMPOSITIONS"] = tempfile.mkdtemp(prefix="distill-compositions-")
    atexit.register(shutil.rmtree, os.environ["DISTILL_TESTS_COMPOSITIONS"], ignore_errors=True)
atexit.register(shutil.rmtree, os.environ["DISTILL_CACHE"], ignore_errors=True)

gc.disable()  # until everything is imported

pytest_plugins = ["tests.browsing"]


def pytest_collection_finish() -> None:
    """What was imported stays: the collector, an eighth of the time of all tests, need not look at it again."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # some packages tell of whatever is left when Python ends


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _disk_is_not_waited_for() -> None:
    """What is written outlives any process as it is; only of a power cut does fsync save it."""
    os.fsync = lambda handle: None


@pytest.fixture(autouse=True, scope="session")
def _files_are_parsed_once() -> None:
    from tests.compositions import compose_once

    compose_once()


@pytest.fixture(autouse=True)
def _no_folder_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test gives as --config-dir is not looked into by the next one."""
    from distill.config import groups

    monkeypatch.setattr(groups, "_own", [])


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An empty folder for `output=...`."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder
