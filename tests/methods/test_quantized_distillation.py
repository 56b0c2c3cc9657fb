"""quantized-distillation: Model compression via distillation and quantization; what all quantising methods refuse."""

from __future__ import annotations

import pytest
import torch

from distill import config
from distill.config.check import check
from distill.models.fake_quant import BucketWeights
from distill.models.quant import quantize
from tests import tiny


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
