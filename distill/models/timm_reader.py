"""Makes and reads timm's classifiers: which maps are stages, what enters the classifier, what follows the last map."""

import re
import socket
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from distill.models.feature_net import evaluating, wrong_size
from distill.models.outputs import Outputs

ISOTROPIC_STAGES = 4


def create(name: str, num_classes: int, in_chans: int, size: int, pretrained: bool, args: dict[str, Any]) -> nn.Module:
    """timm.create_model, with img_size for nets of a fixed size; its errors as one-sentence ValueErrors."""
    kwargs = {"num_classes": num_classes, "in_chans": in_chans, "pretrained": pretrained, **args}
    try:
        if pretrained:
            _no_waiting_for_the_hub()
        if _fixed_size(name) and "img_size" not in args:
            try:
                return timm.create_model(name, **kwargs, img_size=size)
            except TypeError:   # a few of them do not know the keyword: the dry run tells whether the size fits
                pass
        return timm.create_model(name, **kwargs)
    except Exception as error:
        raise ValueError(_refusal(name, pretrained, kwargs, error)) from error


def _no_waiting_for_the_hub() -> None:
    """Without a network, look at downloaded weights only: the hub's client would retry for most of a minute."""
    import huggingface_hub.constants as hub

    if hub.HF_HUB_OFFLINE or getproxies():
        return
    try:
        socket.getaddrinfo(urlsplit(hub.ENDPOINT).hostname, 443)
    except OSError:
        hub.HF_HUB_OFFLINE = True


def _fixed_size(name: str) -> bool:
    config = timm.get_pretrained_cfg(name.split(".")[0], allow_unregistered=True)
    return config is not None and bool(config.fixed_input_size)


