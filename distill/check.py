"""What can be known to be wrong with a command before torch is imported, each in one sentence with the nearest right name.

`check` looks at values of a composed configuration, `check_override` at one `key=value` of the command line.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill.config import did_you_mean, has_teacher, identity, load, options, plain

Rule = tuple[Callable[[Any], bool], str]
_COUNT: Rule = (lambda value: value >= 1, "must be at least 1")
_NOT_NEGATIVE: Rule = (lambda value: 0 <= value < float("inf"), "must not be negative")
_POSITIVE: Rule = (lambda value: 0 < value < float("inf"), "must be above 0")


def _one_of(*names: str) -> Rule:
    return (lambda value: str(value).lower() in names, f"must be one of {', '.join(names)}")


RULES: dict[str, Rule] = {
    "seed": _NOT_NEGATIVE,
    "threads": _COUNT,
    "log_every": _COUNT,
    "save_minutes": _NOT_NEGATIVE,
    "device": (lambda value: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(value)) is not None,
               "must be one of auto, cpu, cuda, cuda:0, cuda:1, ..."),
    "precision": _one_of("auto", "fp32", "bf16", "fp16"),
    "compile": _one_of("auto", "true", "false"),
    "schedule.epochs": _COUNT,
    "schedule.batch_size": _COUNT,
    "schedule.lr": _POSITIVE,
    "schedule.gamma": _POSITIVE,
    "schedule.warmup_epochs": _NOT_NEGATIVE,
    "schedule.init_epochs": _NOT_NEGATIVE,
    "schedule.decay": _one_of("step", "cosine", "constant"),
    "schedule.optimizer.momentum": (lambda value: 0 <= value < 1, "must be in [0, 1)"),
    "schedule.optimizer.weight_decay": _NOT_NEGATIVE,
    "student.lr_scale": _POSITIVE,
    "teacher.seed": _NOT_NEGATIVE,
    "method.ce": _NOT_NEGATIVE,
    "method.kd": _NOT_NEGATIVE,
    "method.weight": _NOT_NEGATIVE,
    "method.temperature": _POSITIVE,
    "dataset.holdout": (lambda value: 0 <= value < 1, "is the fraction of images held out and must be in [0, 1)"),
    "tracking.mode": _one_of("online", "offline", "off"),
}


def check(cfg: DictConfig, overrides: Iterable[str] = ()) -> None:
    """Raise ValueError for a value that cannot be: out of range, an unknown model, a missing file, a value not given.

    `overrides` are `key=value` texts of the command line that are not yet in `cfg`; they are checked one by one first.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        check_override(cfg, key, OmegaConf.create(f"value: {value}").value)
    for key, (valid, words) in RULES.items():
        _check_value(cfg, key, valid, words)
    check_model(cfg, "student")
    if has_teacher(cfg):
        check_model(cfg, "teacher")
        _check_weights(cfg)
    identity(cfg)  # names the first value that is missing or cannot be resolved


def check_override(reference: DictConfig, key: str, value: Any) -> None:
    """Raise ValueError when `key` is not in the composed defaults, or `value` is of another kind than its default.

    A null default takes anything, a float takes whole numbers, a text takes any single value.
    """
    parts = key.split(".")
    node: Any = reference
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig) or part not in node:
            raise ValueError(_unknown_key(reference, key, depth))
        try:
            node = node[part]
        except OmegaConfBaseException:  # a value that must be given, or an interpolation of one
            return
    if not _fits(node, value):
        raise ValueError(f"{key} must be {_kind(node)}, not {_shown(value)} (the default is {_shown(node)})")


def check_group(group: str, name: str, known: list[str]) -> None:
    """Raise ValueError when a group has no such option."""
    if name not in known:
        raise ValueError(f"there is no {group} '{name}': {did_you_mean(name, known)}")


