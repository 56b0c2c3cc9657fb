"""What the command line composes, composed once for all processes of a test run: 60 ms of CPU, or less than one."""

from __future__ import annotations

import hashlib
import os
import pickle
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from distill import config
from distill.sweep import add_launchers

FOLDER = "DISTILL_TESTS_COMPOSITIONS"  # set by conftest.py, and inherited by the processes that tests start


def composed(*overrides: str) -> DictConfig:
    """Return the configuration that `python -m distill OVERRIDES` would run, to do with as one likes."""
    config.register()  # another process may have composed it
    found: DictConfig = pickle.loads(_pickled(*overrides))
    return found


@cache
def _pickled(*overrides: str) -> bytes:
    if FOLDER not in os.environ:
        return _anew(*overrides)
    file = Path(os.environ[FOLDER], hashlib.sha256("\n".join(overrides).encode()).hexdigest())
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}")
        part.write_bytes(_anew(*overrides))
        part.replace(file)
    return file.read_bytes()


def _anew(*overrides: str) -> bytes:
    config.register()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return pickle.dumps(compose("config", list(overrides)))


def parse_once() -> None:
    """Let Hydra keep what it parsed: it reads each file of conf/ anew for every composition, a third of the time."""
    add_launchers()
    Plugins.instance()  # imports its plugins, the source of files among them, a second time
    source: Any = SourcesRegistry.instance().resolve("file")
    parse = source.load_config

    @cache
    def parsed(folder: str, config_path: str, changed: int) -> bytes:
        return pickle.dumps(parse(source("tests", f"file://{folder}"), config_path))

    def load_config(self: Any, config_path: str) -> Any:
        file = Path(self.path, self._normalize_file_name(config_path))
        if not file.exists():
            return parse(self, config_path)
        found = pickle.loads(parsed(self.path, config_path, file.stat().st_mtime_ns))  # faster than a copy
        found.provider = self.provider
        return found

    source.load_config = load_config
