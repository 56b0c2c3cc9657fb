"""What the CIFAR families share: timm's model contract, and all taps in one forward pass.

A family writes its modules (named as in the public checkpoints), `stem()` and blocks that end *before* their
last ReLU; this class runs them, keeps the maps on both sides of the ReLU, pools, and classifies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.subsampled import SAFE_CHANNELS, SubsampledConv


@dataclass
class Trace:
    """Maps of one pass: the stem (where there is one), every stage's output, and its pre-activation if it has one.

    last: what the pass has come to, which in the end is the last stage's output.
    """

    last: Tensor
    stem: Tensor | None = None
    features: list[Tensor] = field(default_factory=list)
    preacts: list[Tensor] = field(default_factory=list)

    @property
    def maps(self) -> list[Tensor]:
        """Stem and stages, shallow to deep."""
        return self.features if self.stem is None else [self.stem, *self.features]

    def add(self, feature: Tensor, preact: Tensor | None) -> None:
        self.last = feature
        self.features.append(feature)
        if preact is not None:
            self.preacts.append(preact)


class CifarNet(nn.Module):
    """A classifier of small images in timm's contract; any image size that survives the strides.

    Families set `classifier_name` (the last layer's attribute), `stem_name` (None: the first stage reads the
    image) and `stage_names`, and call `describe()`.
    """

    classifier_name = "fc"
    stem_name: str | None = "bn1"
    stage_names: tuple[str, ...] = ("layer1", "layer2", "layer3")
    has_preacts = True

    num_classes: int
    num_features: int
    head_hidden_size: int
    feature_info: list[dict[str, Any]]

    def describe(
        self, num_classes: int, channels: Sequence[int], reductions: Sequence[int], width: int
    ) -> None:
        """Fill in timm's attributes. channels, reductions: the stem if there is one, then every stage; width: D."""
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = width
        modules = (*([self.stem_name] if self.stem_name else []), *self.stage_names)
        self.feature_info = [
            {"num_chs": c, "reduction": r, "module": m}
            for c, r, m in zip(channels, reductions, modules, strict=True)
        ]
        setattr(self, self.classifier_name, self.new_classifier())

    def new_classifier(self) -> nn.Module:
        return nn.Linear(self.num_features, self.num_classes) if self.num_classes else nn.Identity()

    def stem(self, inputs: Tensor) -> Tensor:
        """images [B, C, H, W] -> [B, C_0, H_0, W_0]."""
        raise NotImplementedError

    def stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Stage `index` on x -> (its output, the same before the last ReLU). Blocks return the latter."""
        preact = x
        for block in getattr(self, self.stage_names[index]):
            preact = block(x)
            x = F.relu(preact)
        return x, preact

    def tail(self, feature: Tensor, preact: Tensor | None = None) -> Tensor:
        """Last stage's output -> the map that is pooled. preact spares computing it again."""
        return feature

    def trace(self, inputs: Tensor, stages: int | None = None) -> Trace:
        """Run the stem and the first `stages` stages (all by default)."""
        trace = Trace(inputs)
        if self.stem_name is not None:
            trace.last = trace.stem = self.stem(inputs)
        for index in range(len(self.stage_names[:stages])):
            trace.add(*self.stage(index, trace.last))
        return trace

    def final(self, trace: Trace) -> Tensor:
        """The map that is pooled, from a whole trace."""
        return self.tail(trace.last, trace.preacts[-1] if trace.preacts else None)

    def pool(self, x: Tensor) -> Tensor:
        """What `final` gives -> what enters the classifier [B, D]: the mean over the map."""
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The BatchNorm whose output is each stage's pre-activation; ValueError for families without one."""
        raise ValueError(f"{type(self).__name__} has no BatchNorm right before the ReLU that ends a stage")

    # ---- timm's contract

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.final(self.trace(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[B, C, H, W] -> [B, K], or the pooled [B, D] with pre_logits."""
        x = self.pool(x)
        return x if pre_logits else self.get_classifier()(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Stem (if any) and stages as [B, C, H, W], alone or behind the final map; norm changes nothing."""
        if output_fmt != "NCHW":
            raise ValueError(f"{type(self).__name__} gives its maps as NCHW only, not {output_fmt}")
        if stop_early and not intermediates_only:
            raise ValueError("stop_early needs intermediates_only=True, since the last map is not computed")
        taken = self._taken(indices)
        first = 0 if self.stem_name else 1
        trace = self.trace(x, max(taken) + first if stop_early else None)
        chosen = [trace.maps[i] for i in taken]
        return chosen if intermediates_only else (self.final(trace), chosen)

    def _taken(self, indices: int | Sequence[int] | None) -> list[int]:
        """timm's reading of `indices`: None all, an int the last n, a list those (negative from the end)."""
        count = len(self.feature_info)
        if indices is None:
            return list(range(count))
        if isinstance(indices, int):
            indices = range(count - indices, count)
        return sorted(range(count)[i] for i in indices)

    def get_classifier(self) -> nn.Module:
        return getattr(self, self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a new one for num_classes (0: none). Pooling stays the average."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"{type(self).__name__} pools by the average only, not {global_pool}")
        self.num_classes = num_classes
        setattr(self, self.classifier_name, self.new_classifier())


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """Convolution, without bias unless asked for, that keeps the map's size at stride 1."""
    kind = SubsampledConv if kernel == 1 and stride > 1 and inputs < SAFE_CHANNELS else nn.Conv2d
    return kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


def init_convolutions(net: nn.Module) -> None:
    """He initialisation by fan out, N(0, sqrt(2 / (k * k * C_out))), biases zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