def check_model(cfg: DictConfig, role: str) -> None:
    """Raise ValueError when the teacher's or the student's model is neither ours nor timm's."""
    name = str(plain(cfg, f"{role}.model"))
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return
    known = model_names()
    if known and name.split(".")[0] not in known:
        raise ValueError(f"{role}.model: there is no model '{name}': {did_you_mean(name, known)}")


def model_names() -> list[str]:
    """All names that a model can have, read without importing torch; empty where they cannot be found out."""
    try:
        from distill.model_names import names
    except ImportError:
        return []
    return sorted(names())


def check_output(folder: str | Path) -> None:
    """Make the output folder and raise ValueError when nothing can be written there."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"output={folder} cannot be written ({reason}): choose another folder with output=...") from error


def find_aliases() -> dict[str, str]:
    """Other names of methods (about.aliases of conf/method/*.yaml), each with the name that it stands for."""
    names = options("method")
    found: dict[str, str] = {}
    for name in names:
        about = (load("method", name) or OmegaConf.create({})).get("about") or {}
        found.update({alias: name for alias in about.get("aliases") or [] if alias not in names})
    return found


def _check_value(cfg: DictConfig, key: str, valid: Callable[[Any], bool], words: str) -> None:
    """Apply one of RULES; a key that is absent or null passes."""
    value = plain(cfg, key) if OmegaConf.select(cfg, key, throw_on_missing=False) is not None else None
    if value is None:
        return
    fine = False
    with contextlib.suppress(TypeError):
        fine = valid(value)
    if not fine:
        raise ValueError(f"{key}={value}: {key} {words}")


def _check_weights(cfg: DictConfig) -> None:
    weights = OmegaConf.select(cfg, "teacher.weights", default="auto")
    if weights is None or weights in ("auto", "pretrained", "none") or Path(str(weights)).expanduser().exists():
        return
    raise ValueError(f"teacher.weights={weights}: there is no such file; give auto, pretrained, none or the path of a "
                     "checkpoint")


def _unknown_key(reference: DictConfig, key: str, depth: int) -> str:
    """The sentence for a key that the composed defaults do not have; its parts before `depth` are right."""
    parts = key.split(".")
    above = ".".join(parts[:depth])
    node = OmegaConf.select(reference, above) if above else reference
    siblings = [str(name) for name in node] if isinstance(node, DictConfig) else []
    if depth == 0:
        siblings = sorted({*siblings, *_groups()} - {"hydra"})
    where = f"{above} ({_choice(node)})" if above and _choice(node) else above or "the configuration"
    full = [f"{above}.{name}" if above else name for name in siblings]
    hint = did_you_mean(".".join(parts[:depth + 1]), full) if full else f"to add one, write +{key}=..."
    return f"{where} has no key '{parts[depth]}' ({key}): {hint}"


def _choice(node: Any) -> str:
    try:
        return str(node.get("name") or "") if isinstance(node, DictConfig) else ""
    except OmegaConfBaseException:
        return ""


def _groups() -> list[str]:
    from distill.config import conf_dir

    return [path.name for path in conf_dir().iterdir() if path.is_dir()]


def _fits(default: Any, value: Any) -> bool:
    if default is None or (isinstance(value, str) and "${" in value):
        return True
    if OmegaConf.is_dict(default) or OmegaConf.is_list(default):
        wanted = Mapping if OmegaConf.is_dict(default) else list
        return isinstance(value, wanted) or (OmegaConf.is_dict(value) and OmegaConf.is_dict(default)) or (
            OmegaConf.is_list(value) and OmegaConf.is_list(default))
    if isinstance(default, str):
        return value is None or isinstance(value, (str, int, float))
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else int)


def _kind(default: Any) -> str:
    if OmegaConf.is_dict(default):
        return "a dictionary {key: value}"
    if OmegaConf.is_list(default):
        return "a list [a, b]"
    names = {bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(type(default), "a single value")


def _shown(value: Any) -> str:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    return "null" if value is None else f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(
        value, bool) else str(value)
