"""Configurations as Hydra composes them, less Hydra's own node: what is composed for each job of a large sweep.

Hydra merges a dozen files of its own into every configuration and reads all YAML files anew; a job needs neither. The
files are read once, and the lists of defaults are made, and merged, by Hydra itself.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf


def composes(loader: Any) -> bool:
    """Whether a loader is Hydra's, whose parts are used here."""
    return isinstance(loader, ConfigLoaderImpl)


class LeanLoader:
    """Composes by a loader of Hydra's (`config_loader` of an initialised Hydra); it remembers the files."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._parser = OverridesParser.create()
        self._files: dict[tuple[str, ...], _Files] = {}

    def compose(self, name: str, overrides: Sequence[str]) -> DictConfig:
        """The configuration of `<name>.yaml` and overrides, without a `hydra` node. Raises what Hydra's loader does."""
        parsed = self._parser.parse_overrides(list(overrides))
        paths = [item for item in parsed if item.get_key_element() == "hydra.searchpath"]
        files: Any = self._found(name, paths).fresh()
        own = [item for item in parsed if not item.is_hydra_override()]
        listed = create_defaults_list(
            repo=cast(Any, files), config_name=name, overrides_list=own, prepend_hydra=False, skip_missing=False
        )
        cfg: DictConfig = self._loader._compose_config_from_defaults_list(defaults=listed.defaults, repo=files)
        OmegaConf.set_struct(cfg, True)
        self._loader._apply_overrides_to_config(listed.config_overrides, cfg)
        return cfg

    def _found(self, name: str, searchpath: Sequence[Any]) -> _Files:
        """The files that Hydra finds for a configuration; those of an own folder among them."""
        key = (name, *(str(item.input_line) for item in searchpath))
        if key not in self._files:
            lines = [str(item.input_line) for item in searchpath]
            self._files[key] = _Files(self._loader._parse_overrides_and_create_caching_repo(name, lines)[1], {})
        return self._files[key]


class _Files:
    """A repository of Hydra's whose files are read once, and have nothing of Hydra's in them."""

    def __init__(self, repository: Any, known: dict[str, Any]) -> None:
        self._repository, self._known = repository, known
        self._copies: dict[str, Any] = {}  # of one composition, which takes them to pieces

    def fresh(self) -> _Files:
        """The same for one composition."""
        return _Files(self._repository, self._known)

    def load_config(self, config_path: str) -> Any:
        """The file and its list of defaults, as Hydra reads them."""
        if config_path not in self._known:
            self._known[config_path] = _without_hydra(self._repository.load_config(config_path=config_path))
        if config_path not in self._copies:
            self._copies[config_path] = copy.deepcopy(self._known[config_path])
        return self._copies[config_path]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)


def _without_hydra(read: Any) -> Any:
    if read is None:
        return None
    found = copy.deepcopy(read)
    defaults = found.defaults_list or []
    found.defaults_list = [item for item in defaults if not str(getattr(item, "group", "")).startswith("hydra")]
    if isinstance(found.config, DictConfig) and "hydra" in found.config:
        OmegaConf.set_struct(found.config, False)
        del found.config["hydra"]
    return found
