"""Quantised students: rounding and its gradients, phases, and files that really are whole numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from distill import config
from distill.engine.average import Average
from distill.models import build, load_weights
from distill.models.fake_quant import StepInputs, StepWeights, lsq
from distill.models.quant import is_quantized, quantize, quantizers, rounded, unquantized
from distill.models.quant_file import pack, read_quantized, unpack, write_quantized
from distill.run import run
from tests import tiny


@pytest.mark.parametrize(("bits", "signed"), [(2, True), (4, True), (8, True), (4, False), (8, False)])
def test_lsq_is_the_papers_rounding_and_gradients(bits: int, signed: bool) -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(50)).double().requires_grad_()
    step = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    y = lsq(x, step, bits, signed, 50)
    y.sum().backward()
    slope = 0.0
    for i in range(50):
        v = x[i].item() / 0.37
        code = low if v <= low else high if v >= high else round(v)
        assert y[i].item() == pytest.approx(0.37 * code, abs=1e-12)
        assert x.grad[i].item() == (1.0 if low < v < high else 0.0)
        slope += low if v <= low else high if v >= high else round(v) - v  # equation 3
    assert step.grad.item() == pytest.approx(slope / math.sqrt(50 * high), rel=1e-9)


def test_inputs_start_from_the_first_training_batch() -> None:
    quantizer = StepInputs(4, signed=False).eval()
    x = torch.rand(8, 5)
    assert torch.equal(quantizer(x), x) and not quantizer.ready
    quantizer.train()
    quantizer(x)
    assert quantizer.step.item() == pytest.approx(2 * x.mean().item() / math.sqrt(15), rel=1e-5)
    step = quantizer.step.item()
    quantizer(x * 9)
    assert quantizer.step.item() == step
    assert quantizer.eval()(x).unique().numel() <= 16


def test_weights_take_few_values_and_ends_more() -> None:
    net = tiny.net("cifar_resnet8")
    quantize(net, weights=2, activations=4, ends=8)
    middle = net.model.layer2[0].conv1
    assert middle.weight.unique().numel() <= 4 and net.model.conv1.weight.unique().numel() > 16
    assert net.model.fc.weight.unique().numel() > 4
    inputs = [(q.bits, q.signed) for _, q in quantizers(net) if isinstance(q, StepInputs)]
    assert inputs[0] == (8, True), "images are negative too"
    assert (4, False) in inputs and (4, True) not in inputs, "inside, inputs come from ReLU"
    full = tiny.net("cifar_resnet8")
    quantize(full, weights=2, activations=None, ends=None)
    assert full.model.conv1.weight.unique().numel() > 256 and "conv1.weight" in full.model.state_dict()


def test_the_last_layer_is_at_the_end_where_the_classifier_holds_it() -> None:
    net = tiny.net("cifar_MobileNetV2")
    quantize(net, weights=2, activations=2, ends=None)
    last = net.model.classifier[0]
    assert last.weight.unique().numel() > 4 and not hasattr(last, "input_quantizer")


def test_everything_is_rounded_where_the_authors_round_it() -> None:
    """Polino et al. quantise each parameter tensor of the net (quantize_weights_model of their code)."""
    net = tiny.net("cifar_resnet8")
    names = [name for name, _ in net.model.named_parameters()]
    with torch.no_grad():
        for value in net.model.parameters():
            value.normal_()
    quantize(net, weights=4, activations=None, ends=4, bucket=256, everything=True)
    assert sorted(name for name, _, _ in rounded(net)) == sorted(names)
    assert net.model.bn1.weight.unique().numel() <= 16 and net.model.fc.bias.unique().numel() <= 6
    images = torch.randn(4, 3, 16, 16)
    net.train()(images).logits.sum().backward()
    assert net.model.bn1.parametrizations.weight.original.grad is not None
    with pytest.raises(ValueError, match="needs bucket"):
        quantize(tiny.net("cifar_resnet8"), weights=4, everything=True)


def test_wrong_bits_are_refused() -> None:
    net = tiny.net("cifar_resnet8")
    for bits in (1, 9, 16):
        with pytest.raises(ValueError, match=f"weights={bits} bits .* 2 to 8"):
            quantize(net, weights=bits)
    quantize(net)
    with pytest.raises(ValueError, match="quantised already"):
        quantize(net)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_packing_loses_nothing(bits: int) -> None:
    values = torch.randint(2**bits, (37,))
    packed = pack(values, bits)
    assert packed.dtype == torch.uint8 and len(packed) == -(-37 // {2: 4, 3: 2, 4: 2}.get(bits, 1))
    assert torch.equal(unpack(packed, bits, 37).long(), values)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"weights": 4, "activations": 8}, 10),
        ({"weights": 2, "activations": None, "bucket": 16}, 10),
        ({"weights": 4, "activations": None, "bucket": 16, "everything": True}, 29),
    ],
)
def test_the_file_is_whole_numbers_and_answers_as_trained(options: dict, count: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = tiny.net("cifar_resnet8")
    quantize(net, **options)
    images = torch.randn(6, 3, 16, 16)
    net.train()(images)
    net.eval()
    write_quantized(net, tmp_path / "net")
    stored = load_file(tmp_path / "net")
    codes = [value for key, value in stored.items() if key.endswith(".codes")]
    assert len(codes) == count and all(value.dtype == torch.uint8 for value in codes)
    assert not any(key.endswith("conv1.weight") or key == "fc.weight" for key in stored)
    share = {4: 2, 2: 4}[options["weights"]]
    assert len(stored["layer2.0.conv1.weight.codes"]) == 16 * 32 * 9 // share
    read = read_quantized(tmp_path / "net", tiny.net("cifar_resnet8", seed=5))
    assert torch.allclose(read(images).logits, net(images).logits, atol=1e-5)
    assert set(unquantized(net).model.state_dict()) == set(tiny.net("cifar_resnet8").model.state_dict())
    assert torch.allclose(unquantized(net).model.fc.weight, net.model.fc.weight)
    with pytest.raises(ValueError, match="no quantised student"):
        from distill.engine.checkpoint import export

        export(tiny.net("cifar_resnet8").model, tmp_path / "plain")
        read_quantized(tmp_path / "plain", net)


def test_a_file_of_whole_numbers_that_was_altered_is_refused(tmp_path: Path) -> None:
    """Whatever its bytes are, they stand for some weights: nothing but a checksum tells."""
    net = tiny.net("cifar_resnet8")
    quantize(net, weights=4, activations=8)
    net.train()(torch.randn(6, 3, 16, 16))
    write_quantized(net, file := tmp_path / "net")
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"net was altered after it was written \(its checksum differs\)"):
        read_quantized(file, tiny.net("cifar_resnet8"))


def test_the_file_holds_vectors_as_whole_numbers_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = tiny.net("cifar_resnet8")
    quantize(net, weights=4, activations=None, ends=4, bucket=16, everything=True)
    images = torch.randn(6, 3, 16, 16)
    net.train()(images)
    net.eval()
    write_quantized(net, tmp_path / "net")
    stored = load_file(tmp_path / "net")
    assert stored["bn1.weight.codes"].dtype == torch.uint8 and "bn1.weight" not in stored
    read = read_quantized(tmp_path / "net", tiny.net("cifar_resnet8", seed=5))
    assert torch.allclose(read(images).logits, net(images).logits, atol=1e-5)
    assert torch.allclose(unquantized(net).model.bn1.weight, net.model.bn1.weight)


def test_a_convolution_of_the_file_is_a_convolution_of_whole_numbers(tmp_path: Path) -> None:
    """Integer arithmetic on codes of inputs and weights, scaled once at the end, gives the layer's output."""
    torch.manual_seed(0)
    net = tiny.net("cifar_resnet8")
    quantize(net, weights=4, activations=8)
    images = torch.randn(2, 3, 16, 16)
    net.train()(images)
    net.eval()
    layer = net.model.layer2[0].conv1
    x = torch.rand(2, 16, 8, 8)
    weights, inputs = layer.parametrizations.weight[0], layer.input_quantizer
    codes = weights.codes(layer.parametrizations.weight.original)
    whole_w = codes.values.view_as(layer.weight).to(torch.int64)
    whole_x = (x / inputs.step).clamp(0, 255).round().to(torch.int64)
    columns = F.unfold(whole_x.double(), 3, padding=1, stride=2).long()
    whole = (whole_w.flatten(1) @ columns).view(2, -1, 4, 4)
    assert torch.allclose(whole * codes.scale.squeeze() * inputs.step, layer(x), atol=1e-4)


