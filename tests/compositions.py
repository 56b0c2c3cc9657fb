"""What the command line composes, composed once for all processes of a test run: 60 ms of CPU, or a few."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import omegaconf._utils
import omegaconf.base
from hydra import initialize_config_dir
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import Overrides
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from distill import config
from distill.sweep import add_launchers, lean

FOLDER = "DISTILL_TESTS_COMPOSITIONS"  # set by conftest.py, and inherited by the processes that tests start


def composed(*overrides: str) -> DictConfig:
    """Return the configuration that `python -m distill OVERRIDES` would run, to do with as one likes."""
    config.register()  # another process may have composed it
    found: DictConfig = pickle.loads(_pickled(*overrides))
    return found


@cache
def _pickled(*overrides: str) -> bytes:
    return _kept("\n".join(overrides), lambda: _anew(*overrides))


def _anew(*overrides: str) -> DictConfig:
    config.register()
    return _loader().compose("config", overrides)


@cache
def _loader() -> lean.LeanLoader:
    """What composes the jobs of a sweep; it leaves Hydra's own node out, as `compose` does in the end."""
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return lean.LeanLoader(GlobalHydra.instance().config_loader())


def _kept(key: str, make: Callable[[], Any]) -> bytes:
    """What `make` returns, pickled: made once for all processes of a test run."""
    if FOLDER not in os.environ:
        return pickle.dumps(make())
    file = Path(os.environ[FOLDER], hashlib.sha256(key.encode()).hexdigest())
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}")
        part.write_bytes(pickle.dumps(make()))
        part.replace(file)
    return file.read_bytes()


def compose_once() -> None:
    """Let Hydra keep what it parsed and merged: all processes of a test run compose of the same files."""
    add_launchers()
    Plugins.instance()  # imports its plugins, the source of files among them, a second time
    _read_files_once()
    _parse_once()
    _merge_once()


def _read_files_once() -> None:
    """Ours, and those of Hydra's package: a third of the time, since each composition reads them anew."""
    for scheme in ("file", "pkg"):
        _read_once(SourcesRegistry.instance().resolve(scheme), scheme)


def _read_once(source: Any, scheme: str) -> None:
    parse = source.load_config

    @cache
    def parsed(place: str, config_path: str, changed: int) -> bytes:
        return pickle.dumps(parse(source("tests", f"{scheme}://{place}"), config_path))

    def load_config(self: Any, config_path: str) -> Any:
        file = Path(self.path, self._normalize_file_name(config_path))
        if scheme == "file" and not file.exists():
            return parse(self, config_path)
        changed = file.stat().st_mtime_ns if scheme == "file" else 0
        found = pickle.loads(parsed(self.path, config_path, changed))  # faster than a copy
        found.provider = self.provider
        return found

    source.load_config = load_config


def _parse_once() -> None:
    """Overrides are copied, since each is told its loader; the trees of interpolations are only read."""
    rule = cache(OverridesParser.parse_rule.__get__(OverridesParser.create()))
    OverridesParser.parse_rule = lambda self, text, name: copy.copy(rule(text, name))  # type: ignore[method-assign]
    omegaconf.base.parse = omegaconf._utils.parse = cache(omegaconf.base.parse)  # type: ignore[attr-defined]


class _Defaults(list[Any]):
    """Which files are merged, and the choices that lead to them."""

    choices = ""


class _Listed(SimpleNamespace):
    """What is asked of Hydra's DefaultsList; its tree (--info) is made anew."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.anew(), name)


def _merge_once() -> None:
    """Files are merged by the choices of groups alone; Hydra itself puts single values into the result."""
    list_defaults, merge = config_loader_impl.create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list
    listed: dict[str, bytes] = {}
    merged: dict[str, bytes] = {}

    def create_defaults_list(repo: Any, config_name: Any, overrides_list: Any, **how: Any) -> Any:
        overrides = Overrides(repo=repo, overrides_list=overrides_list)
        single = {id(item) for item in overrides.config_overrides}
        choices = [item.input_line for item in overrides_list if id(item) not in single]
        places = [(one.provider, one.path) for one in repo.get_sources()]
        key = repr((type(repo).__name__, config_name, choices, how, places))

        def anew() -> Any:
            return list_defaults(repo=repo, config_name=config_name, overrides_list=overrides_list, **how)

        if not _ours(places):
            return anew()
        if key not in listed:
            listed[key] = _kept(f"defaults of {key}", lambda: _of_list(anew()))
        defaults, known = pickle.loads(listed[key])
        found = _Defaults(defaults)
        found.choices = key
        overrides.known_choices = known
        return _Listed(
            defaults=found, config_overrides=overrides.config_overrides, overrides=overrides, anew=anew
        )

    def compose_config(self: Any, defaults: Any, repo: Any) -> Any:
        if not isinstance(defaults, _Defaults):
            return merge(self, defaults, repo)
        if defaults.choices not in merged:
            merged[defaults.choices] = _kept(defaults.choices, lambda: merge(self, defaults, repo))
        return pickle.loads(merged[defaults.choices])

    ConfigLoaderImpl._compose_config_from_defaults_list = compose_config  # type: ignore[method-assign]
    users: tuple[Any, ...] = config_loader_impl, lean
    for module in users:
        module.create_defaults_list = create_defaults_list


def _of_list(found: Any) -> Any:
    return found.defaults, found.overrides.known_choices


def _ours(places: list[tuple[str, str]]) -> bool:
    """Whether a search path is Hydra's and ours alone, whose files no test changes."""
    return {path for provider, path in places if provider == "main"} == {str(config.conf_dir())}
