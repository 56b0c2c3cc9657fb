"""Further copies of a net's last stage and classifier, side by side on the same map (ONE, OKDDip)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.models import FeatureNet
from distill.models.cifar_net import CifarNet
from distill.models.reading import evaluating


class Branch(nn.Module):
    """The last stage and all that follows it, newly initialised; what comes before is not kept.

    Raises ValueError for a net whose last stage is not a module on the map before it.
    """

    def __init__(self, net: FeatureNet) -> None:
        super().__init__()
        check_divides(net)
        self.net = net.twin()
        keep_used(self, torch.ones(1, *net.shapes[-2], device=next(net.parameters()).device))

    def forward(self, feature: Tensor) -> Tensor:
        """Map before the last stage [B,C,H,W] -> logits [B,K]."""
        return self.net.classify(last_stage(self.net, feature))

    def finish(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Map before the last stage [B,C,H,W] -> logits [B,K] and what enters the classifier [B,D]."""
        entered: list[Tensor] = []
        hook = self.net.classifier.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        try:
            logits = self(feature)
        finally:
            hook.remove()
        return logits, entered[0].flatten(1).float()


class Divided(nn.Module):
    """A net up to its last stage and a branch from there on, as it is evaluated; gives logits [B,K]."""

    def __init__(self, net: FeatureNet, branch: Branch) -> None:
        super().__init__()
        self.net, self.branch = net, branch

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.branch(self.net(inputs).features[-2])
        return logits


def last_stage(net: FeatureNet, feature: Tensor) -> Tensor:
    """Run the last stage on the map before it."""
    model = net.model
    if isinstance(model, CifarNet):
        return model.stage(len(model.stage_names) - 1, feature)[0]
    infos: Any = model.feature_info
    result: Tensor = model.get_submodule(list(infos)[-1]["module"])(feature)
    return result


def check_divides(net: FeatureNet) -> None:
    """Raise ValueError unless the last stage and the classifier give the net's own logits."""
    device = next(net.parameters()).device
    images = torch.randn(1, net.in_chans, net.size, net.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), evaluating(net):
        seen = net(images.to(device))
        try:
            logits = net.classify(last_stage(net, seen.features[-2]))
            divides = torch.allclose(logits, seen.logits, rtol=1e-3, atol=1e-4)
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            divides = False
    if not divides:
        raise ValueError(
            f"{net.name} with stages {net.shapes} cannot be divided before its last stage: use whole nets as "
            "peers, with method=dml or method=okddip."
        )


def keep_used(branch: nn.Module, feature: Tensor) -> None:
    """Take the modules out of a branch whose parameters its output does not depend on."""
    with torch.enable_grad(), evaluating(branch):
        branch(feature).sum().backward()
    used = {id(p) for p in branch.parameters() if p.grad is not None}
    branch.zero_grad(set_to_none=True)
    for module in list(branch.modules()):
        for name, child in list(module.named_children()):
            parameters = list(child.parameters())
            if parameters and not any(id(p) in used for p in parameters):
                setattr(module, name, nn.Identity())
