"""Where nets begin otherwise than by their own code: schedule.inits, in the nets, in hashes and in whole runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import distill.run as run_module
from distill import config
from distill.config.check import check
from distill.config.idle import check_idle, idle_keys
from distill.models import build
from distill.models.residual import ResidualBlock
from distill.parts.peers import make_peers
from tests import tiny
from tests.compositions import composed

SMALL = ("dataset.fraction=0.05", "schedule.epochs=1", "device=cpu", "precision=fp32", "threads=1", "compile=false")


def spread(layer: nn.Conv2d) -> tuple[float, float]:
    """The standard deviations of He's normal draw by fan out, and of torch's uniform one (a = sqrt 5: 1 / 3 fan_in)."""
    area = layer.kernel_size[0] * layer.kernel_size[1]
    return math.sqrt(2 / (area * layer.out_channels)), 1 / math.sqrt(3 * area * layer.in_channels / layer.groups)


def lasts(net: nn.Module) -> list[torch.Tensor]:
    return [block.last_norm.weight for block in net.modules() if isinstance(block, ResidualBlock)]


HEAD = 1 / math.sqrt(3 * 256)  # the standard deviation of torch's classifier of 256 inputs


@pytest.mark.parametrize(("rule", "drawn", "last", "head"), [
    (None, 0, 1, HEAD), ("torch", 1, 1, HEAD), ("timm", 0, 0, HEAD), ("mmcls", 0, 0, 0.01),
    ("small_head", 0, 1, 0.01), ("fan_out", 0, 1, math.sqrt(2 / 100)),
])  # fmt: skip
def test_what_each_rule_draws(rule: str | None, drawn: int, last: int, head: float) -> None:
    inits = {"cifar_resnet8x4": rule, "cifar_resnet8": "torch"} if rule else None
    net = build("cifar_resnet8x4", 100, inits=inits, seed=0).model
    for layer in (each for each in net.modules() if isinstance(each, nn.Conv2d) and each.in_channels > 60):
        assert float(layer.weight.detach().std()) == pytest.approx(spread(layer)[drawn], rel=0.05)
        assert (float(layer.weight.detach().abs().max()) <= spread(layer)[1] * math.sqrt(3)) is bool(drawn)
    assert len(lasts(net)) == 3 and all(bool((weight == last).all()) for weight in lasts(net))
    assert float(net.fc.weight.detach().std()) == pytest.approx(head, rel=0.05)  # type: ignore[union-attr, operator]
    bias = {"mmcls": 0, "fan_out": 0, "small_head": 0.01}.get(str(rule), head)
    assert float(net.fc.bias.detach().std()) == pytest.approx(bias, rel=0.3)  # type: ignore[union-attr, operator]


def test_timms_resnet_begins_as_mmcls_does_whatever_its_args_say() -> None:
    net = build("resnet18", 10, size=64, args={"zero_init_last": False}, inits={"resnet18": "mmcls"}, seed=0).model
    blocks = [block for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage]  # type: ignore[union-attr]
    assert len(blocks) == 8 and all(bool((block.bn2.weight == 0).all()) for block in blocks)  # type: ignore[union-attr]
    assert float(net.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.05)  # type: ignore[union-attr, operator]
    assert bool((net.bn1.weight == 1).all())  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "rule", "why"), [
    ("vit_tiny_patch16_224", "torch", "which has weights in VisionTransformer"),
    ("cifar_wrn_16_1", "mmcls", "which is no ResNet and no MobileNetV1"), ("cifar_vgg8", "timm", "which is no ResNet"),
])  # fmt: skip
def test_a_net_that_a_rule_does_not_tell_of_is_refused(name: str, rule: str, why: str) -> None:
    said = f"schedule.inits: {rule} does not say how {name} begins, {why}.*: leave that net out"
    with pytest.raises(ValueError, match=said):
        build(name, 10, size=32, inits={name: rule}, seed=0)


def test_nets_beside_the_student_begin_by_the_same_rules() -> None:
    inits = {"cifar_resnet8": "mmcls", "cifar_resnet14": "mmcls"}
    student = build("cifar_resnet8", 10, inits=inits, seed=0)
    (twin,), (other,) = make_peers(student, 2), make_peers(student, 2, ["cifar_resnet14"])
    for net in (twin, other):
        assert lasts(net) and all(bool((weight == 0).all()) for weight in lasts(net))


# ---- hashes ----


def hashed(*words: str) -> str:
    return config.identity(composed(*words))["hash"]


@pytest.mark.parametrize("words", [
    ("student=resnet8",), ("student=resnet8", "method=kd", "teacher=resnet8"),
    ("student=resnet20", "method=kd", "teacher=resnet8"),
    ("student=resnet20", "method=kd", "teacher.chain=[resnet8,resnet14]"),
    ("student=resnet20", "method=dml", "method.models=[cifar_resnet8]"),
    ("student=resnet20", "method=residual-kd", "method.assistant=cifar_resnet8", "teacher=resnet14"),
])  # fmt: skip
def test_a_rule_makes_another_run_of_those_whose_nets_it_names(words: tuple[str, ...]) -> None:
    own = ("method=none", *words)
    assert len({hashed(*own), hashed(*own, "schedule.inits={cifar_resnet8: torch}"),
                hashed(*own, "schedule.inits={cifar_resnet8: mmcls}")}) == 3  # fmt: skip


@pytest.mark.parametrize("words", [
    ("method=kd", "student=resnet20", "teacher=resnet14"),
    ("method=kd", "student=resnet20", "teacher=resnet8", "teacher.weights=none"),
    ("method=none", "student=timm", "student.model=resnet10t", "student.weights=pretrained"),
])  # fmt: skip
def test_and_no_other_of_those_whose_nets_it_does_not_make(words: tuple[str, ...]) -> None:
    inits = "schedule.inits={cifar_resnet8: torch, resnet10t: torch}"
    assert hashed(*words) == hashed(*words, inits)
    with pytest.raises(ValueError, match="names no net of the run that begins anew"):
        check_idle(idle_keys(composed(*words, inits), ["schedule.inits"]))


@pytest.mark.parametrize(("inits", "said"), [
    ("{cifar_resnet8: he}", "there is no rule 'he': choose from torch, timm, mmcls, small_head, fan_out"),
    ("{cifar_resent8: torch}", "inits has a rule for 'cifar_resent8', and there is no such model: did you mean"),
])  # fmt: skip
def test_what_there_is_not_is_refused(inits: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(composed("method=none", f"schedule.inits={inits}"))


# ---- runs ----


def test_student_and_trained_teacher_begin_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: dict[str, bool] = {}
    real = run_module.make_method

    def noted(spec: config.RunSpec, *rest: object) -> object:
        method = real(spec, *rest)  # type: ignore[arg-type]
        begun[spec.student.name] = all(bool((weight == 0).all()) for weight in lasts(method.student))
        return method

    monkeypatch.setattr(run_module, "make_method", noted)
    cfg = tiny.composed("method=kd", "student=resnet8", "teacher=resnet14", f"output={tmp_path}", *SMALL,
                        "schedule.inits={cifar_resnet8: mmcls, cifar_resnet14: mmcls}")  # fmt: skip
    run_module.run(cfg, table=False)
    assert begun == {"resnet14": True, "resnet8": True}
