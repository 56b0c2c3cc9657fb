"""Which parameters learn more slowly, which do not decay, and how gradients are clipped: by timm's functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatch
from typing import Any

from torch import nn

from distill.models import FeatureNet
from distill.start import layers_unknown


def nets_of(modules: Iterable[nn.Module]) -> list[FeatureNet]:
    """The nets among modules and their parts."""
    return [part for module in modules for part in module.modules() if isinstance(part, FeatureNet)]


def layer_scales(nets: Sequence[FeatureNet], decay: float) -> dict[int, float]:
    """The share of the rate of each trained parameter, by its id: decay^k for the k-th layer below the classifier.

    timm's param_groups_layer_decay, after BEiT (Bao et al., ICLR 2022, arXiv:2106.08254). Raises ValueError for a net
    that does not tell its layers.
    """
    from timm.optim import param_groups_layer_decay  # imports timm, which takes seconds

    found: dict[int, float] = {}
    for net in nets:
        if not any(p.requires_grad for p in net.parameters()):
            continue
        if not hasattr(net.model, "group_matcher"):
            raise ValueError(layers_unknown(net.name, decay))
        groups = param_groups_layer_decay(net.model, layer_decay=decay)
        found |= {id(p): float(group["lr_scale"]) for group in groups for p in group["params"]}
    return found


def undecayed(parameters: Iterable[nn.Parameter], nets: Sequence[FeatureNet], *, named: bool) -> set[int]:
    """The ids of parameters that do not decay: norms, biases and, if `named`, what a net of timm names (tokens)."""
    found = {id(p) for p in parameters if p.ndim <= 1}
    for net in nets:
        own: Any = getattr(net.model, "no_weight_decay", tuple)() if named else ()
        patterns = (*own, "*.bias")
        found |= {id(p) for name, p in net.model.named_parameters() if any(fnmatch(name, each) for each in patterns)}
    return found


def clip(parameters: Sequence[nn.Parameter], limit: float, mode: str, heads: Collection[int]) -> None:
    """Clip gradients: the norm of all, each value, or each unit's norm beside its weight's (adaptive, NFNets: Brock et
    al., ICML 2021, arXiv:2102.06171, which leaves out the classifier; `heads` are the ids of such parameters).
    """
    if mode == "norm":
        nn.utils.clip_grad_norm_(parameters, limit)
        return
    from timm.utils import dispatch_clip_grad  # imports timm, which takes seconds

    clipped = [p for p in parameters if not (mode == "agc" and id(p) in heads)]
    dispatch_clip_grad(clipped, limit, mode)
