"""Quantisation-aware students: weights and inputs of layers are rounded in the forward pass, gradients pass
through.

torchao's quantisation-aware training covers linear layers; convolutions at 2 and 4 bits need the few lines
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distill.models import FeatureNet, build
from distill.models.feature_net import evaluating

EPS = 1e-8


class Codes(NamedTuple):
    """Whole numbers that stand for a tensor: values [G,n], in groups whose tensor values are scale x value +
    offset.
    """

    values: Tensor
    scale: Tensor  # [G,1]
    offset: Tensor  # [G,1]

    def tensor(self, shape: torch.Size) -> Tensor:
        """Return the tensor that the codes stand for; the last group may have been padded."""
        return (self.values * self.scale + self.offset).flatten()[: shape.numel()].view(shape)


def rounded(x: Tensor) -> Tensor:
    """Round; the gradient is that of the identity (straight-through)."""
    return x + (x.round() - x).detach()


def limits(bits: int, signed: bool) -> tuple[int, int]:
    """Return the smallest and the largest whole number of so many bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def lsq(x: Tensor, step: Tensor, bits: int, signed: bool, count: int) -> Tensor:
    """Learned step size quantisation: round(clip(x / s, low, high)) x s (Esser et al., ICLR 2020,
    arXiv:1902.08153).

    Equations 1-3; the step's gradient is scaled by 1 / sqrt(count x high) (section 2.2), count being the
    number of weights, or of features of one sample.
    """
    low, high = limits(bits, signed)
    share = (count * high) ** -0.5
    s = step.abs().clamp(min=EPS)
    s = s * share + (s * (1 - share)).detach()
    return rounded((x / s).clamp(low, high)) * s


class StepWeights(nn.Module):
    """Weights by LSQ with one step a layer."""

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits, self.enabled = bits, True
        self.step = nn.Parameter(torch.zeros((), device=weight.device))
        self.restart(weight)

    @torch.no_grad()
    def restart(self, weight: Tensor) -> None:
        """Set the step from weights as the paper starts it: 2 mean|w| / sqrt(high)."""
        self.step.copy_(2 * weight.abs().mean() / limits(self.bits, True)[1] ** 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return lsq(weight.float(), self.step, self.bits, True, weight.numel()) if self.enabled else weight

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Codes:
        step = self.step.abs().clamp(min=EPS).view(1, 1)
        values = (weight.float().reshape(1, -1) / step).clamp(*limits(self.bits, True)).round()
        return Codes(values, step, torch.zeros_like(step))


class BucketWeights(nn.Module):
    """Weights in buckets, each scaled linearly from its smallest to its largest to 2^bits levels.

    Model compression via distillation and quantization (Polino et al., ICLR 2018, arXiv:1802.05668, section
    2).
    """

    def __init__(self, weight: Tensor, bits: int, bucket: int) -> None:
        super().__init__()
        self.bits, self.bucket, self.enabled = bits, bucket, True

    def restart(self, weight: Tensor) -> None:
        """Nothing is kept: scales are those of the weights as they are."""

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        weight = weight.float()
        return weight + (self.codes(weight).tensor(weight.shape) - weight).detach()

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Codes:
        flat = weight.float().flatten()
        short = -len(flat) % self.bucket
        groups = torch.cat([flat, flat[-1:].expand(short)]).view(-1, self.bucket)
        low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        scale = ((high - low) / (2**self.bits - 1)).clamp(min=EPS)
        return Codes(((groups - low) / scale).round(), scale, low)


class StepInputs(nn.Module):
    """A layer's input by LSQ; the step starts from the first training batch, until then inputs pass as they
    are.
    """

    ready: Tensor

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__()
        self.bits, self.signed, self.enabled = bits, signed, True
        self.step = nn.Parameter(torch.ones(()))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        if self.training:
            self._start(x.detach().float())
        quantised = lsq(x.float(), self.step, self.bits, self.signed, x[0].numel())
        return torch.where(self.ready, quantised, x.float()).to(x.dtype)

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        first = 2 * x.abs().mean() / limits(self.bits, self.signed)[1] ** 0.5
        self.step.copy_(torch.where(self.ready, self.step, first))
        self.ready.fill_(True)


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
) -> None:
    """Have every convolution and linear layer of a net see weights and inputs of so many bits; null: full
    precision.

    `ends` are the bits of the first and the last layer. With `bucket`, weights are scaled linearly in
    buckets of that size, otherwise by a learned step a layer. Raises ValueError for bits outside 2..8 and a
    net quantised before.
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
    found = layers(net)
    negative = negative_inputs(net, found)
    outer = (found[0][1], net.classifier)
    for _, module in found:
        at_end = any(module is one for one in outer)
        if bits := (ends if at_end else weights):
            made = BucketWeights(module.weight, bits, bucket) if bucket else StepWeights(module.weight, bits)
            parametrize.register_parametrization(module, "weight", made)
        if activations and (bits := (ends if at_end else activations)):
            module.input_quantizer = StepInputs(bits, negative[module]).to(module.weight.device)
            module.register_forward_pre_hook(quantize_input)


def quantize_as(net: FeatureNet, options: Any) -> None:
    """Quantise a net by a configuration's node; ValueError for keys that `quantize` does not take."""
    known = ("weights", "activations", "ends", "bucket")
    if not isinstance(options, Mapping) or not set(options) <= set(known):
        raise ValueError(
            f"student.quantize={options} is not understood: give {{weights: 4, activations: 8}}, of the keys "
            f"{', '.join(known)}."
        )
    quantize(net, **options)


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


def quantizers(net: FeatureNet) -> Iterator[tuple[Any, Any]]:
    """Yield (layer, its quantiser) for all weights and inputs."""
    module: Any
    for module in net.model.modules():
        if parametrize.is_parametrized(module, "weight"):
            yield module, module.parametrizations.weight[0]
        if isinstance(getattr(module, "input_quantizer", None), StepInputs):
            yield module, module.input_quantizer


def is_quantized(net: FeatureNet) -> bool:
    return next(quantizers(net), None) is not None


def enable(net: FeatureNet, on: bool, restart: bool = False) -> None:
    """Switch quantisation on or off; with `restart`, weights' steps are set anew from the weights as they
    are.
    """
    for module, quantizer in quantizers(net):
        quantizer.enabled = on
        if restart and not isinstance(quantizer, StepInputs):
            quantizer.restart(module.parametrizations.weight.original.detach())


def plain(net: FeatureNet) -> FeatureNet:
    """Return the net itself, or of a quantised one an ordinary net with the weights as they act, in full
    precision.

    Such a net knows nothing of quantised inputs, so that its answers differ a little from the trained one's.
    """
    if not is_quantized(net):
        return net
    assert net.recipe is not None
    made = build(**net.recipe)
    made.model.load_state_dict(plain_state(net))
    made.input_scale, made.input_shift = net.input_scale, net.input_shift
    return made.to(next(net.parameters()).device)


def plain_state(net: FeatureNet) -> dict[str, Tensor]:
    """Return the state of a quantised net under the names of an ordinary one, weights as they act."""
    state: dict[str, Tensor] = {}
    for name, value in net.model.state_dict().items():
        if name.endswith(".parametrizations.weight.original"):
            layer = name.removesuffix(".parametrizations.weight.original")
            module: Any = net.model.get_submodule(layer)
            state[f"{layer}.weight"] = module.weight.detach()
        elif ".parametrizations.weight." not in name and ".input_quantizer." not in name:
            state[name] = value
    return state
