"""What shows to be wrong with a command without torch: a sentence each, with the nearest right name.

`check` looks at values of a composed configuration, `check_override` at one `key=value` of the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import distill.config.protocol as protocol
from distill.config.about import check_about
from distill.config.by_size import BY_SIZE
from distill.config.factory import check_class
from distill.config.groups import (
    config_unchanged,
    did_you_mean,
    file_state,
    groups,
    no_such,
    options,
    own_part,
    plain,
    suggestion_or,
)
from distill.config.hashing import from_paper, identity, taps, teacher_specs, training_of
from distill.config.limits import check_limits
from distill.config.needs import check_evaluate, check_labels
from distill.config.optimizer_checks import check_optimizers
from distill.config.plugins import load_plugins
from distill.config.refusals import check_refusals
from distill.config.schedule_checks import check_schedule
from distill.config.upstream import check_start, upstream_config
from distill.config.values import check_data, check_values
from distill.run_folder import weights_file

MAPS = {"features", "preacts", "stem"}  # of about.taps: what only a net with stages shows
LOGGERS = {"online": "wandb", "offline": "wandb", "tensorboard": "tensorboard"}  # the package of a tracking.mode
_NOT_KEYS = {"_target_", "name", "about"}  # in every method's YAML, and nothing to set


def check(cfg: DictConfig, overrides: Iterable[str] = ()) -> None:
    """Raise ValueError for a value that cannot be: out of range, unknown model, missing file, not given.

    `overrides` are `key=value` texts that are not yet in `cfg`: each is held against its default first.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        check_override(cfg, key, yaml.safe_load(value))
    load_plugins(cfg)
    with config_unchanged(cfg):
        _check(cfg)


def _check(cfg: DictConfig) -> None:
    if from_paper(cfg):
        protocol.required(cfg)
    _check_training(cfg)
    check_method_name(cfg)
    check_about(plain(cfg, "method"))
    check_tracking(plain(cfg, "tracking.mode"))
    check_refusals(cfg)
    check_limits(cfg)
    check_borders(cfg)
    check_quantiser(cfg)
    check_model(cfg, "student", plain(cfg, "student.model"))
    check_start(cfg)
    if (before := upstream_config(cfg)) is not None:
        _check_training(before)
    if not str(plain(cfg, "method._target_")).startswith("distill."):  # ours are tested
        check_class(cfg.method)
    check_teachers(cfg)
    check_labels(cfg)
    check_evaluate(cfg)
    check_maps(cfg.method.name, taps(cfg), [plain(cfg, "student.model"), *(t.get("model") for t in teacher_specs(cfg))])
    identity(cfg)  # names the first value that is missing or cannot be resolved


def _check_training(cfg: DictConfig) -> None:
    """The keys of a run, or of the one that trains its student first: data, net, schedule and optimisers."""
    check_values(cfg)
    check_schedule(plain(cfg, "schedule"))
    check_optimizers(cfg)


def check_method_name(cfg: DictConfig) -> None:
    """Raise ValueError for a method.name of no method: results are filed and compared under it."""
    name, known = str(plain(cfg, "method.name")), options("method")
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"method.name={name} is no method's name, under which results are filed: {hint}")


def check_tracking(mode: Any) -> None:
    """Raise ValueError where the package that shows the rows is not installed, before anything is trained."""
    package = LOGGERS.get(str(mode))
    if package and find_spec(package) is None:
        raise ValueError(f"tracking.mode={mode} wants the package {package}: `pip install {package}`, or tracking=off")


def check_borders(cfg: DictConfig) -> None:
    """Raise ValueError where pixels around an image are to be of a kind, and there are none."""
    if plain(cfg, "dataset").get("pad_mode") and not plain(cfg, "dataset.pad"):
        raise ValueError("dataset.pad_mode says what the pixels around images are, and there are none: set dataset.pad")


def check_quantiser(cfg: DictConfig) -> None:
    """Raise ValueError for student.quantize beside a method that quantises the student itself."""
    own = OmegaConf.select(cfg, "method.about.kind", default="") == "quantised"
    if own and OmegaConf.select(cfg, "student.quantize", default=None):
        raise ValueError(
            f"{cfg.method.name} quantises the student itself: leave student.quantize null, and set method.weights, "
            "method.activations and method.ends"
        )


def check_override(reference: DictConfig, key: str, value: Any) -> None:
    """Raise ValueError when the composed defaults have no `key`, or one of another kind than `value`.

    A null default takes anything, a float takes whole numbers, a text takes any single value.
    """
    parts = key.split(".")
    node: Any = reference
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig) or part not in node.keys():  # noqa: SIM118 (`in` hides ???)
            raise ValueError(_unknown_key(reference, key, depth))
        if str(dict(node.items_ex(resolve=False))[part]).startswith(BY_SIZE):  # of the run's images, not the defaults'
            return
        try:
            node = node[part]
        except OmegaConfBaseException:  # a value that must be given, or an interpolation of one
            return
    if not _fits(node, value):
        raise ValueError(f"{key} must be {_kind(node)}, not {_shown(value)} (the default is {_shown(node)})")


def check_group(group: str, name: str, known: list[str]) -> None:
    """Raise ValueError when a group has no such option."""
    if name not in known:
        raise ValueError(no_such(group, name, known))


