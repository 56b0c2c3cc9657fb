"""Further copies of a net's last stages and classifier, side by side on the same map (ONE, OKDDip, MCL)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.models import FeatureNet
from distill.models.cifar_net import CifarNet
from distill.models.reading import evaluating, is_self_contained, without_tf32


class Branch(nn.Module):
    """The last stages and all that follows them, newly initialised; what comes before is not kept.

    Raises ValueError for a net with no stage before them, or whose last ones are not modules on the map before.
    """

    def __init__(self, net: FeatureNet, stages: int = 1) -> None:
        super().__init__()
        check_divides(net, stages)
        self.net, self.stages = net.twin(), stages
        prune_unused(self, torch.ones(1, *net.shapes[-1 - stages], device=next(net.parameters()).device))

    def forward(self, feature: Tensor) -> Tensor:
        """Map before the last stages [B,C,H,W] -> logits [B,K]."""
        return self.net.classify(last_stages(self.net, feature, self.stages))

    def finish(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Map before the last stages [B,C,H,W] -> logits [B,K] and what enters the classifier [B,D]."""
        entered: list[Tensor] = []
        hook = self.net.classifier.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        try:
            logits = self(feature)
        finally:
            hook.remove()
        return logits, entered[0].flatten(1).float()


class BranchedOutput(nn.Module):
    """A net up to where a branch begins, and that branch, as they are evaluated; gives logits [B,K]."""

    def __init__(self, net: FeatureNet, branch: Branch) -> None:
        super().__init__()
        self.net, self.branch = net, branch

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.branch(self.net(inputs).features[-1 - self.branch.stages])
        return logits


def last_stages(net: FeatureNet, feature: Tensor, stages: int) -> Tensor:
    """Run the last stages on the map before them."""
    model = net.model
    if isinstance(model, CifarNet):
        for index in range(len(model.stage_names) - stages, len(model.stage_names)):
            feature = model.stage(index, feature)[0]
        return feature
    infos: Any = model.feature_info
    for info in list(infos)[-stages:]:
        feature = model.get_submodule(info["module"])(feature)
    return feature


def check_divides(net: FeatureNet, stages: int = 1) -> None:
    """Raise ValueError unless the last stages and the classifier give the net's own logits."""
    if len(net.shapes) <= stages:
        raise ValueError(f"{net.name} with stages {net.shapes} has none that branches could share: use method=dml.")
    with torch.no_grad(), evaluating(net), without_tf32():
        probed = net(net.probe())
    entry = probed.features[-1 - stages]
    if not is_self_contained(net, lambda: net.classify(last_stages(net, entry, stages)), probed.logits):
        raise ValueError(
            f"{net.name} with stages {net.shapes} cannot be divided before stage {-stages}: use whole nets as "
            "peers, with method=dml or method=okddip."
        )


def prune_unused(branch: nn.Module, feature: Tensor) -> None:
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
