"""What methods find out of a net before it is trained: what it shows for an image, and what its classifier is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.models import FeatureNet, Outputs
from distill.models.reading import auxiliary_head, evaluating, without_tf32


def probe_outputs(net: FeatureNet) -> Outputs:
    """What a net shows for its fixed image in eval mode, without gradients."""
    with torch.no_grad(), evaluating(net), without_tf32():
        return net(net.probe())


def is_signed(x: Tensor) -> bool:
    """Whether a tensor cannot have come out of a ReLU."""
    return bool((x < 0).any())


def linear_layer(net: FeatureNet) -> nn.Linear | nn.Conv2d:
    """The one layer, linear or a 1x1 convolution, that a net's classifier is; ValueError for others, and for two heads,
    whose mean, or sum, the logits are.
    """
    found = [m for m in net.classifier.modules() if next(m.parameters(recurse=False), None) is not None]
    several = net.two_heads or auxiliary_head(net.model) is not None
    if len(found) != 1 or not isinstance(found[0], nn.Linear | nn.Conv2d) or several:
        raise ValueError(
            f"the classifier of {net.name}, fed with {net.embedding_dim} features, is not one linear layer "
            "that could be reused: take method=crd, which needs none."
        )
    return found[0]
