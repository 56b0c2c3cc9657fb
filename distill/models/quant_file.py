"""Quantised students as files of whole numbers: written, read back, measured."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distill.content.state_file import read_safetensors, sealed
from distill.files import replacing
from distill.models.builder import build
from distill.models.fake_quant import Codes, StepInputs, limits
from distill.models.feature_net import FeatureNet
from distill.models.quant import is_quantized, plain_state, quantize_input, quantizers, rounded, unquantized

FILE = "student.int8.safetensors"


def pack(values: Tensor, bits: int) -> Tensor:
    """Return whole numbers [M] of 0..2^bits-1 as bytes: one each of 5 to 8 bits, two of 3 or 4, four of 2."""
    share = {2: 4, 3: 2, 4: 2}.get(bits, 1)
    width = 8 // share
    flat = values.flatten().to(torch.uint8)
    flat = torch.cat([flat, flat.new_zeros(-len(flat) % share)]).view(-1, share)
    shifts = torch.arange(share, dtype=torch.uint8, device=flat.device) * width
    return (flat << shifts).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the `count` whole numbers that `pack` put into bytes."""
    share = {2: 4, 3: 2, 4: 2}.get(bits, 1)
    width = 8 // share
    shifts = torch.arange(share, dtype=torch.uint8, device=packed.device) * width
    return ((packed[:, None] >> shifts) & (2**width - 1)).flatten()[:count]


def write_quantized(net: FeatureNet, path: str | Path) -> None:
    """Write a quantised net: whole numbers for its quantised weights, all else as it is, inputs' steps as
    metadata.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in plain_state(net).items()}
    names = {module: name for name, module in net.model.named_modules()}
    about: dict[str, Any] = {"model": net.name, "weights": {}, "inputs": {}}
    for module, quantizer in quantizers(net):
        if isinstance(quantizer, StepInputs):
            step = abs(quantizer.step.item())
            about["inputs"][names[module]] = {"bits": quantizer.bits, "signed": quantizer.signed, "step": step}
    for name, held, quantizer in rounded(net):
        codes, shape = quantizer.codes(held.original.detach().cpu()), list(held.original.shape)
        low = int(codes.values.amin().clamp(max=0)) and limits(quantizer.bits, True)[0]
        del tensors[name]
        tensors[f"{name}.codes"] = pack(codes.values - low, quantizer.bits)
        tensors[f"{name}.scale"] = codes.scale.contiguous().clone()
        tensors[f"{name}.offset"] = (codes.offset + low * codes.scale).contiguous().clone()
        about["weights"][name] = {"bits": quantizer.bits, "shape": shape, "count": codes.values.numel()}
    with replacing(Path(path)) as file:
        file.write(sealed(tensors, {"distill": json.dumps(about)}))


class Decoded(nn.Module):
    """Parametrisation of a weight that is kept as bytes [G,n]: the tensor that they stand for."""

    scale: Tensor
    offset: Tensor

    def __init__(self, codes: Codes, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("scale", codes.scale)
        self.register_buffer("offset", codes.offset)

    def forward(self, values: Tensor) -> Tensor:
        return Codes(values.float(), self.scale, self.offset).tensor(self.shape)


def named_by_bits(path: str | Path) -> str:
    """How a file of whole numbers is called by the bits of most of its weights, and of most layers' inputs: w4a8."""
    about = _about(path)
    weights, inputs = Counter[int](), Counter[int]()
    for entry in about["weights"].values():
        weights[entry["bits"]] += entry["count"]
    for entry in about["inputs"].values():
        inputs[entry["bits"]] += 1
    return "".join(f"{mark}{bits.most_common(1)[0][0]}" for mark, bits in (("w", weights), ("a", inputs)) if bits)


def _about(path: str | Path) -> dict[str, Any]:
    """What a file of whole numbers says of itself. Raises ValueError for a file of another kind."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}): run the command in result.json again") from error
    if "distill" not in metadata:
        raise ValueError(f"{path} holds no quantised student: give a {FILE} of a run with quantisation.")
    about: dict[str, Any] = json.loads(metadata["distill"])
    return about


def read_quantized(path: str | Path, like: FeatureNet, coded: bool = False) -> FeatureNet:
    """Return a net of `like`'s architecture from a file of whole numbers: weights dequantised, inputs
    rounded.

    The arithmetic itself runs in floating point, on exactly the numbers that whole-number arithmetic would
    stand for. coded: weights stay bytes, and are decoded whenever they are read. Raises ValueError for a file of
    another kind, and for one that was altered.
    """
    about, tensors = _about(path), read_safetensors(Path(path))
    kept: dict[str, tuple[Codes, torch.Size]] = {}
    for name, entry in about["weights"].items():
        parts = [tensors.pop(f"{name}.{part}") for part in ("codes", "scale", "offset")]
        values = unpack(parts[0], entry["bits"], entry["count"]).view(len(parts[1]), -1)
        kept[name] = Codes(values, parts[1], parts[2]), torch.Size(entry["shape"])
        tensors[name] = Decoded(*kept[name])(values)
    assert like.recipe is not None
    net = build(**like.recipe)
    net.model.load_state_dict(tensors)
    net.renormalize_as(like)
    for name, (codes, shape) in kept.items() if coded else ():
        _keep_codes(net.model, name, codes, shape)
    for name, entry in about["inputs"].items():
        _fixed_input(net.model.get_submodule(name), **entry)
    return net.to(next(like.parameters()).device).eval()


def _keep_codes(model: nn.Module, name: str, codes: Codes, shape: torch.Size) -> None:
    layer, _, key = name.rpartition(".")
    module = model.get_submodule(layer)
    delattr(module, key)
    module.register_buffer(key, codes.values)
    parametrize.register_parametrization(module, key, Decoded(codes, shape), unsafe=True)  # bytes in, floats out


def _fixed_input(module: Any, bits: int, signed: bool, step: float) -> None:
    quantizer = StepInputs(bits, signed)
    quantizer.step.data.fill_(step)
    quantizer.ready.fill_(True)
    module.input_quantizer = quantizer
    module.register_forward_pre_hook(quantize_input)


def report(net: FeatureNet, folder: Path, accuracy: Callable[[nn.Module], float | None]) -> dict[str, Any]:
    """Write a quantised net's file, read it back and return what a result tells of it; {} for an ordinary
    net.
    """
    if not is_quantized(net):
        return {}
    write_quantized(net, folder / FILE)
    full = unquantized(net)
    tensors = [value for value in full.model.state_dict().values()]
    return {
        "quantized": {
            "file": FILE,
            "bytes": (folder / FILE).stat().st_size,
            "full_precision_bytes": sum(value.numel() * value.element_size() for value in tensors),
            "accuracy": accuracy(read_quantized(folder / FILE, net)),
            "accuracy_with_full_precision_inputs": accuracy(full),
            "weights": sorted({q.bits for _, q in quantizers(net) if not isinstance(q, StepInputs)}),
            "activations": sorted({q.bits for _, q in quantizers(net) if isinstance(q, StepInputs)}),
        }
    }