def check_teachers(cfg: DictConfig) -> None:
    """Raise ValueError when there are not as many teachers as the method takes, or one of them cannot be."""
    teachers = teacher_specs(cfg)
    for teacher in teachers:
        check_model(cfg, "teacher", teacher.get("model"))
        _check_weights(teacher)
        own = training_of(cfg, teacher)
        if "dataset" in own:
            check_data({**plain(cfg, "dataset"), **own["dataset"]}, str(own.get("schedule", {}).get("name")))
    wanted, count = str(OmegaConf.select(cfg, "method.about.teachers", default=1)), len(teachers)
    if count == 1 != int(wanted.replace("n", "2")):
        several = "two or more teachers" if wanted == "n" else f"{wanted} teachers"
        example = ",".join(map(str, range(int(wanted.replace("n", "2")))))
        raise ValueError(
            f"method={cfg.method.name} takes {several}: name them, teacher.models=[resnet56,resnet110], "
            f"or give seeds of one, teacher.seeds=[{example}]"
        )
    if wanted != "n" and count != int(wanted):
        plural = "s" * (wanted != "1")
        raise ValueError(
            f"method={cfg.method.name} takes {wanted} teacher{plural}, and {count} are named: name {wanted}, "
            "or take a method for any number, such as method=avg-multi-teacher"
        )


def check_model(cfg: DictConfig, role: str, name: Any) -> None:
    """Raise ValueError when the model of teacher or student is not ours and not in timm's sources."""
    import distill.config.net_names as names

    if name is None:
        raise ValueError(f"method={cfg.method.name} needs a {role}: choose one, for example {role}=resnet56")
    name = str(name)
    if not names.is_known(name) and not name.startswith("local-dir:"):
        close = names.nearest_nets(name)
        hint = suggestion_or(close, "ours start with cifar_, others are timm's")
        raise ValueError(f"there is no {role} model '{name}': {hint}")


def check_maps(method: str, reads: Collection[str], models: Iterable[Any]) -> None:
    """Raise ValueError where a method reads maps (reads: its about.taps) and one of its nets, an MLP, has none."""
    from distill.config.our_nets import OUR_NETS

    without = {name for name in models if name in OUR_NETS and not OUR_NETS[name].maps}
    if lacking := sorted(without if MAPS.intersection(reads) else ()):
        raise ValueError(
            f"{method} reads maps, and {lacking[0]} has none, only logits and an embedding: take a method on those, "
            "such as method=kd or method=crd, or another net"
        )


def find_aliases(words: Collection[str]) -> dict[str, str]:
    """Which of some words are other names of methods (about.aliases of their files), each with the name it stands for.

    Files without these words are not parsed: of all methods that takes longer than all else that a command checks. Nor
    does what a file takes over from another's give it that method's other names.
    """
    found: dict[str, str] = {}
    for name in options("method"):
        state = file_state("method", name)
        text = state[0].read_bytes() if state else b""
        if any(word.encode() in text for word in words):
            about = (own_part("method", name) or OmegaConf.create({})).get("about") or {}
            found.update({alias: name for alias in about.get("aliases") or [] if alias in words})
    return found


def _check_weights(teacher: Mapping[str, Any]) -> None:
    """A file must be there; and a teacher that is trained here sees the data's mean and std, not its own."""
    weights, start = teacher.get("weights", "auto"), teacher.get("start") or "none"
    if start != "none" and weights != "auto":
        raise ValueError(
            f"teacher.start={start} is what a teacher is trained from, and teacher.weights={weights} is not trained: "
            "leave one of them away"
        )
    if weights == "auto" and teacher.get("size"):
        raise ValueError(
            "teacher.size is for a teacher that is not trained here, which sees images as the data has them: leave it "
            "null, or give teacher.weights=FILE"
        )
    if start not in ("none", "pretrained"):
        _there("teacher.start", start, "or none, or pretrained")
    if weights == "auto" and start == "none" and teacher.get("mean") is not None:
        remedy = "give its file, teacher.weights=FILE, or train another teacher"
        raise ValueError(
            f"teacher={teacher['name']} brings the mean and std of a published checkpoint: {remedy}"
        )
    if weights not in (None, "auto", "pretrained", "none"):
        _there("teacher.weights", weights, "or auto, pretrained or none")


def _there(key: str, weights: Any, remedy: str) -> None:
    try:
        weights_file(str(weights))
    except ValueError as error:
        raise ValueError(f"{key}={error}; {remedy}") from error


def _unknown_key(reference: DictConfig, key: str, depth: int) -> str:
    """The sentence for a key that the composed defaults do not have; its parts before `depth` are right."""
    parts = key.split(".")
    above = ".".join(parts[:depth])
    node = OmegaConf.select(reference, above) if above else reference
    siblings = [str(name) for name in node if name not in _NOT_KEYS] if isinstance(node, DictConfig) else []
    if depth == 0:
        siblings = sorted({*siblings, *groups()} - {"hydra", "tuned"})
    where = f"{above} ({_choice(node)})" if above and _choice(node) else above or "the configuration"
    full = [f"{above}.{name}" if above else name for name in siblings]
    hint = did_you_mean(".".join(parts[: depth + 1]), full) if full else f"to add one, write +{key}=..."
    return f"{where} has no key '{parts[depth]}' ({key}): {hint}"


def _choice(node: Any) -> str:
    try:
        return str(node.get("name") or "") if isinstance(node, DictConfig) else ""
    except OmegaConfBaseException:
        return ""


def _fits(default: Any, value: Any) -> bool:
    if default is None or (isinstance(value, str) and "${" in value):
        return True
    if OmegaConf.is_dict(default):
        return OmegaConf.is_dict(value) or isinstance(value, Mapping)
    if OmegaConf.is_list(default):
        return OmegaConf.is_list(value) or isinstance(value, list)
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
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"'{value}'" if isinstance(value, str) else str(value)
