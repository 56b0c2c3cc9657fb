"""From a composed configuration to names, hashes and objects. Imports neither timm nor wandb, and torch only to read a
file of weights that it has not seen before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import (
    as_plain,
    config_unchanged,
    copied,
    did_you_mean,
    interpolated,
    load_node,
    no_such,
    options,
    plain,
    settled,
    slug,
)
from distill.config.naming import following
from distill.config.nulls import canonical, in_place, told, told_apart, told_of_features
from distill.config.own_code import code_of_class, code_of_net, code_of_reader
from distill.config.scheduled import inits_of, scheduled
from distill.config.teacher_nodes import OWN, WEIGHT_KINDS, Spec, expand_teachers, is_trained, label, named, training
from distill.config.upstream_nodes import WHOLE_SET, told_upstream
from distill.content.fingerprint import data_fingerprint, folder_model, weights_fingerprint
from distill.run_folder import record_of

UNHASHED = {  # what may change without changing the result; everything else of these nodes is hashed
    "dataset": {"root", "workers", "download", "images"},
    "schedule": {"lr_scales", "inits"},  # what these do to the run's nets is in the nets' nodes
    "teacher": set(),
    "student": set(),
    "method": {"about"},
}
OF_IMAGES = ("mean", "std")  # keys of a data set, and of a net that sees images by others
OF_STUDENTS = ("upstream", "weights", "mean", "std", "quantize")  # keys of student beside those of its file


def hashed_config(cfg: DictConfig) -> dict[str, Any]:
    """All that changes a run's result but the seed: what is hashed. Raises ValueError as `plain` does."""
    parts = {name: _without(plain(cfg, name), UNHASHED[name]) for name in UNHASHED if name != "teacher"}
    parts["dataset"] |= {"content": content(cfg), "code": code_of_reader(_kind(parts["dataset"]))}
    parts["method"]["code"] = code_of_class(str(parts["method"].get("_target_")))
    nets = [*(parts["method"].get("models") or ()), parts["method"].get("assistant")]  # of a cohort, of residual-kd
    parts["method"]["code_of_nets"] = [code for net in nets if net and (code := code_of_net(str(net)))] or None
    schedule = plain(cfg, "schedule")
    parts["method"]["inits_of_nets"] = inits_of(nets, schedule)
    parts["student"] = scheduled(_started(cfg, student_node(cfg)), schedule)
    parts["schedule"] |= _unread(cfg)
    parts |= {name: told(name, parts[name]) for name in ("dataset", "schedule")}
    if has_teacher(cfg):
        own = [(spec, training_of(cfg, spec)) for spec in teacher_specs(cfg)]
        several = [_hashed_teacher(spec, told_apart(node, parts["dataset"]), schedule) for spec, node in own]
        parts["teacher"] = several[0] if len(several) == 1 else several
    elif views := parts["dataset"].get("views"):
        parts["dataset"]["views"] = {**views, "teacher": None}
    measured = told_of_features(plain(cfg, "evaluate"), plain(cfg, "dataset")) if "evaluate" in cfg else None
    return {**parts, "precision": plain(cfg, "precision"), "evaluate": measured, **_rounded_otherwise(cfg)}


def _unread(cfg: DictConfig) -> dict[str, Any]:
    """schedule.init_epochs as the schedule's file has it, where the method has no first phase of so many epochs: given,
    it makes neither another student alone nor another teacher.
    """
    file = load_node("schedule", str(plain(cfg, "schedule.name")))
    if file is None or interpolated(cfg, "schedule.init_epochs"):
        return {}
    usual, given = (node._get_node("init_epochs") for node in (file.get("schedule", file), cfg.schedule))
    if usual is None or given is not None and given._value() == usual._value():
        return {}
    shared = copied(cfg)
    shared["schedule"]["init_epochs"] = usual._value()  # of the number of images it may be, or of the pair
    return {"init_epochs": plain(shared, "schedule.init_epochs")}


def _rounded_otherwise(cfg: DictConfig) -> dict[str, Any]:
    """What was asked for of how a run is computed, where it changes the result: a cache of half floats beside fp32, and
    parts of a batch that each have their own statistics.
    """
    found: dict[str, Any] = {}
    cache = str((plain(cfg, "teacher") or {}).get("cache")) if has_teacher(cfg) else "off"
    if cache in ("logits", "embedding") and plain(cfg, "precision") == "fp32":
        found["cache"] = cache
    if str(OmegaConf.select(cfg, "sync_batchnorm", default="auto")).lower() == "false":
        found["sync_batchnorm"] = False
    return found


def _hashed_teacher(spec: Spec, own: dict[str, Spec], schedule: Spec) -> Spec:
    """A teacher's node as it is hashed; own: the schedule and the data set that it alone is trained by."""
    if "schedule" in own:
        schedule = own["schedule"]
        own = {**own, "schedule": _without(schedule, UNHASHED["schedule"])}
    before = [_teacher_node(name).get("model") for name in spec.get("chain") or ()]
    further = {"epoch": "best" if spec.get("epoch") == "best" and is_trained(spec) else None,
               "inits_of_chain": inits_of(before, schedule)}  # fmt: skip
    return {**scheduled(_by_content(spec), schedule), **further, **dict.fromkeys(OWN), **own}


