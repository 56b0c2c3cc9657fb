"""What the code of the user's own, in plugins, says: part of what a run is, as the program's own code is not.

A run's method, nets and reader of data count by the source of the module that each comes from, and of what that imports
from beside it (its package, and folders that nothing is installed into); comments and layout do not count. What a
process has imported is what it runs: later changes of the files are another experiment's, of the next process.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from distill.config.plugins import is_plugins, loaded, of_plugins_package

_digests: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()  # as they were when they were first asked about
_PLACES = ("stdlib", "platstdlib", "purelib", "platlib")
_INSTALLED = {Path(path).resolve() for name, path in sysconfig.get_paths().items() if name in _PLACES}
_PACKAGES = {"site-packages", "dist-packages"}  # of other environments on Python's path: the system's, a cluster's


def code_of_class(target: str) -> str | None:
    """A hash of the module of a `_target_`, None where that is no plugin's."""
    if not is_plugins(target):
        return None
    module = target.rpartition(".")[0]
    with suppress(Exception):  # of a package, which need not have imported it; what is wrong is said where it is built
        importlib.import_module(module)
    return _code(module)


def code_of_net(model: str) -> str | None:
    """A hash of the module that has put a net into timm's registry, None where that is no plugin's."""
    registry: Any = sys.modules.get("timm.models._registry")
    name = model.split(".")[0]
    if registry is None or not registry.is_model(name):
        return None
    return _of_function(registry.model_entrypoint(name))


def code_of_reader(kind: str) -> str | None:
    """A hash of the module that reads a kind of data set, None where that is no plugin's."""
    readers: Any = sys.modules.get("distill.content.readers")
    return _of_function(readers.READERS.get(kind)) if readers else None


def is_own(name: str) -> bool:
    """Whether an imported module is a plugin's, or lies in a folder of the user's."""
    module = sys.modules.get(name)
    return module is not None and _own(module)


def own_line(error: Exception) -> str:
    """The last line of the user's own code that an error came through, in brackets, if there is one."""
    passed = traceback.walk_tb(error.__traceback__)
    own = [(frame, line) for frame, line in passed if is_own(frame.f_globals.get("__name__", ""))]
    return f" ({Path(own[-1][0].f_code.co_filename).name}, line {own[-1][1]})" if own else ""


def _of_function(function: Any) -> str | None:
    module = str(getattr(function, "__module__", ""))
    return _code(module) if is_plugins(f"{module}.") else None


def sources() -> dict[str, Path]:
    """The files of plugins, and of what they import from beside them, by the places at which Python would find them
    below a folder of its path.
    """
    found: dict[str, Path] = {}
    names = {each.__name__ for module in loaded() for each in (module, *_reached(module))}
    for top in sorted({name.partition(".")[0] for name in names}):
        module = _module(top)
        if module and hasattr(module, "__path__"):
            for root in map(Path, module.__path__):
                found |= {f"{top}/{path.relative_to(root).as_posix()}": path for path in root.rglob("*.py")}
        elif module and module.__file__:
            found[f"{top}.py"] = Path(module.__file__)
    return found


def check_unchanged() -> None:
    """Raise ValueError where the files of a plugin are no longer what this process has imported of them."""
    for module, digest in list(_digests.items()):
        if _digest(module) != digest:
            why = "has changed since it was imported, and Python keeps what it has imported"
            raise ValueError(f"the code of {module.__name__} {why}: start Python anew (the kernel of a notebook)")


def _code(name: str) -> str | None:
    module = sys.modules.get(name)
    if module is None:
        return None
    if module not in _digests:
        _digests[module] = _digest(module)
    return _digests[module]


def _digest(module: ModuleType) -> str:
    found = {each.__name__: _source(each) for each in _reached(module)}
    text = "\0".join(f"{name}\0{found[name]}" for name in sorted(found))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _reached(module: ModuleType) -> Iterator[ModuleType]:
    """A module, and what it imports of other modules of the user's, and so on."""
    waiting: list[ModuleType | None] = [module]
    seen: set[str] = set()
    while waiting:
        each = waiting.pop()
        if each is None or each.__name__ in seen or not _own(each):
            continue
        seen.add(each.__name__)
        yield each
        waiting += [_module(name) for name in _imported(each)]


def _module(name: str) -> ModuleType | None:
    """A module, or a stand-in with its file where it is not imported yet, as one that is imported within a function."""
    if (found := sys.modules.get(name)) is not None:
        return found
    parts = name.split(".")
    spec = PathFinder.find_spec(parts[0])  # importlib.util's would import the packages around it
    for k in range(2, len(parts) + 1):
        places = spec.submodule_search_locations if spec else None
        spec = PathFinder.find_spec(".".join(parts[:k]), places) if places is not None else None
    if spec is None or not spec.has_location:
        return None
    made = ModuleType(name)
    made.__file__, made.__package__ = spec.origin, spec.parent
    if spec.submodule_search_locations is not None:
        made.__path__ = list(spec.submodule_search_locations)
    return made


def _own(module: ModuleType) -> bool:
    """Whether a module is a plugin's, or lies in a folder of the user's."""
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] == "distill":
        return False
    places = {*Path(file).parents, *Path(file).resolve().parents}  # some installers make links to a store of their own
    installed = _INSTALLED & places or _PACKAGES & {place.name for place in places}
    return not installed or of_plugins_package(module.__name__)


def _imported(module: ModuleType) -> Iterator[str]:
    """The names of modules that a module's source asks for."""
    tree = _tree(module)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (module.__package__ or "").split(".")
            above = above[: len(above) - node.level + 1] if node.level else []
            home = ".".join([*above, *([node.module] if node.module else [])])
            yield from (home, *(f"{home}.{each.name}" for each in node.names))


def _source(module: ModuleType) -> str:
    """Its source without comments and layout; its place where Python cannot read it."""
    tree = _tree(module)
    return str(module.__file__) if tree is None else ast.unparse(tree)


def _tree(module: ModuleType) -> ast.Module | None:
    try:
        return ast.parse(Path(str(module.__file__)).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
