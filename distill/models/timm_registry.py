"""Puts our nets into timm's registry: import this, and `timm.create_model("cifar_resnet20")` works."""

from typing import Any

from timm.models import register_model
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
        if pretrained:
            raise ValueError(
                f"{name} has no published weights: give a checkpoint with checkpoint_path=<file>"
            )
        return CONSTRUCTORS[name](**kwargs)

    entry.__name__ = entry.__qualname__ = name
    register_model(entry)


for _name in CONSTRUCTORS:
    if not is_model(_name):
        _register(_name)
