"""Putting weights of a checkpoint file into a network, and saying what does not fit."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from distill.content.state_file import State, read_state, state_below
from distill.models.cifar_net import CifarNet
from distill.models.families import CONSTRUCTORS
from distill.models.feature_net import FeatureNet
from distill.models.prototype import without_memory


def load_weights(net: FeatureNet, path: str | Path) -> None:
    """Copy the weights in `path` into net.model, all of them and nothing else.

    Raises ValueError naming the file when it is missing, damaged, would run code, or belongs to another
    network (then also the network that fits, if it is one of ours).
    """
    path = Path(path)
    state = read_state(path)
    own = net.model.state_dict()
    problem = mismatch(state, own)
    if problem:
        other = _suggestion(net, state) or _of_several(net, state, path)
        raise ValueError(f"{path} does not fit {net.name}: {problem}{other}")
    net.model.load_state_dict({**own, **state})


def mismatch(state: State, own: Mapping[str, Tensor]) -> str:
    """What keeps `state` from fitting `own`; empty when it fits. Old files lack num_batches_tracked."""
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in own]
    shapes = [
        f"{key} is {_size(state[key])} and should be {_size(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    parts = [_some("lacks", missing), _some("has unknown", extra), _some("", shapes)]
    return "; ".join(part for part in parts if part)


def _some(verb: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - 2} more" if len(items) > 2 else ""
    return f"{verb} {', '.join(items[:2])}{more}".strip()


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _suggestion(net: FeatureNet, state: State) -> str:
    fitting = fitting_names(state)
    if not fitting:
        return ""
    name, classes, channels = next((each for each in fitting if each[0] == net.name), fitting[0])
    if name != net.name:
        return f" (it fits {name} with {classes} classes: set model={name})"
    wanted = f"{net.num_classes} and {net.in_chans}"
    return f" (it is {name} for {classes} classes and {channels} channels, this run has {wanted})"


def _of_several(net: FeatureNet, state: State, path: Path) -> str:
    """How to name the part of a state that fits, where one does: one net of several, or what is below a name."""
    words, own = dict.fromkeys(key.partition(".")[0] for key in state), net.model.state_dict()
    fits = [] if "::" in path.name else [word for word in words if not mismatch(state_below(state, word), own)]
    return f" ({' and '.join(fits)} of it would fit: {path}::{fits[0]} takes that)" if fits else ""


def fitting_names(state: State) -> list[tuple[str, int, int]]:
    """Our nets whose checkpoint this is: (name, classes, input channels), by building each without memory."""
    matrices = [value for value in state.values() if value.ndim == 2]
    kernels = [value for value in state.values() if value.ndim == 4]
    if not matrices or not kernels:
        return []
    classes, channels = matrices[-1].shape[0], kernels[0].shape[1]
    return [(name, classes, channels) for name in CONSTRUCTORS if _fits(state, name, classes, channels)]


def _fits(state: State, name: str, classes: int, channels: int) -> bool:
    with without_memory():
        model: CifarNet = CONSTRUCTORS[name](classes, channels)
    return not mismatch(state, model.state_dict())
