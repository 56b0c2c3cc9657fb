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
from distill.config.check import check
from distill.engine.fit import train_mode
from distill.losses import kl_div
from distill.methods.apprentice import imitation_loss
from distill.models import build, load_weights
from distill.models.fake_quant import BucketWeights, StepInputs, StepWeights, lsq
from distill.models.quant import is_quantized, plain, quantize, quantizers, rounded
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


def test_buckets_are_scaled_from_smallest_to_largest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 7, requires_grad=True)  # 21 values: the last bucket of 8 holds 5
    quantizer = BucketWeights(weight, bits=2, bucket=8)
    made = quantizer(weight)
    flat = [float(v) for v in weight.flatten()]
    for first in (0, 8, 16):
        part = flat[first : first + 8]
        low, gap = min(part), (max(part) - min(part)) / 3
        for i, v in enumerate(part):
            assert made.flatten()[first + i].item() == pytest.approx(
                low + gap * round((v - low) / gap), abs=1e-5
            )
    made.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))  # straight through
    assert sorted(quantizer.codes(weight).values.unique().tolist()) == [0, 1, 2, 3]
    constant = BucketWeights(weight, 4, 8)(torch.full((2, 3), 0.25))
    assert torch.allclose(constant, torch.full((2, 3), 0.25)), "equal weights must not divide by zero"


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
    assert set(plain(net).model.state_dict()) == set(tiny.net("cifar_resnet8").model.state_dict())
    assert torch.allclose(plain(net).model.fc.weight, net.model.fc.weight)
    with pytest.raises(ValueError, match="no quantised student"):
        from distill.engine.checkpoint import export

        export(tiny.net("cifar_resnet8").model, tmp_path / "plain")
        read_quantized(tmp_path / "plain", net)


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
    assert torch.allclose(plain(net).model.bn1.weight, net.model.bn1.weight)


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


def test_imitation_is_cross_entropy_with_probabilities() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    p = [[math.exp(v) for v in row] for row in teacher.tolist()]
    q = [[math.exp(v) for v in row] for row in student.tolist()]
    total = 0.0
    for a, b in zip(p, q, strict=True):
        total -= sum(x / sum(a) * math.log(y / sum(b)) for x, y in zip(a, b, strict=True)) / 3
    loss = imitation_loss(student, teacher)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    loss.backward()
    assert student.grad[0, 0].item() == pytest.approx(
        (q[0][0] / sum(q[0]) - p[0][0] / sum(p[0])) / 3, abs=1e-6
    )


def run_updates(method, phase, data, steps: int = 2) -> None:
    if phase.begin:
        phase.begin()
    train_mode(method, phase)
    parameters = [
        p for update in phase.updates for m in update.trains for p in m.parameters() if p.requires_grad
    ]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    for batch in list(data.source(batch_size=8, seed=3).epoch(1))[:steps]:
        for update in phase.updates:
            optimizer.zero_grad()
            sum(update.loss(batch).values()).backward()
            optimizer.step()


def test_apprentice_schemes_train_what_the_paper_says() -> None:
    data = tiny.tiny_data()
    pair = ("cifar_resnet14", "cifar_resnet8")
    b = tiny.seeded_method("apprentice", data, pair)
    assert b.companion is None and [phase.name for phase in b.phases()] == ["distill"]
    batch = next(data.source(batch_size=8, seed=3).epoch(1))
    assert set(b.loss(batch)) == {"ce", "kd"}
    a = tiny.seeded_method("apprentice", data, pair, "method.scheme=A")
    losses = a.joint_loss(batch)
    assert set(losses) == {"ce_teacher", "ce", "kd"}
    losses["kd"].backward()
    assert a.companion.model.fc.weight.grad.abs().sum() > 0 < a.student.model.fc.weight.grad.abs().sum()
    assert all(p.grad is None for p in a.teacher.parameters())
    c = tiny.seeded_method("apprentice", data, pair, "method.scheme=C")
    full, tune = c.phases()
    middle = c.student.model.layer2[0].conv1
    run_updates(c, full, data)
    assert middle.weight.unique().numel() > 16 and not middle.input_quantizer.ready
    run_updates(c, tune, data)
    assert middle.weight.unique().numel() <= 16 and middle.input_quantizer.ready
    with pytest.raises(ValueError, match="schemes A, B and C"):
        tiny.seeded_method("apprentice", data, pair, "method.scheme=D")


def test_qkd_phases_train_what_the_paper_says() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("qkd", data)
    assert [phase.name for phase in method.phases()] == ["self-study", "co-study", "tutor"]
    for phase, teacher_moves in zip(method.phases(), (False, True, False), strict=True):
        teacher = {k: v.clone() for k, v in method.tutor.state_dict().items()}
        student = method.student.model.fc.bias.detach().clone()
        run_updates(method, phase, data)
        moved = any(not torch.equal(v, teacher[k]) for k, v in method.tutor.state_dict().items())
        assert moved is teacher_moves, phase.name
        assert not torch.equal(student, method.student.model.fc.bias)
    fresh = tiny.net("cifar_resnet14", seed=2)
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in method.teacher.state_dict().items())
    batch = next(data.source(batch_size=8, seed=3).epoch(1))
    method.student_loss(batch)
    losses = method.teacher_loss(batch)
    wanted = 4 * kl_div(method.tutor(batch.inputs).logits, method.counted[0], 2.0)
    assert losses["kd_teacher"].item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["quantized-distillation", "apprentice", "qkd"])
def test_a_method_that_quantises_the_student_is_not_given_a_quantised_one(name: str) -> None:
    cfg = tiny.composed(f"method={name}", "teacher=resnet8", "student=resnet8", "student.quantize={weights: 4}")
    with pytest.raises(ValueError, match=f"{name} quantises the student itself: leave student.quantize null"):
        check(cfg)
    net = tiny.net("cifar_resnet8")
    quantize(net)
    with pytest.raises(ValueError, match="quantised already"):
        tiny.make(name, net, tiny.net("cifar_resnet8"), tiny.tiny_data())


def test_each_row_of_the_experiment_runs_its_own_quantiser() -> None:
    found = {}
    for name in ("none", "quantized-distillation", "apprentice", "qkd"):
        cfg = tiny.composed("experiment=quantized", f"method={name}")
        found[name] = config.plain(cfg, "student.quantize")
    assert found == {
        "none": {"weights": 4, "activations": 8}, "quantized-distillation": None, "apprentice": None, "qkd": None
    }  # fmt: skip


def test_step_weights_restart_from_the_weights() -> None:
    weight = torch.randn(4, 4)
    quantizer = StepWeights(weight, 4)
    assert quantizer.step.item() == pytest.approx(2 * weight.abs().mean().item() / math.sqrt(7), rel=1e-6)


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
