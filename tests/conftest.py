"""One thread and no trackers for every test; numbers must not depend on how many cores there are."""

from __future__ import annotations

import atexit
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


pytest_plugins = ["tests.browsing"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _files_are_parsed_once() -> None:
    from tests.compositions import parse_once

    parse_once()


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
