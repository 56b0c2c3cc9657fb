"""From a composed configuration to names, hashes and objects. Imports neither torch nor timm nor wandb.

Resolvers for the YAML files (registered by `register`):

`${run_folder:}` and `${run_folder:below}`
    the run's folder, with and without `output` in front.
`${by_pair:DEFAULT,{TEACHER-STUDENT: VALUE, ...}}`
    for conf/tuned: the value of the run's pair (`<teacher.name>-<student.name>`), DEFAULT for any other.
`${by_method:DEFAULT,{METHOD: VALUE, ...}}`
    for conf/experiment: the value of the run's method; null is as good as no key at all.
`${paper:schedule.KEY}` and `${paper:dataset.KEY}`
    for conf/schedule/paper.yaml: the value of the method's own protocol for the data set (distill.protocol).
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import omegaconf
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from distill.teacher_specs import OWN, Spec, expand, label, named, training

UNHASHED = {  # what may change without changing the result; everything else of these nodes is hashed
    "dataset": {"root", "workers", "download"},
    "schedule": set(),
    "teacher": set(),
    "student": set(),
    "method": {"about"},
}
OURS = "ValueError raised while resolving interpolation: "  # what OmegaConf puts before a resolver's own sentence
OF_STUDENTS = ("upstream", "weights", "mean", "std", "quantize")  # keys of student beside those of its file
WHOLE = {"omit": [], "fraction": 1.0, "shots": None}  # of conf/dataset: no training image left out


def conf_dir() -> Path:
    """The folder of the YAML files: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def load(group: str, name: str) -> DictConfig | None:
    """conf/<group>/<name>.yaml as it stands, None where there is no such file; a schedule with what it takes over."""
    path = conf_dir() / group / f"{name}.yaml"
    config = OmegaConf.load(path) if path.is_file() else None
    if isinstance(config, DictConfig) and group == "schedule" and "defaults" in config:
        taken: list[Any] = [load(group, str(other)) or {} for other in config.pop("defaults")]
        config = OmegaConf.merge(*taken, config)
    return config if isinstance(config, DictConfig) else None


def options(group: str, folders: Iterable[Path] = ()) -> list[str]:
    """The names that can be chosen in a group, from our own folder and from `folders`."""
    found = {
        file.relative_to(folder / group).with_suffix("").as_posix()
        for folder in (conf_dir(), *folders)
        for file in (folder / group).rglob("*.yaml")
    }
    return sorted(found)


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names that look most like `word`, best first; capitals do not count."""
    lowered: dict[str, str] = {}
    for name in known:
        lowered.setdefault(name.lower(), name)
    close = difflib.get_close_matches(word.lower(), lowered, n=count, cutoff=0.55)
    score = {name: difflib.SequenceMatcher(None, name, word.lower()).ratio() for name in close}
    return [lowered[name] for name in close if score[name] > max(score.values()) - 0.15]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Half a sentence that names the nearest right names, or all of them when nothing is near."""
    known = list(known)
    close = nearest(word, known)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"choose from {', '.join(known[:20])}{', ...' * (len(known) > 20)}" if known else "there are none"


def plain(cfg: DictConfig, key: str) -> Any:
    """The node `key` of `cfg`, resolved, as plain Python. Raises ValueError naming a key without a value."""
    try:
        node = OmegaConf.select(cfg, key, throw_on_missing=True)
        if not OmegaConf.is_config(node):
            return node
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        name = error.full_key or key
        raise ValueError(f"{name} has no value: give one, {name}=...") from error
    except OmegaConfBaseException as error:
        reason = (str(error.msg or error).strip() or type(error).__name__).splitlines()[0]
        if reason.startswith(OURS):
            raise ValueError(reason.removeprefix(OURS)) from error
        raise ValueError(f"{error.full_key or key} cannot be resolved: {reason}") from error


def science(cfg: DictConfig) -> dict[str, Any]:
    """All that changes a run's result but the seed: what is hashed. Raises ValueError as `plain` does."""
    parts = {name: _without(plain(cfg, name), UNHASHED[name]) for name in UNHASHED if name != "teacher"}
    if has_teacher(cfg):
        several = [{**spec, **dict.fromkeys(OWN), **_training(cfg, spec)} for spec in teacher_specs(cfg)]
        parts["teacher"] = several[0] if len(several) == 1 else several
    return {**parts, "precision": plain(cfg, "precision")}


