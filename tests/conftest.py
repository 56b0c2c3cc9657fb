"""One thread and no trackers for every test; numbers must not depend on how many cores there are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["DISTILL_CACHE"] = tempfile.mkdtemp(prefix="distill-cache-")
os.environ.pop("HYDRA_FULL_ERROR", None)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An empty folder for `output=...`."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder
