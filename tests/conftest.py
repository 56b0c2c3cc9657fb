"""One thread and no trackers for every test; numbers must not depend on how many cores there are."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

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
def _files_are_parsed_once() -> Iterator[None]:
    """Hydra parses each file of conf/ anew in each of hundreds of compositions: a third of their time."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    parse = FileConfigSource.load_config

    @cache
    def parsed(folder: str, config_path: str, changed: int) -> Any:
        return parse(FileConfigSource("tests", f"file://{folder}"), config_path)

    def load_config(self: Any, config_path: str) -> Any:
        file = Path(self.path, self._normalize_file_name(config_path))
        if not file.exists():
            return parse(self, config_path)
        found = deepcopy(parsed(self.path, config_path, file.stat().st_mtime_ns))
        found.provider = self.provider
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileConfigSource, "load_config", load_config)
        yield


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An empty folder for `output=...`."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder
