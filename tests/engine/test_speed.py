"""What makes a step faster must not change what it computes."""

from __future__ import annotations

import copy
import platform
import resource

import pytest
import torch

from distill import runtime
from distill.batch import Batch
from distill.engine import compiling as speed
from distill.engine.compiling import compile_forward, fold_batchnorm, half_weights, instruction_sets, why_compile
from distill.models import Outputs, build
from distill.teachers.forward import ForwardMemo, FrozenTeachers
from tests import tiny


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is told by glibc's mallopt")
def test_large_maps_are_taken_from_the_system_once():
    runtime.keep_pages()
    faults = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(48 << 18)  # 48 MiB, more than any threshold at which glibc maps
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults) < 1000  # mapped anew, they are 12,288 pages each time


def shaken(name: str):
    """A net whose BatchNorm statistics and weights are far from their initial values."""
    net = tiny.net(name, seed=3)
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return tiny.frozen(net)


def test_what_is_compiled_for_one_instruction_set_is_found_by_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor's cache of graphs holds code and weights laid out for the CPU that it was made on."""
    net = tiny.net("cifar_resnet8")
    tags = []
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.compiler.config, "cache_key_tag", "")
    monkeypatch.setattr(torch, "compile", lambda read, **_: read)
    for name, value in (("", ""), ("ONEDNN_MAX_CPU_ISA", "AVX2"), ("TORCH_COMPILE_CACHE_KEY_TAG", "mine")):
        if name:
            monkeypatch.setenv(name, value)
        compile_forward(net, 4)
        tags.append(torch.compiler.config.cache_key_tag)
    monkeypatch.setattr(runtime, "cpu_flags", lambda: frozenset({"another"}))
    assert len({*tags, instruction_sets()}) == 4 and "mine" in tags[2]


@pytest.mark.parametrize(
    "name",
    [
        "cifar_resnet14",
        "cifar_resnet8x4",
        "cifar_wrn_16_1",
        "cifar_vgg8",
        "cifar_MobileNetV2",
        "cifar_ShuffleV1",
        "cifar_ShuffleV2",
        "cifar_ResNet50",
        "resnet18",
    ],
)
def test_folding_batchnorm_changes_nothing_but_rounding(name: str) -> None:
    net = shaken(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    folded = fold_batchnorm(net)
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in n.modules()) for n in (net, folded)]
    assert norms[1] < 0.6 * norms[0]
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        one, other = net(images), folded(images)
    for a, b in zip(
        [one.logits, one.embedding, *one.features], [other.logits, other.embedding, *other.features], strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-3, atol=2e-4 * max(1.0, a.abs().max().item()))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items()), "the original is untouched"


def test_a_convolution_whose_output_is_shown_keeps_its_batchnorm() -> None:
    """A wide net's stem convolution feeds a BatchNorm and the first shortcut: folding it would change the stem."""
    folded = fold_batchnorm(shaken("cifar_wrn_16_1"))
    kept = [name for name, m in folded.model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert "block1.layer.0.bn1" in kept and not any(name.endswith("bn2") for name in kept)


def test_prepared_teachers_give_the_losses_of_the_live_one() -> None:
    data = tiny.tiny_data()
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    method = tiny.seeded_method("kd", data)
    live = {key: value.item() for key, value in method.loss(batch).items()}
    method.teacher_forward = FrozenTeachers(list(method.teachers))
    fast = {key: value.item() for key, value in method.loss(batch).items()}
    assert fast == pytest.approx(live, rel=1e-4)
    assert method.teacher.model.fc.weight.dtype == torch.float32


def test_teachers_with_half_weights_answer_under_autocast_and_the_originals_elsewhere() -> None:
    data = tiny.tiny_data()
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    method = tiny.seeded_method("kd", data)
    live = method.teach(batch).logits
    method.teacher_forward = FrozenTeachers(list(method.teachers), torch.bfloat16)
    assert torch.equal(method.teach(batch).logits, live)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = method.teach(batch).logits
    assert not torch.equal(half, live) and torch.allclose(half, live, atol=0.1 * live.abs().max().item())


def test_half_weights_only_where_autocast_casts_anyway() -> None:
    net = half_weights(copy.deepcopy(shaken("cifar_wrn_16_1")), torch.bfloat16)
    kinds = {type(m).__name__: m.weight.dtype for m in net.modules() if getattr(m, "weight", None) is not None}
    assert kinds == {"Conv2d": torch.bfloat16, "BatchNorm2d": torch.float32, "Linear": torch.bfloat16}
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.randn(2, 3, 16, 16)).logits.dtype == torch.float32