def content(cfg: DictConfig) -> str | None:
    """What the data set's files hold, where that is not what its name says: see `content.fingerprint`.

    A record of a run has it in dataset.content, wherever the files are now.
    """
    node = plain(cfg, "dataset")
    return node.get("content") or data_fingerprint(node)


def _started(cfg: DictConfig, node: Spec) -> Spec:
    """A student's node with its start as it is hashed: timm's weights, what a file holds, or neither."""
    weights = str(node.get("weights"))
    given = {"pretrained": weights == "pretrained", "weights": None if weights in WEIGHT_KINDS else node.get("weights")}
    return _by_content({**node, **given, "upstream": in_place(told_upstream(cfg, node.get("upstream")))})


def _by_content(node: Spec) -> Spec:
    """A net's node with what its file of weights holds in place of where it is."""
    given = {key: node[key] for key in ("weights", "start") if node.get(key) is not None}
    files = {key: value for key, value in given.items() if str(value) not in WEIGHT_KINDS}
    found = {key: weights_fingerprint(str(file)) or file for key, file in files.items()}
    if node.get("model") is not None:
        found |= {"model": folder_model(str(node["model"])), "code": code_of_net(str(node["model"]))}
    return {**node, **found} | ({"start": None} if node.get("start") == "none" else {})


def _kind(dataset: Mapping[str, Any]) -> str:
    return str(dataset.get("kind") or dataset.get("name"))


def student_node(cfg: DictConfig) -> Spec:
    """The student as a plain node, called what its model is called; older records say `pretrained: true`."""
    node = following("student", plain(cfg, "student"))
    return {**node, "weights": "pretrained"} if node.pop("pretrained", False) is True else node


def identity(cfg: DictConfig, hashed: Mapping[str, Any] | None = None) -> dict[str, str]:
    """`hash`, 8 hex digits of `hashed_config` (which may be given), and `folder`, whose part below `output` is `below`:

    <output>/<dataset>/<teacher>-<student>/<method>-<hash>/s<seed>, with none for the teacher of a method
    that loads none. Raises ValueError for a value that is missing or cannot be resolved.
    """
    with config_unchanged(cfg):
        return _identity(cfg, hashed_config(cfg) if hashed is None else hashed)


