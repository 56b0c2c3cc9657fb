"""Makes timm's classifiers for a data set's images."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from timm.models import load_model_config_from_hf
from torch import nn

from distill.config.net_names import HUBS, LOCAL
from distill.files import first_line
from distill.models.accepted import check_read, refused_key, unexpected
from distill.models.pretrained import reachable
from distill.models.subsampled import subsample_narrow

FILE_INSTEAD = "give a file of them, student.weights, teacher.start or teacher.weights=FILE"


def create(
    name: str, num_classes: int, in_chans: int, size: int, pretrained: bool, args: dict[str, Any]
) -> nn.Module:
    """timm.create_model, with img_size for nets of a fixed size; its errors as one-sentence ValueErrors.

    args: timm's keywords, and `stages`, which is the reader's.
    """
    own = {key: value for key, value in args.items() if key != "stages"}
    net = _created(name, num_classes, in_chans, size, pretrained, own)
    for key in own:
        check_read(key, name, net)
    if (made := getattr(net, "num_classes", num_classes)) != num_classes:
        raise ValueError(f"{name} has {made} classes where {num_classes} are asked for: have its code take num_classes")
    return net


def _created(
    name: str, num_classes: int, in_chans: int, size: int, pretrained: bool, own: dict[str, Any]
) -> nn.Module:
    kwargs = {"num_classes": num_classes, "in_chans": in_chans, "pretrained": pretrained, **own}
    if ":" in name:  # a folder's or a repository's, of what distill export wrote, say: a net of ours
        import distill.models.timm_registry  # noqa: F401
    try:
        if pretrained:
            _no_waiting_for_the_hub()
        if _fixed_size(name) and "img_size" not in own:
            # a few do not know the keyword: reading the first image tells whether the size fits them
            with suppress(TypeError):
                return subsample_narrow(timm.create_model(name, **kwargs, img_size=size))
        return subsample_narrow(timm.create_model(name, **kwargs))
    except Exception as error:
        raise ValueError(_refusal(name, pretrained, kwargs, error)) from error


def pretrained_constants(net: nn.Module, name: str, in_chans: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the images that a pretrained net of timm was trained on; of grey images, those of all channels.

    Raises ValueError for a net whose weights do not say.
    """
    own: Any = getattr(net, "pretrained_cfg", None) or published_cfg(name)
    found = own.get("mean"), own.get("std")
    if not all(found):
        raise ValueError(f"timm does not say how images of {name} are normalised: give its mean and std")
    mean, std = ((sum(v) / len(v),) * in_chans if len(v) != in_chans else tuple(v) for v in found)
    return mean, std


def published_cfg(name: str) -> dict[str, Any]:
    """What timm, or the config.json of a local folder or of the Hub, says of a model's weights: num_classes, mean, std,
    input_size. Nothing where the Hub's is neither here nor to be had.
    """
    if name.startswith(HUBS):
        _no_waiting_for_the_hub()
        with suppress(Exception):  # what makes the net says so
            return dict(load_model_config_from_hf(name.split(":", 1)[1])[0])
        return {}
    if name.startswith(LOCAL):
        own = json.loads((Path(name.removeprefix(LOCAL)) / "config.json").read_text(encoding="utf-8"))
        return {**own, **(own.get("pretrained_cfg") or {})}
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return known.to_dict() if known else {}


def renamed(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A state dict as the authors of a model publish it under the names of timm's, which knows how; else as it is."""
    own = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(own(state, model)) if own else state
    except (KeyError, RuntimeError, ValueError, AttributeError, TypeError):  # of another model
        return state


def _no_waiting_for_the_hub() -> None:
    """Without a network, take downloaded weights only: the hub's client would retry for a minute."""
    import huggingface_hub.constants as hub

    if not hub.HF_HUB_OFFLINE and not reachable(str(urlsplit(hub.ENDPOINT).hostname)):
        hub.HF_HUB_OFFLINE = True


def _fixed_size(name: str) -> bool:
    if name.startswith((LOCAL, *HUBS)):
        return bool(published_cfg(name).get("fixed_input_size"))
    config = timm.get_pretrained_cfg(name.split(".")[0], allow_unregistered=True)
    return config is not None and bool(config.fixed_input_size)


def _refusal(name: str, pretrained: bool, kwargs: dict[str, Any], error: Exception) -> str:
    reason = first_line(error).rstrip(".")
    if pretrained and not isinstance(error, TypeError):
        return f"No pretrained weights of {name} were found ({reason}): {FILE_INSTEAD}"
    given = ", ".join(f"{key}={value}" for key, value in kwargs.items() if key != "pretrained")
    if (unknown := unexpected(error)) is not None:
        with suppress(Exception), torch.device("meta"):
            return refused_key(unknown, name, type(timm.create_model(name)))
    return f"timm cannot make {name} with {given} ({reason}): change the model or its args"