def test_a_shared_batch_is_asked_for_once() -> None:
    asked = []

    def outputs(teacher, batch) -> Outputs:
        asked.append(teacher)
        return Outputs(torch.zeros(2, 3), [torch.zeros(2, 1)], torch.zeros(2, 4))

    remembered = ForwardMemo(outputs)
    images, other = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    labels = torch.zeros(2, dtype=torch.int64)
    first = remembered("teacher", Batch(images, labels, labels))
    assert remembered("teacher", Batch(images, labels, labels)).logits is first.logits and len(asked) == 1
    assert remembered("teacher", Batch(other, labels, labels)).logits is not first.logits and len(asked) == 2


@pytest.mark.parametrize("spoil", [
    lambda said: said.logits.div_(2.0), lambda said: said.features[0].zero_(), lambda said: said.features.pop(),
    lambda said: setattr(said, "logits", None),
])  # fmt: skip
def test_what_one_method_does_to_a_teachers_outputs_is_not_told_to_the_next(spoil) -> None:
    remembered = ForwardMemo(lambda *_: Outputs(torch.ones(2, 3), [torch.ones(2, 1)], torch.ones(2, 4)))
    labels = torch.zeros(2, dtype=torch.int64)
    batch = Batch(torch.zeros(2, 3, 4, 4), labels, labels)
    spoil(remembered("teacher", batch))
    again = remembered("teacher", batch)
    assert again.logits.sum() == 6 and [map_.sum() for map_ in again.features] == [2]


def test_nets_that_gain_by_it_are_compiled_or_all_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student, compiled = tiny.frozen(tiny.net("cifar_resnet8")), tiny.net("cifar_resnet8"), []
    monkeypatch.setattr(speed, "compile_forward", lambda net, batch: compiled.append(net))
    monkeypatch.setattr(speed, "_compiler_missing", lambda device: None)
    for setting, expected in (("auto", [teacher]), ("true", [teacher, student]), ("false", [])):
        compiled.clear()
        speed.Compiling.of(setting, 4, 10**6, torch.device("cpu"), trained=False)([teacher, student])
        assert compiled == expected


def test_compiling_is_decided_by_length_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(speed, "_compiler_missing", lambda device: None)
    assert why_compile("auto", 460, cpu) == (False, "460 steps would not pay for it")
    assert why_compile("auto", 187_680, cpu) == (True, "187680 steps pay for it")
    assert why_compile(False, 10**6, cpu)[0] is False and why_compile("true", 1, cpu)[0] is True
    monkeypatch.setattr(speed, "_compiler_missing", lambda device: "a C++ compiler")
    assert why_compile("auto", 10**6, cpu) == (False, "a C++ compiler is not here")
    with pytest.raises(ValueError, match="compile=true needs a C"):
        why_compile("true", 1, cpu)


def test_a_compiled_net_is_used_for_its_batch_and_mode_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(torch, "compile", lambda f, **_: lambda images: calls.append(len(images)) or f(images))
    net = build("cifar_resnet8", 5, size=16, seed=0).train()
    speed.compile_forward(net, 4)
    net(torch.randn(4, 3, 16, 16))
    net(torch.randn(2, 3, 16, 16))
    with torch.no_grad():
        net(torch.randn(4, 3, 16, 16))
    net.eval()(torch.randn(4, 3, 16, 16))
    assert calls == [4]
    copy.deepcopy(net).train()(torch.randn(4, 3, 16, 16))
    assert calls == [4], "a copy must not run its original's compiled code"


def test_a_net_that_cannot_be_compiled_runs_eagerly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_):
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(torch, "compile", lambda f, **_: refuse)
    net = build("cifar_resnet8", 5, size=16, seed=0).train()
    speed.compile_forward(net, 4)
    images = torch.randn(4, 3, 16, 16)
    for _ in range(2):
        assert net(images).logits.shape == (4, 5)
    assert caplog.text.count("could not be compiled") == 1 and "no such instruction" in caplog.text


def test_weights_that_are_standardised_in_forward_are_not_rounded_before() -> None:
    from timm.layers import ScaledStdConv2d, StdConv2d

    convs = [StdConv2d(3, 4, 3, padding=1), ScaledStdConv2d(3, 4, 3, padding=1)]
    images = torch.randn(2, 3, 8, 8)
    for conv in convs:
        net = tiny.net("cifar_resnet8", 1)
        net.model.conv1 = copy.deepcopy(conv)
        halved = half_weights(net, torch.bfloat16).model
        assert halved.fc.weight.dtype == torch.bfloat16
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(halved.conv1(images), conv(images))


def test_a_folded_copy_is_compared_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = shaken("cifar_wrn_16_1"), []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    noted = lambda _: seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))  # noqa: E731
    shown = speed._tensors
    monkeypatch.setattr(speed, "_tensors", lambda outputs: noted(outputs) or shown(outputs))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        fold_batchnorm(net)
        after = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {(False, "highest")} and after == (True, "high")
