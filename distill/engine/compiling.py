"""Making a step faster without changing what it computes, beyond the last digits of floating point."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import distill.runtime as runtime
from distill.engine.trace import tracing
from distill.files import first_line
from distill.models import FeatureNet, Outputs
from distill.models.reading import without_tf32

log = logging.getLogger(__name__)
ASKED = "compile=true"
_TORCHS = (nn.Conv2d.forward, nn.Linear.forward)
COMPILE_FROM = 4000  # steps of a run from which compiling (20 to 60 s a net on two cores) pays for itself


def fold_batchnorm(net: FeatureNet) -> FeatureNet:
    """Return a copy of a frozen net in eval mode whose BatchNorms that follow a convolution are part of it.

    Which BatchNorm follows which convolution is seen in one forward pass: its input is that convolution's output.
    All that the copy shows agrees with the original; a pair that would change it, since the convolution's output is
    used elsewhere too, is left alone.
    """
    count = len(_followers(net))
    folded = _fold(net, range(count))
    if _agree(net, folded):
        return folded
    return _fold(net, [k for k in range(count) if _agree(net, _fold(net, [k]))])


def _fold(net: FeatureNet, which: Iterable[int]) -> FeatureNet:
    folded = copy.deepcopy(net).eval()
    parents = {child: (module, name) for module in folded.modules() for name, child in module.named_children()}
    pairs = _followers(folded)
    for conv, norm in (pairs[k] for k in which):
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        owner, name = parents[norm]
        setattr(owner, name, nn.Identity())
    return folded.requires_grad_(False)


def _followers(net: FeatureNet) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The pairs in which a convolution's output enters a BatchNorm, each module being used once."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    uses: dict[nn.Module, int] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        uses[module] = uses.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)  # the tensor is kept, so that its id stays its own
        elif id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))  # type: ignore[arg-type]

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [m.register_forward_hook(after) for m in net.modules() if type(m) in kinds]
    try:
        with torch.no_grad():
            net(net.probe())
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, norm) for conv, norm in pairs if uses[conv] == uses[norm] == 1 and norm.track_running_stats]


def _agree(one: FeatureNet, other: FeatureNet) -> bool:
    with torch.no_grad(), without_tf32():
        a, b = (_tensors(net(net.probe())) for net in (one, other))
    return all(torch.allclose(x, y, rtol=1e-3, atol=1e-3 * x.abs().max().item()) for x, y in zip(a, b, strict=True))


def _tensors(outputs: Outputs) -> list[Tensor]:
    """All that a net shows, whatever that is."""
    shown = (getattr(outputs, each.name) for each in fields(outputs))
    return [tensor for value in shown for tensor in ([value] if isinstance(value, Tensor) else value or ())]


def half_weights(net: FeatureNet, dtype: torch.dtype) -> FeatureNet:
    """Give a frozen net's convolutions and linear layers weights of the autocast type, which it casts to anyway.

    Not those with a forward of their own: those of BiT and NFNets standardise their weight first, in fp32.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and type(module).forward in _TORCHS:
            module.to(dtype)
    return net


@dataclass(frozen=True)
class Compiling:
    """Whether a run's nets are compiled, for batches of one size, and why."""

    asked: bool
    why: str
    batch: int
    trained: bool = True  # whether nets that are trained gain by it
    frozen: bool = True

    @classmethod
    def of(
        cls, setting: str, batch: int, steps: int, device: torch.device, *, trained: bool = True, frozen: bool = True
    ) -> Compiling:
        """For a run of so many steps; `setting` is auto, true or false."""
        return cls(*why_compile(setting, steps, device), batch, trained, frozen)

    def __call__(self, nets: Iterable[FeatureNet]) -> None:
        """Compile those of the nets that gain by it: all where that was asked for."""
        for net in nets if self.asked else ():
            if self.why == ASKED or (self.trained if trains(net) else self.frozen):
                compile_forward(net, self.batch)


def why_compile(setting: Any, steps: int, device: torch.device) -> tuple[bool, str]:
    """Return whether to compile, and the reason in a few words; `setting` is auto, true or false."""
    setting = str(setting).lower()
    if setting == "false":
        return False, "compile=false"
    if missing := _compiler_missing(device):
        if setting == "true":
            raise ValueError(f"compile=true needs {missing}, which is not here: install it or use compile=auto.")
        return False, f"{missing} is not here"
    if setting == "true":
        return True, ASKED
    return steps >= COMPILE_FROM, f"{steps} steps {'pay' if steps >= COMPILE_FROM else 'would not pay'} for it"


def trains(net: FeatureNet) -> bool:
    """Whether any of a net's parameters does."""
    return any(p.requires_grad for p in net.parameters())


def _compiler_missing(device: torch.device) -> str | None:
    if device.type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            return "triton"
        return None
    return None if shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++") else "a C++ compiler"


def instruction_sets() -> str:
    """What this process computes with, for the key of Inductor's cache, which knows nothing of it.

    Its code steps by the width of a register, and frozen weights are laid out as oneDNN wants them: what was compiled
    for another CPU, or for this one held to less, writes beyond its arrays (seen with torch 2.15: a crash).
    """
    able = hashlib.sha256(" ".join(sorted(runtime.cpu_flags())).encode()).hexdigest()[:12]
    held = [os.environ.get(name, "") for name in ("TORCH_COMPILE_CACHE_KEY_TAG", "ONEDNN_MAX_CPU_ISA")]
    return " ".join([*held, torch.backends.cpu.get_cpu_capability(), able])


def compile_forward(net: FeatureNet, batch: int) -> None:
    """Compile a net's forward for batches of one size; other sizes, and the other mode, run as before.

    The short last batch of an epoch and evaluation thus cost no compilation of their own. A frozen net is compiled
    for use without gradients, with its weights as constants.
    """
    torch.compiler.config.cache_key_tag = instruction_sets()
    frozen = not trains(net)
    options: dict[str, Any] | None = {"freezing": True} if frozen else None
    compiled: Callable[[Tensor], Outputs] = torch.compile(net.read, dynamic=False, options=options)

    def fits(inputs: Tensor) -> bool:
        alike = len(inputs) == batch and net.training is not frozen and torch.is_grad_enabled() is not frozen
        return alike and not tracing()

    def first(inputs: Tensor) -> Outputs:
        """Compile at the first use; a net that cannot be compiled runs as before from then on."""
        try:
            outputs = compiled(inputs)
        except Exception as error:
            reason = first_line(error)
            log.warning("%s could not be compiled and runs eagerly: %s", net.name, reason)
            net.use(net.read, lambda _: False)
            return net.read(inputs)
        net.use(compiled, fits)
        return outputs

    net.use(first, fits)
