"""Configurations as Hydra composes them, less Hydra's own node: what is composed for each job of a large sweep.

Hydra merges a dozen files of its own into every configuration and reads all YAML files anew; a job needs neither. The
files are read once, and the lists of defaults are made, and merged, by Hydra itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf


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
        files = self._found(name, paths)
        own = [item for item in parsed if not item.is_hydra_override()]
        listed = create_defaults_list(
            repo=cast(Any, files), config_name=name, overrides_list=own, prepend_hydra=False, skip_missing=False
        )
        cfg = self._merged(listed.defaults, files)
        OmegaConf.set_struct(cfg, True)
        self._loader._apply_overrides_to_config(listed.config_overrides, cfg)
        return cfg

    def _merged(self, defaults: Sequence[Any], files: _Files) -> DictConfig:
        """The files of a list of defaults, one over the other."""
        whole: dict[Any, Any] = {}
        try:
            for default in defaults:
                _put_over(whole, _below(default.package, files.plain(default.config_path)))
        except _NotPlainError:
            cfg: DictConfig = self._loader._compose_config_from_defaults_list(defaults=defaults, repo=files.copies())
            return cfg
        return OmegaConf.create(whole)

    def _found(self, name: str, searchpath: Sequence[Any]) -> _Files:
        """The files that Hydra finds for a configuration; those of an own folder among them."""
        key = (name, *(str(item.input_line) for item in searchpath))
        if key not in self._files:
            lines = [str(item.input_line) for item in searchpath]
            self._files[key] = _Files(self._loader._parse_overrides_and_create_caching_repo(name, lines)[1])
        return self._files[key]


class _Files:
    """A repository of Hydra's whose files are read once, and have nothing of Hydra's in them."""

    def __init__(self, repository: Any) -> None:
        self._repository = repository
        self._known: dict[str, Any] = {}
        self._plain: dict[str, Any] = {}

    def load_config(self, config_path: str) -> Any:
        """The file and its list of defaults, as Hydra reads them; both are only looked at."""
        if config_path not in self._known:
            self._known[config_path] = _without_hydra(self._repository.load_config(config_path=config_path))
        return self._known[config_path]

    def plain(self, config_path: str) -> dict[Any, Any]:
        """The file as plain Python, not resolved."""
        if config_path not in self._plain:
            config = self.load_config(config_path).config
            self._plain[config_path] = OmegaConf.to_container(config, resolve=False)
        found: dict[Any, Any] = self._plain[config_path]
        return found

    def copies(self) -> _Copies:
        """The same for one composition of Hydra's own, which takes the files to pieces."""
        return _Copies(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)


class _Copies:
    def __init__(self, files: _Files) -> None:
        self._files = files

    def load_config(self, config_path: str) -> Any:
        return copy.deepcopy(self._files.load_config(config_path))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


class _NotPlainError(Exception):
    """Two files that only OmegaConf can merge, or say why not."""


def _below(package: str, content: dict[Any, Any]) -> dict[Any, Any]:
    """A file's content where its package puts it: at the top, or below `a.b`."""
    for part in reversed(package.split(".") if package else []):
        content = {part: content}
    return content


def _put_over(whole: dict[Any, Any], content: Mapping[Any, Any]) -> None:
    """OmegaConf's merge of two configurations without types: dictionaries are merged, all else takes the place."""
    if not isinstance(content, Mapping):
        raise _NotPlainError
    for key, value in content.items():
        held = whole.get(key)
        if isinstance(value, dict) and isinstance(held, dict):
            _put_over(held, value)
        elif not isinstance(value, str) or value != MISSING or key not in whole:
            if isinstance(value, (dict, list)) and (held is not None and not isinstance(held, type(value))):
                raise _NotPlainError
            whole[key] = copy.deepcopy(value)


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
