"""`schedule=paper`: the protocol under which a method's own paper trains on a data set, and a line on it where a run
follows another. Imports neither torch nor timm.

A protocol is a file of conf/schedule, which `about.protocol` of conf/method/<name>.yaml names for each data set, and
for each kind of student where CNNs have another than ViTs and MLPs: {cnn: NAME, vit_mlp: NAME}. Where the authors also
see the images otherwise, the file is of the package `_global_` and has a node `dataset` beside `schedule`; where they
train their teachers by another protocol, or take their best epoch, a node `teacher` says so. Values may depend on the
pair (`${by_pair:...}`), those of `dataset` on the data set (`${by_dataset:...}`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import file_state, load_node, no_such, options, plain, while_unchanged
from distill.config.hashing import from_paper
from distill.config.net_kinds import net_kind
from distill.config.nulls import canonical

_PAPER = "paper"
NETS = ("teacher", "student", "method")  # what values of a protocol may depend on, beside the data set's name
ABOUT = "method.about.protocol"
KEYS = ("size", "mean", "std", "pad", "pad_mode", "flip", "rotate", "randaugment", "cutout",
        "erasing", "auto_augment", "color_jitter", "interpolation")  # of dataset, in protocols


_resolved: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}


def _known(cfg: DictConfig) -> str | Mapping[str, str] | None:
    """What about.protocol names for the run's data set: a file, or one for each kind of student."""
    known = plain(cfg, ABOUT) if OmegaConf.select(cfg, ABOUT) is not None else {}
    found: str | Mapping[str, str] | None = known.get(str(plain(cfg, "dataset.name")))
    return found


def _name_of(cfg: DictConfig) -> str | None:
    """The file of conf/schedule with the method's own protocol for the data set, None where it has none."""
    found = _known(cfg)
    if isinstance(found, Mapping):
        return found.get(str(net_kind(str(plain(cfg, "student.model")))))
    return None if found is None else str(found)


def required(cfg: DictConfig) -> str:
    """As `name_of`. Raises ValueError where there is none, with the reason and the data sets that have one."""
    found = _name_of(cfg)
    if found is None:
        if isinstance(kinds := _known(cfg), Mapping):
            method, net = plain(cfg, "method.name"), plain(cfg, "student.model")
            raise ValueError(
                f"schedule=paper: method={method} has a protocol for CNNs and another for ViTs and MLPs, and "
                f"student.model={net} is known as neither: choose schedule={' or schedule='.join(kinds.values())}"
            )
        method, dataset = plain(cfg, "method.name"), plain(cfg, "dataset.name")
        known = list(OmegaConf.select(cfg, ABOUT, default=None) or ())
        has = f"has a published protocol for {', '.join(known)} alone" if known else "has no published protocol"
        if why := unscheduled(plain(cfg, "method.about")).get(dataset):
            has = f"has a protocol that is not offered ({why})"
        raise ValueError(f"schedule=paper dataset={dataset}: method={method} {has}: choose a schedule by its name")
    return found