def test_an_average_starts_its_steps_of_inputs_from_the_first_batch() -> None:
    net = tiny.net("cifar_resnet8")
    quantize(net)
    average = Average(net, 0.99, False)
    net.train()(torch.randn(4, 3, 16, 16))
    average.update(1)
    pairs = list(zip(quantizers(net), quantizers(average.net), strict=True))
    steps = [(a.step, b.step) for (_, a), (_, b) in pairs if isinstance(a, StepInputs)]
    assert steps and all(torch.equal(a, b) for a, b in steps)
    before = steps[0][1].clone()
    steps[0][0].data.add_(1.0)
    average.update(2)
    assert steps[0][1].item() == pytest.approx(before.item() + 0.01, abs=1e-5)


def test_step_weights_restart_from_the_weights() -> None:
    weight = torch.randn(4, 4)
    quantizer = StepWeights(weight, 4)
    assert quantizer.step.item() == pytest.approx(2 * weight.abs().mean().item() / math.sqrt(7), rel=1e-6)


@pytest.mark.parametrize("name", ["ban", "lwf", "continual"])
def test_what_is_kept_of_a_quantised_student_takes_its_state(name: str) -> None:
    net = tiny.net("cifar_resnet8")
    quantize(net, weights=2)
    words = ["method.strategy=lwf"] if name == "continual" else []
    method = tiny.make(name, net, tiny.frozen(tiny.net("cifar_resnet8")), tiny.tiny_data(), *words)
    for phase in method.phases():
        if phase.begin:
            phase.begin()
    method.after_epoch()
    kept = method.past if name == "ban" else method.old
    assert {module.bits for module in kept.modules() if isinstance(module, StepWeights)} == {2, 8}


