"""Which teachers a run has: one, several side by side, or the last of a chain of assistants. Imports no torch.

`teacher.models=[resnet56,resnet110]` and `teacher.seeds=[0,1,2]` make several, which may have keys of their own,
`teacher.models=[{model: resnet50, weights: FILE}, {model: vit_small_patch14_dinov2, weights: pretrained}]`;
`teacher.chain=[resnet110,resnet56]` makes one, resnet56, that was itself distilled from resnet110 (method takd).
`teacher.schedule=NAME` and `teacher.dataset.KEY=VALUE` train it otherwise than the student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

Spec = dict[str, Any]
Load = Callable[[str], Spec]
SEVERAL = ("models", "seeds", "chain")
OF_THE_RUN = ("cache",)  # how the run asks its teachers, which changes no teacher
_GIVEN = ("name", "model", "args", "lr_scale", "mean", "std", "weights", "start", "epoch", "size", "seed")
"""Keys of one of several."""
OWN = ("schedule", "dataset")  # how the run that trains a teacher differs from the run that it teaches
_SHOWN = ("size", "mean", "std", "in_chans", "name", "kind", "classes", "num_classes", "labels")
"""How images reach a net, and of which classes, which is the same for a teacher and its student."""
WEIGHT_KINDS = ("auto", "pretrained", "none")


def expand_teachers(teacher: Mapping[str, Any], load: Load) -> list[Spec]:
    """The teachers of a plain teacher node, each as a node of its own; `load` reads conf/teacher/<name>.yaml.

    One that ends a chain has the names before it under `chain`. Raises ValueError for lists that are none, are
    empty, do not go together, or meet weights from a file.
    """
    own = {key: value for key, value in teacher.items() if key not in (*SEVERAL, *OF_THE_RUN)}
    models, seeds, chain = (_listed(teacher, key) for key in SEVERAL)
    if chain and (models or seeds):
        raise ValueError("teacher.chain ends in one teacher: give it without teacher.models and teacher.seeds")
    if chain:
        return [in_chain(chain, own, load)]
    if models and seeds and len(models) != len(seeds):
        count = f"teacher.models has {len(models)} names and teacher.seeds {len(seeds)}"
        raise ValueError(f"{count}: give as many of both")
    if seeds and (twice := [entry for entry in models if isinstance(entry, Mapping) and "seed" in entry]):
        raise ValueError(f"teacher.seeds has a seed for each, and teacher.models one in {twice[0]}: give one of them")
    several = [named(name, own, load) for name in models] or [own] * max(len(seeds), 1)
    if len(several) > 1:
        _no_file(own)
    return [{**spec, "seed": seed} for spec, seed in zip(several, seeds, strict=True)] if seeds else several


def named(name: Any, own: Spec, load: Load) -> Spec:
    """The teacher of that name, with seed, kind of weights and training as the run's teacher node asks for.

    name: of a file in conf/teacher, or keys of one of several: {name: FILE or model: NET, weights: FILE, size: 224}.
    """
    _no_file(own)
    entry = dict(name) if isinstance(name, Mapping) else {"name": str(name)}
    if unknown := [key for key in entry if key not in _GIVEN]:
        raise ValueError(f"teacher.models has the key '{unknown[0]}' in {entry}: its keys are {', '.join(_GIVEN)}")
    node = _of_model(entry) if "model" in entry else load(str(entry["name"]))
    trained = {key: own[key] for key in (*OWN, "start", "epoch") if key in own}
    weights = own.get("weights", "auto")
    weights = node.get("weights", weights) if weights == "auto" else weights  # a file of one's own may name its weights
    found = {**node, "seed": own.get("seed", 0), "weights": weights, **trained, **entry}
    if "epoch" in entry and not is_trained(found):
        given = f"epoch={entry['epoch']} is of a training, and weights={found['weights']} is none"
        raise ValueError(f"teacher.models: {given}: leave one of them away")
    return found


def _of_model(entry: Spec) -> Spec:
    """A teacher of no file in conf/teacher."""
    return {"name": str(entry["model"]), "args": {}, "lr_scale": 1.0, "mean": None, "std": None, **entry}


def in_chain(chain: Sequence[Any], own: Spec, load: Load) -> Spec:
    """The last net of a chain, first taught first, with the names before it. Raises ValueError for one that is not
    trained here, whom nobody before it could have taught.
    """
    last = named(chain[-1], own, load)
    if len(chain) > 1 and not is_trained(last):
        before, given = ", ".join(map(str, chain[:-1])), f"teacher.weights={last['weights']}"
        raise ValueError(f"teacher.chain: {chain[-1]} has {given}, and is not taught by {before}: leave the chain "
                         "away, or give it teacher.weights=auto")  # fmt: skip
    return {**last, "chain": [str(name) for name in chain[:-1]]} if len(chain) > 1 else last


def is_trained(spec: Spec) -> bool:
    """Whether a teacher is trained by a run of ours: one of teacher.weights=auto."""
    return str(spec.get("weights", "auto")) == "auto"


def training(spec: Spec, seen: Mapping[str, Any], load: Load) -> dict[str, Spec]:
    """What the run that trains a teacher has of its own: {"schedule": ..., "dataset": ...}; {} where it has nothing.

    spec: the teacher; seen: the run's data set; load reads conf/schedule/<name>.yaml, whose own `dataset` node counts
    too, after teacher.dataset. Raises ValueError for a key that the data set has not, and for images of another size,
    scale or classes than the student's.
    """
    name, given = spec.get("schedule"), {k: v for k, v in (spec.get("dataset") or {}).items() if v is not None}
    if (name is None and not given) or not is_trained(spec):
        return {}
    what = f"teacher.schedule={name}" if name is not None else f"teacher.dataset.{next(iter(given))}"
    node = load(str(name)) if name is not None else {}
    whole = isinstance(node.get("schedule"), Mapping)
    data = {**(node.get("dataset") or {} if whole else {}), **given}
    for key, value in data.items():
        if key not in seen:
            raise ValueError(f"{what}: the data set {seen.get('name')} has no key '{key}'")
        if key in _SHOWN and value != seen[key]:
            raise ValueError(f"{what} is for dataset.{key}={value}, not {seen[key]}: give dataset.{key}={value}")
    found = {"schedule": node["schedule"] if whole else node, "dataset": data}
    return {key: own for key, own in found.items() if own}


def label(specs: Sequence[Spec]) -> str:
    """A name for all: resnet56, 3xresnet56, resnet56+resnet110, resnet110-resnet56 for a chain of two."""
    if not specs:
        return "none"
    names = ["-".join([*spec.get("chain", ()), str(spec.get("name"))]) for spec in specs]
    runs = [(name, len(list(same))) for name, same in groupby(names)]
    return "+".join(f"{count}x{name}" if count > 1 else name for name, count in runs)


def _listed(teacher: Mapping[str, Any], key: str) -> list[Any]:
    value = teacher.get(key)
    if value is None:
        return []
    example = "[0,1]" if key == "seeds" else "[resnet56,resnet110]"
    fits = isinstance(value, list) and all(_fits(key, item) for item in value)
    if not fits or not value or (key == "seeds" and min(value) < 0):
        raise ValueError(f"teacher.{key} is {value}: give a list such as teacher.{key}={example}")
    return value


def _fits(key: str, item: Any) -> bool:
    if key == "models" and isinstance(item, Mapping):
        return "name" in item or "model" in item
    return isinstance(item, int if key == "seeds" else str)


def _no_file(own: Spec) -> None:
    if str(own.get("weights", "auto")) not in WEIGHT_KINDS:
        given = f"teacher.weights={own['weights']}"
        raise ValueError(f"{given} is one teacher's file: several take auto, pretrained or none")
