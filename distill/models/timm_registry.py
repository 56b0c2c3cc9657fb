"""Puts our nets into timm's registry: import this, and `timm.create_model("cifar_resnet20")` works, and so does
`timm.create_model("local-dir:FOLDER", pretrained=True)` for a folder that `distill export` wrote.
"""

from dataclasses import asdict, is_dataclass
from typing import Any

from timm.models import load_pretrained, register_model
from timm.models._registry import is_model

from distill.models.cifar_net import CifarNet
from distill.models.families import CONSTRUCTORS

__all__: list[str] = []


def _register(name: str) -> None:
    def entry(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        **kwargs: Any,
    ) -> CifarNet:
        kwargs.pop("pretrained_model_args", None)  # what timm says of the net that a folder's weights are of
        known = {**_plain(pretrained_cfg), **(pretrained_cfg_overlay or {})}
        if pretrained and not known.get("source"):
            raise ValueError(f"{name} has no published weights: give a checkpoint with checkpoint_path=<file>")
        net = CONSTRUCTORS[name](**kwargs)
        if known:
            net.pretrained_cfg = {**known, "architecture": name}  # type: ignore[assignment]  # a folder's net has its path
        if pretrained:
            load_pretrained(
                net, known, num_classes=net.num_classes, in_chans=known["input_size"][0], cache_dir=cache_dir
            )
        return net

    entry.__name__ = entry.__qualname__ = name
    register_model(entry)


def _plain(known: Any) -> dict[str, Any]:
    return asdict(known) if is_dataclass(known) and not isinstance(known, type) else dict(known or {})


for _name in CONSTRUCTORS:
    if not is_model(_name):
        _register(_name)