def offered(about: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """Each protocol that `about.protocol` names: (data set, file, kind of student or None for any)."""
    named = [(dataset, own) for dataset, own in (about.get("protocol") or {}).items()]
    by_kind = [(dataset, own if isinstance(own, Mapping) else {None: own}) for dataset, own in named]
    return [(str(dataset), str(name), kind) for dataset, own in by_kind for kind, name in own.items()]


def unscheduled(about: Mapping[str, Any]) -> dict[str, str]:
    """Why a published protocol is not in conf/schedule, by data set: `about.unscheduled` of a method's YAML."""
    return {name: " ".join(str(why).split()) for name, why in (about.get("unscheduled") or {}).items()}


def _read(cfg: DictConfig, name: str) -> dict[str, dict[str, Any]]:
    """The nodes `schedule`, `dataset` and `teacher` of conf/schedule/<name>.yaml, with the values of the run's pair."""
    nodes = _nodes(name)
    if "${" not in str(nodes):
        return nodes
    key = (str(cfg.dataset.name), str(nodes), str([_unresolved(cfg, key) for key in NETS]))
    if key not in _resolved:  # once a run: each value is asked for by itself
        shared = OmegaConf.masked_copy(cfg, [key for key in NETS if key in cfg])
        OmegaConf.set_struct(shared, False)
        shared["dataset"] = {key: cfg.dataset.get(key) for key in ("name", "kind")}
        if shared.get("teacher"):
            shared["teacher"].update(schedule=None, epoch=None)  # which no value of a protocol depends on
        shared[_PAPER] = nodes
        _resolved[key] = plain(shared, _PAPER)
    return _resolved[key]


def _unresolved(cfg: DictConfig, key: str) -> Any:
    node: Any = cfg._get_node(key)
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node and node._value()


def protocol_value(key: str, *, _root_: DictConfig) -> Any:
    """`${paper:KEY}`: a value of the method's own protocol, such as schedule.epochs.

    A key of the data set that the protocol leaves alone has the value of conf/dataset/<name>.yaml.
    """
    nodes = while_unchanged(_root_, "its protocol", lambda: _read(_root_, required(_root_)))
    group, _, rest = key.partition(".")
    found = _lookup(nodes[group], rest)
    if found is None and group == "dataset":
        found = _lookup(_dataset(str(_root_.dataset.name)), rest)
    return found


def by_dataset(key: str, table: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """`${by_dataset:KEY,{NAME: VALUE, ...}}`: the value for the data set of that name, and that of its own file for any
    other, in a protocol under which the authors train on several.
    """
    name, kind = (str(_root_.dataset.get(each)) for each in ("name", "kind"))
    own = name if name in options("dataset") else kind
    return table[name] if name in table else _dataset(own).get(key)


def protocol_note(cfg: DictConfig) -> str | None:
    """One line on the method's own protocol for the data set, None where it has none or the run follows it.

    None as well for one that is no file of ours, as in the record of a run of long ago.
    """
    name = None if from_paper(cfg) else _name_of(cfg)
    if name is None or name not in options("schedule"):
        return None
    paper = _read(cfg, name)
    usual = _dataset(str(cfg.dataset.name))
    here = {"schedule": plain(cfg, "schedule"), "dataset": plain(cfg, "dataset")}
    asked = paper["dataset"] | {key: usual.get(key) for key in set(KEYS) - set(paper["dataset"])}
    same = canonical(paper["schedule"]) == canonical(here["schedule"])
    if same and canonical(asked) == canonical({key: here["dataset"].get(key) for key in asked}):
        return None
    schedule, own = paper["schedule"], str(here["schedule"].get("name"))
    follows = f"follows schedule={own}" if own != schedule["name"] else "changes it"
    return (
        f"the paper's protocol is schedule={name}: {schedule['epochs']} epochs, batch {schedule['batch_size']}; "
        f"this run {follows}"
    )


def _lookup(node: Mapping[str, Any], key: str) -> Any:
    head, _, rest = key.partition(".")
    found = node.get(head)
    return _lookup(found or {}, rest) if rest else found


def _file(group: str, name: str) -> dict[str, Any]:
    return _read_file(group, name, file_state(group, name))


@cache
def _read_file(group: str, name: str, state: Any) -> dict[str, Any]:
    node = load_node(group, name)
    if node is None:
        raise ValueError(no_such(group, name, options(group)))
    found: Any = OmegaConf.to_container(node, resolve=False)
    return found


def _dataset(name: str) -> dict[str, Any]:
    return {key: value for key, value in _file("dataset", name).items() if key in KEYS}


def _nodes(name: str) -> dict[str, Any]:
    """A file's nodes, not yet resolved; one that is not of the package `_global_` is all schedule."""
    node = _file("schedule", name)
    return {"dataset": {}, "teacher": {}, **(node if "schedule" in node else {"schedule": node})}
