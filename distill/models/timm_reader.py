"""Reads timm's nets, classifiers and backbones: which maps are stages, what enters the classifier, what follows the
last map.
"""

import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from distill.models.outputs import Outputs
from distill.models.reading import NO_VALUES, drops_patches, evaluating, wrong_size
from distill.models.tails import TAILS, Tail, norms_apart
from distill.models.tap import Tap

ISOTROPIC_STAGES = 4


class Unreadable(ValueError):
    """This kind of network cannot be read at any size."""


class TimmReader:
    """Reads one timm model; everything about its structure is found at construction, with one probe image.

    stages: only that many of the deepest stages, for pairs of nets that have not equally many.
    Raises ValueError when the model has no forward_intermediates, gives no maps, or refuses the probe's size.
    """

    def __init__(self, model: Any, name: str, probe: Tensor, stages: int | None = None) -> None:
        self.name = name
        if not hasattr(model, "forward_intermediates"):
            raise Unreadable(
                f"{name} does not give intermediate maps (forward_intermediates): take another timm model"
            )
        indices = stage_indices(model.feature_info)
        if stages is not None:
            if not 1 <= stages <= len(indices):
                raise Unreadable(f"{name} has {len(indices)} stages, not {stages}: change stages in its args")
            indices = indices[-stages:]
        self.has_stem = has_stem(model.feature_info)
        self.indices = [0, *indices] if self.has_stem else indices
        layers = _classifiers(model)
        self.taps = [_tap(layer) for layer in layers]
        self.head_taps = [_tap(layer, output=True) for layer in layers] if len(layers) == 2 else []
        self.stages = [str(model.feature_info[i]["module"]) for i in indices]
        self.relu_taps = [_tap(relu) for relu in _last_relus(model, self.stages)]
        self.early_taps = [_tap(block, output=True) for block in _first_blocks(model)]
        self.asks = {"return_prefix_tokens": True} if has_prefix(model) else {}
        self.tail: Tail | None = None
        with torch.no_grad(), evaluating(model), norms_apart(model):
            try:
                self._learn(model, probe)
            except (Unreadable, NotImplementedError):
                raise
            except (RuntimeError, AssertionError, IndexError, TypeError, ValueError) as error:
                raise ValueError(wrong_size(name, probe.shape[-1], probe.shape[1], error)) from error

    def _learn(self, model: Any, probe: Tensor) -> None:
        """Check the reading against the model itself, and find what leads from the last map to the head."""
        seen = self.read(model, probe)
        answer, read = model(probe), seen.embedding if seen.logits is None else seen.logits
        if not isinstance(answer, Tensor) or answer.shape != read.shape or not _close(read, answer):
            raise Unreadable(
                f"{self.name} cannot be read: its forward is not forward_intermediates and forward_head"
            )
        if any(feature.ndim != 4 for feature in seen.features):
            raise Unreadable(f"{self.name} gives no [B, C, H, W] maps: take another timm model")
        for tail in TAILS:
            if self._leads_to(model, tail, seen.features[-1], seen.embedding):
                self.tail = tail
                return

    def _leads_to(
        self,
        model: Any,
        tail: Tail,
        feature: Tensor,
        embedding: Tensor,
    ) -> bool:
        try:
            found = self._head(model, tail(model, feature))[1]
        except (RuntimeError, AttributeError, TypeError, IndexError, AssertionError, ValueError):
            return False
        return found.shape == embedding.shape and _close(found, embedding)

    def read(self, model: Any, inputs: Tensor) -> Outputs:
        if model.training and drops_patches(model):  # what is left of the patches makes no map
            logits, embedding, heads = self._head(model, model.forward_features(inputs))
            return Outputs(logits, [], embedding.float(), heads=heads)
        for tap in (*self.relu_taps, *self.early_taps):
            tap.arm()
        final, maps = model.forward_intermediates(inputs, indices=self.indices, **self.asks)
        if not isinstance(final, Tensor):
            raise Unreadable(f"{self.name} cannot be read: its head takes maps of several stages, and not one")
        prefixes = [prefix for _, prefix in maps] if self.asks else None
        maps = [feature for feature, _ in maps] if self.asks else maps
        before, early = ([tap.take() for tap in taps] for taps in (self.relu_taps, self.early_taps))
        logits, embedding, heads = self._head(model, final)
        stem, features = (maps[0], maps[1:]) if self.has_stem else (None, list(maps))
        preacts = [x for x in before if x is not None]
        tokens, others = _told_apart(final, features[-1], getattr(model, "num_prefix_tokens", 0))
        shown = self._map(model, final) if final.ndim == 4 else None
        return Outputs(
            logits, features, embedding.float(), preacts or None, stem, tokens, prefixes, heads, shown,
            _patches_of(early, features[-1]), others,
        )  # fmt: skip

    def _head(self, model: Any, final: Tensor) -> tuple[Any, Tensor, tuple[Tensor, Tensor] | None]:
        """forward_head (None without a classifier), what enters the classifier (the mean, where two tokens have one
        each), and either's logits.
        """
        if not model.num_classes:
            return None, model.forward_head(final).flatten(1), None
        for tap in (*self.taps, *self.head_taps):
            tap.arm()
        logits = model.forward_head(final)
        inputs = [x.flatten(1) for x in (tap.take() for tap in self.taps) if x is not None]
        if not inputs:
            raise Unreadable(f"{self.name} cannot be read: its forward_head does not use its classifier")
        if len(inputs) == 1:
            return logits.float(), inputs[0], None
        first, second = (x.float() for tap in self.head_taps if (x := tap.take()) is not None)
        return logits.float(), torch.stack(inputs).mean(0), (first, second)

    def classify(self, model: Any, feature: Tensor) -> Tensor:
        if self.tail is None:
            raise ValueError(
                f"{self.name}'s classifier does not read its last map alone: take a net that pools its map"
            )
        return model.forward_head(self.tail(model, feature))

    def stage(self, model: Any, index: int, feature: Tensor) -> Tensor:
        module = model.get_submodule(self.stages[index])
        if _channels_last(model):
            shown: Tensor = module(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            shown = module(feature)
        if index < len(self.stages) - 1:
            return shown
        if self.tail is None:
            raise ValueError(f"{self.name}'s classifier does not read its last map alone")
        return self._map(model, self.tail(model, shown))

    def head(self, model: Any, final: Tensor) -> Tensor:
        return model.forward_head(final.permute(0, 2, 3, 1) if _channels_last(model) else final)

    def _map(self, model: Any, final: Tensor) -> Tensor:
        """What forward_features gives, [B, D, H, W] whatever the model's own format."""
        return final.permute(0, 3, 1, 2) if _channels_last(model) else final

    def classifier(self, model: Any) -> nn.Module:
        return _classifiers(model)[0]

    def bn_before_relu(self, model: Any) -> list[nn.BatchNorm2d]:
        norms: list[Any] = [
            block.bn3 if isinstance(block, Bottleneck) else block.bn2 for block in _last_blocks(model, self.stages)
        ]
        if not norms or not all(isinstance(norm, nn.BatchNorm2d) for norm in norms):
            raise ValueError("only timm's ResNets are known to end their stages in BatchNorm, sum, ReLU")
        return norms


# ---- the model's structure


def has_stem(infos: Sequence[dict[str, Any]]) -> bool:
    """Whether the first map is at most halved and of another kind than the second (act1 before layer1)."""
    kinds = [re.sub(r"\d+", "", str(info["module"])) for info in infos[:2]]
    return not _isotropic(infos) and kinds[0] != kinds[-1] and infos[0]["reduction"] <= 2


def has_prefix(model: Any) -> bool:
    """Whether tokens stand before the patches, and the model gives them at every stage."""
    known = inspect.signature(model.forward_intermediates).parameters
    return getattr(model, "num_prefix_tokens", 0) > 0 and "return_prefix_tokens" in known


def stage_indices(infos: Sequence[dict[str, Any]]) -> list[int]:
    """Which maps are stages: the last of each resolution, or four of an isotropic net, after shares of its blocks."""
    count = len(infos)
    if _isotropic(infos):
        return isotropic_stages(count)
    start = int(has_stem(infos))
    last = {info["reduction"]: i for i, info in enumerate(infos) if i >= start}
    return sorted(last.values())


def isotropic_stages(count: int) -> list[int]:
    """Four of `count` alike blocks, 0-based: after 2, 4, 10 and 12 twelfths of them, which is where Swin's stages end
    and where OFA-KD taps ViTs and MLPs (custom_forward/*.py); evenly where so few blocks are that two would coincide.
    """
    ends = [round(count * twelfths / 12) - 1 for twelfths in (2, 4, 10, 12)]
    if ends[0] >= 0 and len(set(ends)) == len(ends):
        return ends
    stages = min(ISOTROPIC_STAGES, count)
    return [count * (i + 1) // stages - 1 for i in range(stages)]


def _isotropic(infos: Sequence[dict[str, Any]]) -> bool:
    return len({info["reduction"] for info in infos}) == 1


def _channels_last(model: Any) -> bool:
    return getattr(model, "output_fmt", "NCHW") == "NHWC"


def _classifiers(model: Any) -> list[nn.Module]:
    """A model's classifiers, without the pooling where it gives both in one."""
    found = model.get_classifier()
    layers = list(found) if isinstance(found, (tuple, list)) else [found]
    return [layer.fc if isinstance(layer, ClassifierHead) else layer for layer in layers]


def _told_apart(final: Tensor, last: Tensor, prefix: int) -> tuple[Tensor | None, Tensor | None]:
    """Patch tokens [B,N,D], one a place of the last map, and those before them; None what there is not.

    prefix: how many the model says stand before them: VOLO and CoaT do not, and PiT ends with those alone.
    """
    if final.ndim != 3:
        return None, None
    patches = last.shape[2] * last.shape[3]
    first = prefix or max(final.shape[1] - patches, 0)
    if final.shape[1] - first != patches:
        return None, final if final.shape[1] < patches else None
    return final[:, first:], final[:, :first] if first else None


def _patches_of(blocks: Sequence[Any], last: Tensor) -> list[Tensor] | None:
    """Patch tokens of blocks' outputs [B,P+N,D], N as of the last map; where class tokens come in later, P is 0."""
    patches = last.shape[2] * last.shape[3]
    return [x[:, -patches:] for x in blocks if isinstance(x, Tensor) and x.ndim == 3] or None


def _last_blocks(model: Any, stages: Sequence[str]) -> list[BasicBlock | Bottleneck]:
    """The last block of each of a ResNet's stages; empty for other nets."""
    if not isinstance(model, ResNet):
        return []
    layers: list[Any] = [model.get_submodule(stage) for stage in stages]
    blocks = [layer[-1] for layer in layers]
    return blocks if all(isinstance(block, (BasicBlock, Bottleneck)) for block in blocks) else []


def _last_relus(model: Any, stages: Sequence[str]) -> list[Any]:
    """The activation that ends each stage, made to leave its input intact."""
    relus: list[Any] = [
        block.act3 if isinstance(block, Bottleneck) else block.act2 for block in _last_blocks(model, stages)
    ]
    for relu in relus:
        relu.inplace = False
    return relus


def _first_blocks(model: Any) -> list[nn.Module]:
    """The first two blocks of a net whose blocks are all alike and take tokens; empty for other nets."""
    blocks = getattr(model, "blocks", None)
    alike = isinstance(blocks, (nn.Sequential, nn.ModuleList)) and len(blocks) > 1 and _isotropic(model.feature_info)
    return list(blocks)[:2] if alike and blocks is not None else []


def _close(a: Tensor, b: Tensor) -> bool:
    if a.is_meta:
        raise NotImplementedError(NO_VALUES)
    return torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5)


def _tap(module: nn.Module, output: bool = False) -> Tap:
    tap = Tap()
    if output:
        module.register_forward_hook(tap)
    else:
        module.register_forward_pre_hook(tap)
    return tap
