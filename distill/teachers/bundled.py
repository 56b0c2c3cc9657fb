"""Trained teachers that come with a checkout, in outputs/reference/teachers, so that nobody trains them again.

Each is a folder <student>-<hash>-s<seed>, named as the run that trained it, with its student.safetensors and its
result.json, which holds the SHA-256 of the weights. Installed packages bring none. Imports no torch.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from distill.config import RunSpec, conf_dir, slug
from distill.files import read_mapping, replacing, write_json
from distill.run_folder import RESULT, RunFolder

log = logging.getLogger(__name__)
FOLDER = conf_dir().parent / "outputs" / "reference" / "teachers"
_PATHS = ("command", "files")  # of a result: where it was made, which is nobody's business


def folder_of(spec: RunSpec) -> RunFolder:
    """Where the net of a run would be bundled."""
    return RunFolder(FOLDER / f"{slug(spec.student.name)}-{spec.hash}-s{spec.seed}")


def is_bundled(spec: RunSpec) -> bool:
    """Whether a run's net comes with the checkout."""
    return folder_of(spec).student.is_file()


def restore(spec: RunSpec) -> bool:
    """Put a bundled net into the folder of the run that trains it, as that would have left it; False where none is.

    Raises ValueError for weights that are not those of their checksum.
    """
    if not is_bundled(spec):
        return False
    source = folder_of(spec)
    weights, result = source.student.read_bytes(), read_mapping(source.path / RESULT)
    if hashlib.sha256(weights).hexdigest() != result.get("sha256"):
        raise ValueError(f"{source} is damaged: check it out again, or delete it and the teacher will be trained")
    run = RunFolder(spec.folder)
    run.path.mkdir(parents=True, exist_ok=True)
    with replacing(run.student) as file:
        file.write(weights)
    run.finish(result)
    log.info("the teacher comes with the checkout: %s", source)
    return True


def bundle(spec: RunSpec) -> Path:
    """Bundle the net of a finished run. Returns where."""
    run, target = RunFolder(spec.folder), folder_of(spec)
    weights, found = run.student.read_bytes(), run.read_result().to_json()
    result: dict[str, Any] = {key: value for key, value in found.items() if key not in _PATHS}
    target.path.mkdir(parents=True, exist_ok=True)
    with replacing(target.student) as file:
        file.write(weights)
    write_json(target.path / RESULT, {**result, "sha256": hashlib.sha256(weights).hexdigest()})
    return target.path
