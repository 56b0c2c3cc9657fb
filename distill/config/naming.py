"""What a net is called: by the name of its file in conf/, or, where its model is not that file's, by its model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from distill.config.groups import file_state, load_node, options, plain


def following(group: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a student or teacher, under the name of its model where that is not the model of the name's file."""
    name, model = node.get("name"), node.get("model")
    if name is None or model is None or _model(group, str(name)) in (None, str(model)):
        return dict(node)
    called = _names(group).get(str(model), str(model))
    taken = _model(group, called) not in (None, str(model))  # timm's vgg13 is not the one of conf/student/vgg13.yaml
    return {**node, "name": f"timm_{called}" if taken else called}


def _model(group: str, name: str) -> str | None:
    """The model of a file in conf/; None where there is no such file, or it names none."""
    return _read_model(group, name, file_state(group, name))


@cache
def _read_model(group: str, name: str, state: Any) -> str | None:
    node = load_node(group, name)
    if node is None or "model" not in node or _missing(node):
        return None
    return str(plain(node, "model"))


def _names(group: str) -> dict[str, str]:
    """The names of the files whose nets are their model with nothing added, by model."""
    return _read_names(group, tuple(file_state(group, name) for name in options(group)))


@cache
def _read_names(group: str, states: Any) -> dict[str, str]:
    plains = [name for name in options(group) if (node := load_node(group, name)) is not None and not node.get("args")]
    return {model: name for name in reversed(plains) if (model := _model(group, name)) is not None}


def _missing(node: Any) -> bool:
    from omegaconf import OmegaConf

    return OmegaConf.is_missing(node, "model")