def _identity(cfg: DictConfig, hashed: Mapping[str, Any]) -> dict[str, str]:
    text = json.dumps(canonical(hashed), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    teacher = slug(teacher_name(cfg))
    dataset, method = (slug(plain(cfg, f"{name}.name")) for name in ("dataset", "method"))
    student = slug(student_node(cfg)["name"])
    below = f"{dataset}/{teacher}-{student}/{method}-{digest}/s{plain(cfg, 'seed')}"
    return {"hash": digest, "below": below, "folder": f"{plain(cfg, 'output')}/{below}"}


def from_paper(cfg: DictConfig) -> bool:
    """Whether schedule=paper was given: its values are looked up when they are read."""
    node = cfg.get("schedule")
    return isinstance(node, DictConfig) and str(dict(node.items_ex(resolve=False)).get("name")).startswith("${paper:")


def has_teacher(cfg: DictConfig) -> bool:
    """Whether the method loads teachers (method.about.teachers: a number, or n for two or more; else 1)."""
    return OmegaConf.select(cfg, "method.about.teachers", default=1) not in (0, "0")


def reads(cfg: DictConfig) -> set[str]:
    """What the method reads of its teachers' outputs (method.about.taps); nothing where it loads none."""
    if not has_teacher(cfg):
        return set()
    live = OmegaConf.select(cfg, "method.teacher_mode", default=None) == "train"
    return taps(cfg) | ({"batch's statistics"} if live else set())


def taps(cfg: DictConfig) -> set[str]:
    """What the method reads of its nets' outputs (method.about.taps)."""
    return set(OmegaConf.select(cfg, "method.about.taps", default=None) or ())


def teacher_specs(cfg: DictConfig) -> list[Spec]:
    """The run's teachers, each as a plain node; none for a method that loads none. Raises ValueError."""
    specs = expand_teachers(plain(cfg, "teacher") or {}, _teacher_node) if has_teacher(cfg) else []
    return [_as_trained(cfg, following("teacher", spec)) for spec in specs]


def _as_trained(cfg: DictConfig, spec: Spec) -> Spec:
    """A teacher that has the weights of a run of ours with the mean and std of that run's net, where they are not the
    data's: of a net that began with timm's weights, say.
    """
    weights, data = str(spec.get("weights") or "auto"), plain(cfg, "dataset")
    if spec.get("mean") is not None or weights in WEIGHT_KINDS or (data.get("views") or {}).get("teacher"):
        return spec
    seen = record_of(weights).get("input") or {}
    own = {key: [round(float(v), 6) for v in values] for key in OF_IMAGES if (values := seen.get(key))}
    same = all(own.get(key) == [round(float(v), 6) for v in data.get(key) or ()] for key in OF_IMAGES)
    return spec if same or len(own) < len(OF_IMAGES) else {**spec, **own}


def teacher_name(cfg: DictConfig) -> str:
    """The run's teachers as one name, "none" where there are none."""
    return label(teacher_specs(cfg))


def teacher_config(cfg: DictConfig, spec: Spec | None = None) -> DictConfig:
    """The configuration of the run that trains a teacher (default: the first): with the run's schedule and data, or
    with those of teacher.schedule and teacher.dataset.

    Its `identity` is that of `method=none student=<the teacher's net> seed=<teacher.seed>`; for an assistant,
    that of `method=takd` with the teachers before it. Teachers see all training images, those that
    dataset.omit, fraction and shots keep from the student included.
    """
    spec = spec or teacher_specs(cfg)[0]
    student = load_node("student", spec["name"]) or OmegaConf.create({"lr_scale": 1.0})
    shared = {key: spec[key] for key in ("name", "model", "args", "lr_scale") if key in spec}
    config, data = settled(cfg), cfg.dataset
    config["seed"] = spec["seed"]
    config["evaluate"] = unmeasured(cfg)
    config["dataset"] = OmegaConf.merge(config.dataset, {key: WHOLE_SET[key] for key in WHOLE_SET if key in data})
    for key, node in training_of(cfg, spec).items():
        config[key] = OmegaConf.merge(config["dataset"], node) if key == "dataset" else OmegaConf.create(node)
    if views := cfg.dataset.get("views"):
        config["dataset"]["views"] = {"student": views.get("teacher"), "teacher": views.get("teacher")}
        if not spec.get("chain"):
            config["dataset"]["views"]["teacher"] = None
    config["method"] = _assistants_method(cfg) if spec.get("chain") else load_node("method", "none")
    if from_paper(cfg):  # this method's protocol, not the teacher's own
        known = OmegaConf.to_container(cfg.method.about, resolve=False).get("protocol")  # type: ignore[union-attr]
        config["method"] = OmegaConf.merge(config["method"], {"about": {"protocol": None}})
        config["method"]["about"]["protocol"] = known
    config["student"] = OmegaConf.merge(dict.fromkeys(OF_STUDENTS), student, shared, _start(spec))
    if chain := spec.get("chain"):  # the nets before it are trained as it is, which is now the run's own way
        spec = {key: value for key, value in spec.items() if key not in OWN}
    config["teacher"] = {**named(chain[-1], spec, _teacher_node), "chain": chain} if chain else None
    return config


def unmeasured(cfg: DictConfig) -> dict[str, None]:
    """Keys of evaluate for a run that another needs: what that measures of its own features is none of its business."""
    return dict.fromkeys(map(str, cfg.get("evaluate") or {}))


def _start(spec: Spec) -> Spec:
    """What the student of the run that trains a teacher starts from: teacher.start, and the teacher's own constants."""
    if spec.get("start") in (None, "none"):
        return {}
    return {"weights": spec["start"], **{key: spec[key] for key in ("mean", "std") if spec.get(key) is not None}}


def training_of(cfg: DictConfig, spec: Spec) -> dict[str, Spec]:
    """What the run that trains a teacher has of its own, as `training` has it: {} where this run has the same."""
    here = {"schedule": plain(cfg, "schedule"), "dataset": plain(cfg, "dataset")}
    own = training(spec, here["dataset"], lambda name: _schedule_file(cfg, name))
    asked = {**here, **own, "dataset": {**here["dataset"], **own.get("dataset", {})}}
    return {} if canonical(asked) == canonical(here) else own


def _schedule_file(cfg: DictConfig, name: str) -> Spec:
    """The nodes of conf/schedule/<name>.yaml, resolved; what it has for some data sets alone, for the run's."""
    node = load_node("schedule", name)
    if name == "paper":
        raise ValueError("teacher.schedule=paper: a teacher has no method of its own: name a file of conf/schedule")
    if node is None:
        raise ValueError(f"there is no schedule '{name}' (teacher.schedule): {did_you_mean(name, options('schedule'))}")
    around = {"dataset": {key: cfg.dataset.get(key) for key in ("name", "kind")}, "own": node.pop("dataset", None)}
    node.pop("teacher", None)  # nor does this one choose how it is trained
    data = plain(OmegaConf.create(around), "own")
    return {**as_plain(node), **({"dataset": data} if data else {})}


def _assistants_method(cfg: DictConfig) -> Any:
    """method=takd: this run's if it is that, otherwise its defaults for the data set."""
    if str(cfg.method.name) == "takd":
        return cfg.method
    tuned = load_node("tuned", f"{cfg.dataset.name}-takd") or OmegaConf.create({"method": {}})
    return OmegaConf.merge(load_node("method", "takd") or {}, tuned.method)


def _teacher_node(name: str) -> Spec:
    node = load_node("teacher", name)
    if node is None:
        raise ValueError(no_such("teacher", name, options("teacher")))
    return as_plain(node)


def _without(node: Any, left_out: set[str]) -> Any:
    """`node` less some keys, if it is a dictionary."""
    return {key: node[key] for key in node if key not in left_out} if isinstance(node, dict) else node