@pytest.mark.parametrize("name", ["nas-kd", "simkd"])
def test_methods_whose_export_is_no_quantised_net_are_refused_before_training(name: str) -> None:
    net = tiny.net("cifar_resnet8")
    quantize(net, weights=2)
    with pytest.raises(ValueError, match=r"cifar_resnet8 is quantised, and .*: leave student.quantize null"):
        tiny.make(name, net, tiny.frozen(tiny.net("cifar_resnet8")), tiny.tiny_data())


def test_a_run_exports_a_plain_student_and_a_quantised_file(output: Path) -> None:
    cfg = tiny.composed(
        "method=none", "student=resnet8", "student.quantize={weights: 4, activations: 8}",
        "dataset.fraction=0.15", "precision=fp32", f"output={output}", "schedule.batch_size=32",
    )  # fmt: skip
    folder = Path(config.identity(cfg)["folder"])
    result = run(cfg, folder, table=False)
    found = result["quantized"]
    assert found["weights"] == [4, 8] and found["activations"] == [8]
    assert found["bytes"] == (folder / found["file"]).stat().st_size
    assert 4 < found["full_precision_bytes"] / found["bytes"] < 8
    assert found["accuracy"] == pytest.approx(result["accuracy"]["last"], abs=0.6)
    net = build("cifar_resnet8", 10, in_chans=1, size=8)
    load_weights(net, folder / "student.safetensors")
    assert not is_quantized(net) and result["params"] == net.params()
    assert json.loads((folder / "result.json").read_text())["quantized"] == found
    bad = tiny.composed("method=none", "student=resnet8", "student.quantize={bits: 4}", f"output={output}")
    with pytest.raises(ValueError, match="student.quantize"):
        run(bad, Path(config.identity(bad)["folder"]), table=False)
