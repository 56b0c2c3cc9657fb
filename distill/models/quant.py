"""Quantisation-aware students: nets whose layers see rounded weights and inputs.

torchao's quantisation-aware training covers linear layers; convolutions at 2 and 4 bits have fake_quant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distill.models.builder import build
from distill.models.fake_quant import BucketWeights, StepInputs, StepWeights
from distill.models.feature_net import FeatureNet
from distill.models.reading import evaluating, last_layers

OPTIONS = ("weights", "activations", "ends", "bucket", "everything")


def quantize_input(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook of a layer that has an `input_quantizer`."""
    return (module.input_quantizer(args[0]), *args[1:])


def quantize(
    net: FeatureNet,
    *,
    weights: int | None = 8,
    activations: int | None = 8,
    ends: int | None = 8,
    bucket: int | None = None,
    everything: bool = False,
) -> None:
    """Have every convolution and linear layer of a net see weights and inputs of so many bits; null: full
    precision.

    `ends` are the bits of the first and the last layer, that of each head. With `bucket`, weights are scaled
    linearly in buckets of that size, otherwise by a learned step a layer. `everything`: biases and the vectors of
    normalisations are rounded like weights. Raises ValueError for bits outside 2..8, a net quantised before
    and `everything` without buckets.
    """
    for key, bits in (("weights", weights), ("activations", activations), ("ends", ends)):
        if bits is not None and bits not in range(2, 9):
            raise ValueError(
                f"quantisation to {key}={bits} bits is not offered: give 2 to 8, or null for full precision."
            )
    if is_quantized(net):
        raise ValueError(
            f"{net.name} is quantised already: give student.quantize or the method's own bits, not both."
        )
    if everything and not bucket:
        raise ValueError("everything=true needs bucket: biases and the vectors of normalisations have no learned step.")
    found = layers(net)
    negative = negative_inputs(net, found)
    outer = (found[0][1], *last_layers(net.model))
    for _, module in found:
        at_end = any(module is one for one in outer)
        if bits := (ends if at_end else weights):
            made = BucketWeights(module.weight, bits, bucket) if bucket else StepWeights(module.weight, bits)
            parametrize.register_parametrization(module, "weight", made)
        if activations and (bits := (ends if at_end else activations)):
            module.input_quantizer = StepInputs(bits, negative[module]).to(module.weight.device)
            module.register_forward_pre_hook(quantize_input)
    options = (weights, activations, ends, bucket, everything)
    net.quantized = dict(zip(OPTIONS, options, strict=True))
    if everything:
        _round_vectors(net, weights, ends, outer, int(bucket or 0))


def _round_vectors(net: FeatureNet, weights: int | None, ends: int | None, outer: tuple[Any, ...], bucket: int) -> None:
    """Have every parameter that is no layer's weight rounded in buckets: biases, BatchNorm's weights and biases."""
    layer_kinds = (nn.Conv2d, nn.Linear)
    for module in [one for one in net.model.modules() if not isinstance(one, parametrize.ParametrizationList)]:
        bits = ends if any(module is one for one in outer) else weights
        for key, value in list(module.named_parameters(recurse=False)):
            if bits and not (key == "weight" and isinstance(module, layer_kinds)):
                parametrize.register_parametrization(module, key, BucketWeights(value, bits, bucket))


def quantize_as(net: FeatureNet, options: Any) -> None:
    """Quantise a net by a configuration's node; ValueError for keys that `quantize` does not take."""
    if not isinstance(options, Mapping) or not set(options) <= set(OPTIONS):
        raise ValueError(
            f"student.quantize={options} is not understood: give {{weights: 4, activations: 8}}, of the keys "
            f"{', '.join(OPTIONS)}."
        )
    quantize(net, **options)


def twin_of(net: FeatureNet, seed: int | None = None) -> FeatureNet:
    """A net's twin, quantised as the net is, so that either takes the other's state."""
    twin = net.twin(seed)
    if net.quantized:
        quantize(twin, **net.quantized)
    return twin


def refuse_quantized(net: FeatureNet, why: str) -> None:
    """Raise ValueError for a quantised net; why: what keeps a method from having one."""
    if is_quantized(net):
        raise ValueError(f"{net.name} is quantised, and {why}: leave student.quantize null, or take method=kd")


def layers(net: FeatureNet) -> list[tuple[str, Any]]:
    """Return the convolutions and linear layers of a net, by name; ValueError where it has none."""
    found = [(name, m) for name, m in net.model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if not found:
        raise ValueError(
            f"{net.name} has neither convolutions nor linear layers, so nothing of it can be quantised."
        )
    return found


def negative_inputs(net: FeatureNet, found: list[tuple[str, Any]]) -> dict[nn.Module, bool]:
    """Return which layers' inputs can be negative, as seen in a dry run; those that do not run count as
    such.
    """
    seen = {module: True for _, module in found}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[module] = bool((args[0] < 0).any())

    hooks = [module.register_forward_pre_hook(note) for _, module in found]
    with torch.no_grad(), evaluating(net.model):
        net.model(net.probe())
    for hook in hooks:
        hook.remove()
    return seen


def rounded(net: FeatureNet) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, the parametrisation, its quantiser) of all parameters that are rounded."""
    module: Any
    for layer, module in net.model.named_modules():
        for key, held in module.parametrizations.items() if parametrize.is_parametrized(module) else ():
            yield f"{layer}.{key}", held, held[0]


def quantizers(net: FeatureNet) -> Iterator[tuple[Any, Any]]:
    """Yield (layer, its quantiser) for all weights and inputs."""
    module: Any
    for module in net.model.modules():
        for held in module.parametrizations.values() if parametrize.is_parametrized(module) else ():
            yield module, held[0]
        if isinstance(getattr(module, "input_quantizer", None), StepInputs):
            yield module, module.input_quantizer


def is_quantized(net: FeatureNet) -> bool:
    return next(quantizers(net), None) is not None


def enable(net: FeatureNet, on: bool, restart: bool = False) -> None:
    """Switch quantisation on or off; with `restart`, weights' steps are set anew from the weights as they
    are.
    """
    for _, quantizer in quantizers(net):
        quantizer.enabled = on
    for _, held, quantizer in rounded(net) if restart else ():
        quantizer.restart(held.original.detach())


def unquantized(net: FeatureNet) -> FeatureNet:
    """Return the net itself, or of a quantised one an ordinary net with the weights as they act, in full
    precision.

    Such a net knows nothing of quantised inputs, so that its answers differ a little from the trained one's.
    """
    if not is_quantized(net):
        return net
    assert net.recipe is not None
    made = build(**net.recipe)
    made.model.load_state_dict(plain_state(net))
    made.renormalize_as(net)
    return made.to(next(net.parameters()).device)


def plain_state(net: FeatureNet) -> dict[str, Tensor]:
    """Return the state of a quantised net under the names of an ordinary one, weights as they act."""
    state: dict[str, Tensor] = {}
    for name, value in net.model.state_dict().items():
        layer, inside, rest = name.partition(".parametrizations.")
        key, _, part = rest.partition(".")
        if inside and part == "original":
            state[f"{layer}.{key}"] = getattr(net.model.get_submodule(layer), key).detach()
        elif not inside and ".input_quantizer." not in name:
            state[name] = value
    return state
