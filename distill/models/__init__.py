"""Networks: the CIFAR families, and FeatureNet, which shows any classifier's stages to the methods.

Names are loaded on first use, so that `distill.config.net_names` can be imported without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.models.builder import build
    from distill.models.feature_net import FeatureNet
    from distill.models.outputs import Outputs
    from distill.models.weights import load_weights

_HOMES = {"build": "builder", "FeatureNet": "feature_net", "Outputs": "outputs", "load_weights": "weights"}

__all__ = ["FeatureNet", "Outputs", "build", "load_weights"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
