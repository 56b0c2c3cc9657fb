"""A copy of the program as it is at launch, so that jobs which wait in a queue run what was launched."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from distill.config.groups import conf_dir
from distill.config.own_code import sources


def take_snapshot(output: str | Path) -> Path:
    """Copy the package and its YAML files to <output>/.snapshots/<hash> and return that folder.

    The hash is that of the content: launches of the same code share a copy, which is whole or not there.
    """
    files = _files()
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    folder = Path(output).absolute() / ".snapshots" / digest.hexdigest()[:12]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _copy(files, folder)
    return folder


def search_path(folder: Path) -> dict[str, str]:
    """The environment in which Python finds the snapshot first, whatever lies in the working folder."""
    rest = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *([rest] if rest else [])]), "PYTHONSAFEPATH": "1"}


def _files() -> dict[str, Path]:
    """Every file of the program and of plugins, by its place in the copy: YAML files lie inside the package there."""
    package = Path(__file__).resolve().parent.parent
    roots = {"distill": package, "distill/conf": conf_dir()}
    found = {
        f"{place}/{path.relative_to(root).as_posix()}": path
        for place, root in roots.items()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return {**sources(), **found}


def _copy(files: dict[str, Path], folder: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        for name, path in files.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, unfinished / name)
        unfinished.chmod(0o755)  # others of the group may run it
        unfinished.rename(folder)
    except OSError:
        if not folder.exists():  # else another launch was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