def identity(cfg: DictConfig) -> dict[str, str]:
    """`hash`, 8 hex digits of `science`, and `folder`, whose part below `output` is `below`:

    <output>/<dataset>/<teacher>-<student>/<method>-<hash>/s<seed>, with none for the teacher of a method
    that loads none. Raises ValueError for a value that is missing or cannot be resolved.
    """
    text = json.dumps(canonical(science(cfg)), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    teacher = slug(teacher_name(cfg))
    dataset, student, method = (slug(plain(cfg, f"{name}.name")) for name in ("dataset", "student", "method"))
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
    return taps(cfg) if has_teacher(cfg) else set()


def taps(cfg: DictConfig) -> set[str]:
    """What the method reads of its nets' outputs (method.about.taps)."""
    return set(OmegaConf.select(cfg, "method.about.taps", default=None) or ())


def teacher_specs(cfg: DictConfig) -> list[Spec]:
    """The run's teachers, each as a plain node; none for a method that loads none. Raises ValueError."""
    return expand(plain(cfg, "teacher") or {}, _teacher_node) if has_teacher(cfg) else []


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
    student = load("student", spec["name"]) or OmegaConf.create({"pretrained": False, "lr_scale": 1.0})
    shared = {key: spec[key] for key in ("name", "model", "args", "lr_scale") if key in spec}
    config = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    OmegaConf.set_struct(config, False)
    config["seed"] = spec["seed"]
    config["dataset"] = OmegaConf.merge(cfg.dataset, {key: WHOLE[key] for key in WHOLE if key in cfg.dataset})
    for key, node in _training(cfg, spec).items():
        config[key] = OmegaConf.merge(config["dataset"], node) if key == "dataset" else OmegaConf.create(node)
    if views := cfg.dataset.get("views"):
        config["dataset"]["views"] = {"student": views.get("teacher"), "teacher": views.get("teacher")}
        if not spec.get("chain"):
            config["dataset"]["views"]["teacher"] = None
    config["method"] = _assistants_method(cfg) if spec.get("chain") else load("method", "none")
    if from_paper(cfg):  # this method's protocol, not the teacher's own
        known = OmegaConf.to_container(cfg.method.about, resolve=False).get("protocol")  # type: ignore[union-attr]
        config["method"] = OmegaConf.merge(config["method"], {"about": {"protocol": None}})
        config["method"]["about"]["protocol"] = known
    config["student"] = OmegaConf.merge(dict.fromkeys(OF_STUDENTS), student, shared)
    chain = spec.get("chain")
    if chain:  # the nets before it are trained as it is, which is now the run's own way
        spec = {key: value for key, value in spec.items() if key not in OWN}
    config["teacher"] = {**named(chain[-1], spec, _teacher_node), "chain": chain} if chain else None
    return config


def _training(cfg: DictConfig, spec: Spec) -> dict[str, Spec]:
    return training(spec, plain(cfg, "dataset"), _schedule_file)


def _schedule_file(name: str) -> Spec:
    node = load("schedule", name)
    if name == "paper":
        raise ValueError("teacher.schedule=paper: a teacher has no method of its own: name a file of conf/schedule")
    if node is None:
        raise ValueError(f"there is no schedule '{name}' (teacher.schedule): {did_you_mean(name, options('schedule'))}")
    return _container(node)


def _assistants_method(cfg: DictConfig) -> Any:
    """method=takd: this run's if it is that, otherwise its defaults for the data set."""
    if str(cfg.method.name) == "takd":
        return cfg.method
    tuned = load("tuned", f"{cfg.dataset.name}-takd") or OmegaConf.create({"method": {}})
    return OmegaConf.merge(load("method", "takd") or {}, tuned.method)


def _teacher_node(name: str) -> Spec:
    node = load("teacher", name)
    if node is None:
        raise ValueError(f"there is no teacher '{name}': {did_you_mean(name, options('teacher'))}")
    return _container(node)


def slug(name: Any) -> str:
    """A name that is safe as one folder: letters, digits and . _ + - stay, all else becomes a hyphen."""
    return re.sub(r"[^A-Za-z0-9._+]+", "-", str(name)).strip("-.") or "x"


def build(node: DictConfig | Mapping[str, Any], **objects: Any) -> Any:
    """The object that a config node describes: its `_target_`, called with `objects` and the other keys.

    Raises ValueError for a target outside distill, a key that the class does not take or one that it misses.
    """
    arguments = _container(node)
    target = str(arguments.pop("_target_", ""))
    label = str(arguments.pop("name", target))
    arguments.pop("about", None)
    kind = _locate(target, label)
    known, required = _keywords(kind)
    arguments = {key: value for key, value in arguments.items() if key in known or value is not None}
    for key in arguments:
        if key not in known:
            raise ValueError(f"{label} does not take the key '{key}': {did_you_mean(key, sorted(known))}")
    if missing := sorted(required - set(arguments)):
        raise ValueError(f"{label} needs a value for {', '.join(missing)}: add it to its YAML")
    return kind(**objects, **arguments)


def class_of(node: DictConfig) -> Any:
    """The class that a config node names. Raises ValueError for a target outside distill."""
    return _locate(plain(node, "_target_"), plain(node, "name"))


def register() -> None:
    """Make the resolvers known to OmegaConf; calling it again does no harm."""
    from distill.help_page import group_options  # these read this module
    from distill.peer_rates import peer_rates
    from distill.protocol import value as paper_value

    resolvers: dict[str, Any] = {"run_folder": _run_folder, "by_pair": _by_pair, "by_method": _by_method}
    resolvers |= {"by_value": _by_value, "group_options": group_options, "peer_rates": peer_rates, "paper": paper_value}
    renamed = omegaconf.__version__ >= "2.4"  # the old name warns; before, the new one differs
    add: Any = OmegaConf.register_resolver if renamed else OmegaConf.register_new_resolver
    for name, resolver in resolvers.items():
        add(name, resolver, replace=True)


def _run_folder(part: str = "folder", *, _root_: DictConfig) -> str:
    return identity(_root_)[part]


def _by_pair(default: Any, table: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    return table.get(f"{_last_teacher(_root_)}-{plain(_root_, 'student.name')}", default)


def _by_method(default: Any, table: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    return table.get(str(_root_.method.name), default)


def _by_value(value: Any, default: Any, table: Mapping[str, Any]) -> Any:
    return table.get(str(value), default)


def _last_teacher(cfg: DictConfig) -> str:
    """The name that tables of pairs know the teacher by: at the end of a chain, its last net."""
    if not has_teacher(cfg):
        return str(plain(cfg, "teacher.name"))
    return label([{**spec, "chain": []} for spec in teacher_specs(cfg)])


def _without(node: Any, left_out: set[str]) -> Any:
    """`node` less some keys, if it is a dictionary."""
    return {key: node[key] for key in node if key not in left_out} if isinstance(node, dict) else node


def canonical(value: Any) -> Any:
    """One spelling of equal configurations: 1.0 is 1, and a null key is as good as an absent one."""
    if isinstance(value, Mapping):
        items = {str(key): canonical(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not None and item != {}}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _container(node: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    holder = node if isinstance(node, DictConfig) else OmegaConf.create(dict(node))
    return {str(key): plain(holder, str(key)) for key in holder}


def _locate(target: str, label: str) -> type:
    """The class behind a dotted path below `distill.`; nothing else may be named by a configuration."""
    module, _, name = target.rpartition(".")
    if not target.startswith("distill.") or not all(part.isidentifier() for part in target.split(".")):
        raise ValueError(f"{label}: _target_ must name something below 'distill.', not '{target}'")
    try:
        kind: type = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{label}: there is no '{target}' ({error}): check _target_ in its YAML") from error
    if not inspect.isclass(kind):
        raise ValueError(f"{label}: '{target}' is not a class: check _target_ in its YAML")
    return kind


def _keywords(kind: type) -> tuple[set[str], set[str]]:
    """All keyword-only arguments of a class, and those without a default; **kwargs stand for its base's."""
    known: dict[str, bool] = {}
    for call in [vars(cls)["__init__"] for cls in kind.__mro__ if "__init__" in vars(cls)]:
        parameters = inspect.signature(call).parameters.values()
        for item in parameters:
            if item.kind is item.KEYWORD_ONLY:
                known.setdefault(item.name, item.default is item.empty)
        if not any(item.kind is item.VAR_KEYWORD for item in parameters):
            break
    return set(known), {name for name, needed in known.items() if needed}
