"""Trained teachers that come with a checkout, in outputs/reference/teachers, so that nobody trains them again.

Each is a folder <student>-<hash>-s<seed>, named as the run that trained it, with its student.safetensors and its
result.json, which holds the SHA-256 of the weights; where the best epoch teaches, with best.safetensors, too.
Installed packages bring none. Imports no torch.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from distill.config import RunSpec, conf_dir, slug
from distill.files import read_mapping, replacing, write_json
from distill.run_folder import BEST, RESULT, STUDENT_FILE, RunFolder

log = logging.getLogger(__name__)
FOLDER = conf_dir().parent / "outputs" / "reference" / "teachers"
SUMS = {STUDENT_FILE: "sha256", BEST: "best_sha256"}  # of a result: the SHA-256 of the file beside it
_PATHS = ("command", "files")  # of a result: where it was made, which is nobody's business


def folder_of(spec: RunSpec) -> RunFolder:
    """Where the net of a run would be bundled."""
    return RunFolder(FOLDER / f"{slug(spec.student.name)}-{spec.hash}-s{spec.seed}")


def is_bundled(spec: RunSpec, *, best: bool = False) -> bool:
    """Whether a run's net comes with the checkout; best: as it was at its best epoch."""
    folder = folder_of(spec)
    return (folder.best if best else folder.student).is_file()


def restore(spec: RunSpec, *, best: bool = False) -> bool:
    """Put a bundled net into the folder of the run that trains it, as that would have left it; False where none is.

    best: its best epoch is wanted, too. Raises ValueError for weights that are not those of their checksum.
    """
    if not is_bundled(spec, best=best):
        return False
    source, run = folder_of(spec), RunFolder(spec.folder)
    result = read_mapping(source.path / RESULT)
    weights = {name: path.read_bytes() for name in SUMS if (path := source.path / name).is_file()}
    if any(hashlib.sha256(content).hexdigest() != result.get(SUMS[name]) for name, content in weights.items()):
        raise ValueError(f"{source} is damaged: check it out again, or delete it and the teacher will be trained")
    run.path.mkdir(parents=True, exist_ok=True)
    for name, content in weights.items():
        with replacing(run.path / name) as file:
            file.write(content)
    run.finish(result)
    log.info("the teacher comes with the checkout: %s", source)
    return True


def bundle(spec: RunSpec, *, best: bool = False) -> Path:
    """Bundle the net of a finished run; best: as it was at its best epoch, too. Returns where."""
    run, target = RunFolder(spec.folder), folder_of(spec)
    found = run.read_result().to_json()
    result: dict[str, Any] = {key: value for key, value in found.items() if key not in _PATHS}
    target.path.mkdir(parents=True, exist_ok=True)
    for path in (run.student, run.best) if best else (run.student,):
        content = path.read_bytes()
        with replacing(target.path / path.name) as file:
            file.write(content)
        result[SUMS[path.name]] = hashlib.sha256(content).hexdigest()
    write_json(target.path / RESULT, result)
    return target.path
