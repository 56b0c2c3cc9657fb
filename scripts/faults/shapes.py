"""The shapes of runs that are killed, and what must be equal bit for bit in two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from distill import config

SMALL = (
    "student=resnet8", "teacher=resnet8", "dataset.fraction=0.06", "schedule.epochs=2", "schedule.batch_size=32",
    "precision=fp32", "compile=false", "device=cpu", "log_every=1",
    "save_minutes=0",  # or the run is over before its first checkpoint
)  # fmt: skip
RANDOM = "teacher.weights=none"
SHORT = "schedule.init_epochs=1"  # of methods with a phase of so many
SHAPES: dict[str, tuple[str, ...]] = {
    "one phase": ("method=kd", RANDOM),
    "no teacher": ("method=none",),
    "own teacher": ("method=kd",),
    "own teacher, several phases": ("method=fitnet", SHORT),
    "a chain of teachers": ("method=kd", "teacher.chain=[resnet14,resnet8]"),
    "memory bank": ("method=crd", RANDOM),
    "several teachers": ("method=avg-multi-teacher", "teacher.seeds=[0,1]"),
    "two phases": ("method=ab", SHORT, RANDOM),
    "generations": ("method=ban", RANDOM),
    "online": ("method=dml",),
    "branches": ("method=one",),
    "adversarial": ("method=fm-adversarial",),
    "data-free": ("method=dafl", "method.steps=3", RANDOM),
    "data-free, inverted": ("method=deepinversion", "method.steps=2", "method.batches=2", RANDOM),
    "data-free, bank": ("method=cmi", "method.steps=2", "method.generator_steps=3", "method.student_steps=2", RANDOM),
    "data-free, zero-shot": ("method=zskt", "method.steps=2", "method.student_steps=2", RANDOM),
    "own updates": ("method=sskd", SHORT, RANDOM),
    "route of checkpoints": ("method=rco",),
    "search": ("method=nas-kd", SHORT, RANDOM),
    "averages": ("method=kdcl",),
    "quantised": ("method=kd", RANDOM, "student.quantize={weights:4,activations:8}"),
    "mixed images": ("method=kd", RANDOM, "schedule.mixup=1.0"),
    "cached teacher": ("method=kd", RANDOM, "teacher.cache=logits"),
    "optimiser of its own": ("method=dot", RANDOM),
    "last classes": ("method=tf-kd-self",),
    "half precision": ("method=kd", RANDOM, "precision=bf16"),
}
LAUNCHED: dict[str, tuple[str, ...]] = {  # sweeps of two runs each, as whole commands
    "packed": ("-m", "hydra/launcher=packed", "method=kd,none", RANDOM),
    "packed, own teacher": ("-m", "hydra/launcher=packed", "method=kd,crd"),
    "basic": ("-m", "hydra/launcher=basic", "method=kd,none", RANDOM),
    "command": ("method=kd",),
    "local": ("-m", "hydra/launcher=local", "hydra.launcher.slots=2", "method=kd,none", RANDOM),
}
VOLATILE = {
    "seconds", "images_per_second", "waiting", "command", "files", "teacher_cache_found", "teacher_origin", "teachers",
    "method_share_of_step", "attempts", "sessions",
}  # fmt: skip


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    config.register()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


def composed(shape: str, output: Path) -> DictConfig:
    """The configuration of a shape's run below `output`."""
    cfg = _composed((*SMALL, *SHAPES[shape])).copy()
    cfg.output = str(output)
    return cfg


def fingerprint(output: Path) -> dict[str, Any]:
    """All that runs and teachers below `output` leave, but for times, rates and paths."""
    found: dict[str, Any] = {}
    for path in sorted(output.rglob("*")):
        name = str(path.relative_to(output))
        if path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "result.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key not in VOLATILE}
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows]
        elif path.name == "DONE" or (path.suffix == ".json" and path.parent.name == "teachers"):
            found[name] = path.read_text()
    return json.loads(json.dumps(found))


def difference(one: Any, other: Any, where: str = "") -> str:
    """The first place in which two fingerprints differ; empty where they are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key not in one or key not in other:
                return f"{where}/{key} is in one of them only"
            if found := difference(one[key], other[key], f"{where}/{key}"):
                return found
        return ""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        found_in = (difference(*pair, f"{where}[{k}]") for k, pair in enumerate(zip(one, other, strict=True)))
        return next(filter(None, found_in), "")
    return "" if one == other else f"{where}: {str(one)[:80]} and {str(other)[:80]}"


def litter(output: Path) -> list[str]:
    """Files below `output` that a finished run should not have left."""
    return sorted(str(path.relative_to(output)) for path in _files(output) if _is_litter(path))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _is_litter(path: Path) -> bool:
    return path.suffix == ".tmp" or ".ckpt" in path.name
