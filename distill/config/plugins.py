"""Modules of the user's, with methods, nets and readers of data: plugins=[my_method]. Imports no torch by itself."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.files import one_line

_loaded: set[str] = set()


def load_plugins(cfg: DictConfig) -> None:
    """Import what `plugins` names, from Python's path or the working folder. Raises ValueError."""
    import_plugins(OmegaConf.select(cfg, "plugins", default=None) or ())


def import_plugins(names: Sequence[Any]) -> None:
    """Import modules by their dotted names. Raises ValueError for what is no module, or cannot be imported."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f"plugins={names}: give a list, plugins=[{names}]")
    for name in map(str, names):
        if name not in _loaded:
            _import(name)
            _loaded.add(name)


def is_plugins(target: str) -> bool:
    """Whether a dotted path leads into a module that was named as a plugin."""
    return any(target.startswith(f"{name}.") for name in _loaded)


def of_plugins_package(module: str) -> bool:
    """Whether a module is a plugin, or lies in the same package as one."""
    return module.partition(".")[0] in {name.partition(".")[0] for name in _loaded}


def loaded() -> list[ModuleType]:
    """The modules that were named as plugins."""
    return [module for name in sorted(_loaded) if (module := sys.modules.get(name)) is not None]


def _import(name: str) -> None:
    here = os.getcwd()
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"plugins=[{name}]: a module is named as in import, my_method for my_method.py")
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not name.startswith(str(error.name)):
            raise ValueError(f"plugins=[{name}] wants {error.name}, which is not installed") from error
        where = f"neither on Python's path nor in {here}"
        raise ValueError(f"plugins=[{name}]: there is no such module, {where}") from error
    except Exception as error:  # whatever the user's module does
        raise ValueError(f"plugins=[{name}] cannot be imported ({type(error).__name__}: {one_line(error)})") from error
    if not getattr(found, "__file__", None):  # any folder of that name, with nothing in it for Python
        raise ValueError(f"plugins=[{name}] is a folder without __init__.py: name a module in it, {name}.my_method")