def _refusal(name: str, pretrained: bool, kwargs: dict[str, Any], error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if pretrained and not isinstance(error, TypeError):
        return f"No pretrained weights of {name} could be had ({reason}): pass a file with teacher.weights=<file>"
    given = ", ".join(f"{key}={value}" for key, value in kwargs.items() if key != "pretrained")
    return f"timm cannot make {name} with {given} ({reason}): change the model's args"


class Unreadable(ValueError):
    """This kind of network cannot be read at any size."""


class Tap:
    """Forward pre-hook that keeps a module's input, only while armed (so that nothing lingers between passes)."""

    def __init__(self) -> None:
        self.armed = False
        self.value: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.armed:
            self.value = inputs[0]

    def arm(self) -> None:
        self.armed, self.value = True, None

    def take(self) -> Tensor | None:
        value, self.armed, self.value = self.value, False, None
        return value


class TimmReader:
    """Reads one timm model; everything about its structure is found at construction, with one probe image.

    Raises ValueError when the model has no forward_intermediates, gives no maps, or refuses the probe's size.
    """

    def __init__(self, model: nn.Module, name: str, probe: Tensor) -> None:
        self.name = name
        if not hasattr(model, "forward_intermediates"):
            raise Unreadable(f"{name} does not give intermediate maps (no forward_intermediates): take another timm model")
        indices = stage_indices(model.feature_info)
        self.has_stem = has_stem(model.feature_info)
        self.indices = [0, *indices] if self.has_stem else indices
        self.taps = [_tap(layer) for layer in _classifiers(model)]
        self.relu_taps = [_tap(relu) for relu in _last_relus(model)]
        self.tail: Callable[[nn.Module, Tensor], Tensor] | None = None
        with torch.no_grad(), evaluating(model):
            try:
                self._learn(model, probe)
            except Unreadable:
                raise
            except (RuntimeError, AssertionError, IndexError, TypeError, ValueError) as error:
                raise ValueError(wrong_size(name, probe.shape[-1], probe.shape[1], error)) from error

    def _learn(self, model: nn.Module, probe: Tensor) -> None:
        """Check the reading against the model itself, and find what leads from the last map to the classifier."""
        seen = self.read(model, probe)
        logits = model(probe)
        if not isinstance(logits, Tensor) or not torch.allclose(seen.logits, logits.float(), rtol=1e-4, atol=1e-5):
            raise Unreadable(f"{self.name} cannot be read: its forward is not forward_intermediates and forward_head")
        if any(feature.ndim != 4 for feature in seen.features):
            raise Unreadable(f"{self.name} gives no [B, C, H, W] maps: take another timm model")
        for tail in TAILS:
            if self._leads_to(model, tail, seen.features[-1], seen.embedding):
                self.tail = tail
                return

    def _leads_to(
        self, model: nn.Module, tail: Callable[[nn.Module, Tensor], Tensor], feature: Tensor, embedding: Tensor
    ) -> bool:
        try:
            found = self._head(model, tail(model, feature))[1]
        except (RuntimeError, AttributeError, TypeError, IndexError, AssertionError, ValueError):
            return False
        return found.shape == embedding.shape and torch.allclose(found.float(), embedding, rtol=1e-4, atol=1e-5)

    def read(self, model: nn.Module, images: Tensor) -> Outputs:
        for tap in self.relu_taps:
            tap.arm()
        final, maps = model.forward_intermediates(images, indices=self.indices)  # type: ignore[operator]
        inputs = [tap.take() for tap in self.relu_taps]
        logits, embedding = self._head(model, final)
        stem, features = (maps[0], maps[1:]) if self.has_stem else (None, list(maps))
        preacts = [x for x in inputs if x is not None]
        return Outputs(logits.float(), features, embedding.float(), preacts or None, stem)

    def _head(self, model: nn.Module, final: Tensor) -> tuple[Tensor, Tensor]:
        """forward_head, and what enters the classifier (the mean, where two tokens have one each)."""
        for tap in self.taps:
            tap.arm()
        logits = model.forward_head(final)  # type: ignore[operator]
        inputs = [x.flatten(1) for x in (tap.take() for tap in self.taps) if x is not None]
        if not inputs:
            raise Unreadable(f"{self.name} cannot be read: its forward_head does not use its classifier")
        return logits, inputs[0] if len(inputs) == 1 else torch.stack(inputs).mean(0)

    def classify(self, model: nn.Module, feature: Tensor) -> Tensor:
        if self.tail is None:
            raise ValueError(f"{self.name}'s classifier does not read its last map alone: take a net that pools its map")
        return model.forward_head(self.tail(model, feature))  # type: ignore[operator]

    def classifier(self, model: nn.Module) -> nn.Module:
        return _classifiers(model)[0]

    def bn_before_relu(self, model: nn.Module) -> list[nn.BatchNorm2d]:
        norms = [block.bn3 if isinstance(block, Bottleneck) else block.bn2 for block in _last_blocks(model)]
        if not norms or not all(isinstance(norm, nn.BatchNorm2d) for norm in norms):
            raise ValueError("only timm's ResNets are known to end their stages in BatchNorm, sum, ReLU")
        return norms


# ---- the model's structure


def has_stem(infos: Sequence[dict[str, Any]]) -> bool:
    """Whether the first map is at most halved and of another kind of module than the second (act1 before layer1)."""
    kinds = [re.sub(r"\d+", "", str(info["module"])) for info in infos[:2]]
    return not _isotropic(infos) and kinds[0] != kinds[-1] and infos[0]["reduction"] <= 2


def stage_indices(infos: Sequence[dict[str, Any]]) -> list[int]:
    """Which maps are stages: the last one of each resolution, or four evenly spaced blocks of an isotropic net."""
    count = len(infos)
    if _isotropic(infos):
        stages = min(ISOTROPIC_STAGES, count)
        return [count * (i + 1) // stages - 1 for i in range(stages)]
    start = int(has_stem(infos))
    last = {info["reduction"]: i for i, info in enumerate(infos) if i >= start}
    return sorted(last.values())


def _isotropic(infos: Sequence[dict[str, Any]]) -> bool:
    return len({info["reduction"] for info in infos}) == 1


def _classifiers(model: nn.Module) -> list[nn.Module]:
    found = model.get_classifier()  # type: ignore[operator]
    return list(found) if isinstance(found, (tuple, list)) else [found]


def _last_blocks(model: nn.Module) -> list[BasicBlock | Bottleneck]:
    """The last block of each stage of a ResNet; empty for other nets."""
    if not isinstance(model, ResNet):
        return []
    blocks = [getattr(model, f"layer{i}")[-1] for i in range(1, 5)]
    return blocks if all(isinstance(block, (BasicBlock, Bottleneck)) for block in blocks) else []


def _last_relus(model: nn.Module) -> list[nn.Module]:
    """The activation that ends each stage, made to leave its input intact."""
    relus = [block.act3 if isinstance(block, Bottleneck) else block.act2 for block in _last_blocks(model)]
    for relu in relus:
        relu.inplace = False
    return relus


def _tap(module: nn.Module) -> Tap:
    tap = Tap()
    module.register_forward_pre_hook(tap)
    return tap


# ---- from the last map to what forward_head takes


def _as_is(model: Any, x: Tensor) -> Tensor:
    return x


def _normed(model: Any, x: Tensor) -> Tensor:
    return model.norm(x)


def _normed_nhwc(model: Any, x: Tensor) -> Tensor:
    return model.norm(x.permute(0, 2, 3, 1))


def _normed_tokens(model: Any, x: Tensor) -> Tensor:
    return model.norm(x.flatten(2).transpose(1, 2))


def _head_convolution(model: Any, x: Tensor) -> Tensor:
    return model.bn2(model.conv_head(x))


TAILS = (_as_is, _normed, _normed_nhwc, _normed_tokens, _head_convolution)
