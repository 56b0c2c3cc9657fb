"""The nets of the MNIST papers: counts against arithmetic, forward passes by hand, and what they show."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.config import resolve
from distill.config.check import check
from distill.models import FeatureNet, build
from distill.run import make_method
from distill.teachers.forward import Teachers
from tests import tiny

LENETS = {"mnist_lenet5": (6, 16, 120, 84), "mnist_lenet5_half": (3, 8, 60, 42)}  # DAFL's lenet.py
MNIST = ("dataset=mnist", "dataset.size=28", "teacher=none")


def digits(batch: int = 4, size: int = 28) -> Tensor:
    return torch.randn(batch, 1, size, size, generator=torch.Generator().manual_seed(1))


def mlp(**args: object) -> FeatureNet:
    return build("mnist_mlp", 10, in_chans=1, size=28, args=args, seed=0)


# ---- fully connected nets


@pytest.mark.parametrize(
    ("hidden", "params"), [((1200, 1200), 2_395_210), ((800, 800), 1_276_810), ((30, 30), 24_790), ((50,), 39_760)]
)
def test_parameters_and_macs_of_mlps_are_those_of_their_matrices(hidden: tuple[int, ...], params: int) -> None:
    net = mlp(hidden=list(hidden))
    assert net.params() == params
    assert net.macs() == params - sum(hidden) - 10  # all but the biases


@pytest.mark.parametrize("name", ["mlp1200", "mlp800", "mlp300", "mlp30"])
def test_the_configured_mlps_have_the_width_of_their_name(name: str) -> None:
    student, teacher = tiny.composed(*MNIST, f"student={name}").student, tiny.composed(f"teacher={name}").teacher
    net = mlp(**student.args)
    assert net.embedding_dim == int(name.removeprefix("mlp")) and len(net.model.layers) == 2
    assert student.args == teacher.args and student.model == teacher.model
    assert (net.model.input_dropout, net.model.dropout) == ((0.2, 0.5) if name == "mlp1200" else (0, 0))


def test_an_mlp_computes_what_its_matrices_say() -> None:
    net, x = mlp(hidden=[20, 15], input_dropout=0.2, dropout=0.5).eval(), digits()
    first, second = net.model.layers
    hidden = (x.reshape(4, 784) @ first.weight.T + first.bias).clamp(min=0)
    hidden = (hidden @ second.weight.T + second.bias).clamp(min=0)
    out = net(x)
    assert torch.allclose(out.embedding, hidden, atol=1e-6)
    assert torch.allclose(out.logits, hidden @ net.classifier.weight.T + net.classifier.bias, atol=1e-6)
    assert torch.equal(out.logits, net.model(x))
    assert torch.equal(out.logits, net(x.contiguous(memory_format=torch.channels_last)).logits)


def test_an_mlp_shows_no_maps() -> None:
    net = mlp(hidden=[20]).eval()
    out = net(digits())
    assert (out.features, out.preacts, out.stem, net.shapes, net.stem_shape) == ([], None, None, [], None)
    assert net.model.forward_intermediates(digits(), intermediates_only=True) == []
    with pytest.raises(ValueError, match="MLP has no maps"):
        net.classify(torch.zeros(1, 20, 1, 1))
    with pytest.raises(ValueError, match="mnist_mlp has no BatchNorm"):
        net.bn_before_relu()


def test_weights_of_an_mlp_are_small_and_normal() -> None:
    for layer in [m for m in mlp(hidden=[400, 400]).modules() if isinstance(m, nn.Linear)]:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.04)
        assert not layer.bias.any()
    layer = mlp(hidden=[400], init_std=None).model.layers[0]
    assert layer.weight.std().item() == pytest.approx((1 / (3 * 784)) ** 0.5, rel=0.02) and layer.bias.any()


def test_dropout_takes_pixels_and_hidden_units_at_their_own_rates() -> None:
    net, seen = mlp(hidden=[500, 500], input_dropout=0.2, dropout=0.5).train(), []
    for layer in (*net.model.layers, net.classifier):
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    nn.init.ones_(net.model.layers[0].bias), nn.init.ones_(net.model.layers[1].bias)  # all units are active
    torch.manual_seed(0)
    x = torch.ones(64, 1, 28, 28)
    out = net(x)
    pixels, first, second = seen
    assert (pixels == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert pixels.max().item() == pytest.approx(1 / 0.8)
    assert (first == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (second == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(out.embedding, second)
    assert torch.equal(net.eval()(x).logits, net(x).logits)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"hidden": []}, "must be widths of its hidden layers"),
        ({"hidden": [100, 0]}, "must be widths of its hidden layers"),
        ({"dropout": 1.0}, "dropout=1.0 of an MLP must be in"),
        ({"input_dropout": -0.1}, "input_dropout=-0.1"),
    ],
)
def test_refusals_of_an_mlp(args: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlp(**args)


def test_an_mlp_refuses_images_of_another_size() -> None:
    net = mlp(hidden=[20])
    with pytest.raises(ValueError, match="1x28x28 images"):
        net(digits(2, 32))
    assert build("mnist_mlp", 10, size=8, args={"hidden": [20]}).params() == (3 * 64 + 1) * 20 + 210


@pytest.mark.parametrize("method", ["at", "byot", "fitnet", "fsp", "ofd", "one", "semckd", "simkd", "zskt"])
def test_methods_on_maps_refuse_an_mlp_by_name(method: str) -> None:
    net = tiny.net("mnist_mlp", hidden=[8])
    with pytest.raises(ValueError, match=f"{method} reads maps, and mnist_mlp has none, .*method="):
        tiny.make(method, net, tiny.net("cifar_resnet8", 1), tiny.tiny_data())


def test_a_command_that_reads_maps_of_an_mlp_is_refused_before_a_teacher_is_trained() -> None:
    """By the student, by a teacher, and where a run is made without the command line."""
    byot = tiny.composed(*MNIST, "student=mlp30", "method=byot")
    with pytest.raises(ValueError, match="byot reads maps, and mnist_mlp has none"):
        check(byot)
    with pytest.raises(ValueError, match="byot reads maps, and mnist_mlp has none"):
        make_method(resolve(byot), tiny.tiny_data(), Teachers(), torch.device("cpu"))
    with pytest.raises(ValueError, match="at reads maps, and mnist_mlp has none"):
        check(tiny.composed("dataset=mnist", "teacher=mlp300", "student=LeNet5", "method=at"))
    check(tiny.composed("dataset=mnist", "pair=mlp1200_mlp30", "method=kd"))


# ---- LeNet-5


@pytest.mark.parametrize(
    ("name", "params", "macs"), [("mnist_lenet5", 61_706, 416_520), ("mnist_lenet5_half", 15_738, 133_740)]
)
def test_parameters_and_macs_of_lenets(name: str, params: int, macs: int) -> None:
    a, b, c, d = LENETS[name]
    assert params == 26 * a + (25 * a + 1) * b + (25 * b + 1) * c + (c + 1) * d + (d + 1) * 10
    assert macs == 28**2 * 25 * a + 10**2 * 25 * a * b + 25 * b * c + c * d + d * 10
    net = build(name, 10, in_chans=1, seed=0)
    assert (net.params(), net.macs()) == (params, macs)
    assert (net.shapes, net.stem_shape, net.embedding_dim) == ([(a, 28, 28), (b, 10, 10), (c, 1, 1)], None, c)


@pytest.mark.parametrize("name", LENETS)
def test_a_lenet_computes_what_its_layers_say(name: str) -> None:
    net, x = build(name, 10, in_chans=1, seed=0), digits(size=32)
    layers = dict(net.model.named_parameters())

    def convolved(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, layers[f"{name}.weight"], layers[f"{name}.bias"])

    first = convolved(x, "conv1")
    second = convolved(F.max_pool2d(F.relu(first), 2), "conv2")
    third = convolved(F.max_pool2d(F.relu(second), 2), "conv3")
    embedding = F.relu(third).flatten(1)
    hidden = F.relu(F.linear(embedding, layers["fc.0.weight"], layers["fc.0.bias"]))
    logits = F.linear(hidden, layers["fc.2.weight"], layers["fc.2.bias"])
    out = net(x)
    assert out.preacts is not None and out.stem is None
    pairs = [*zip(out.preacts, (first, second, third), strict=True), (out.embedding, embedding), (out.logits, logits)]
    assert all(torch.allclose(mine, wanted, atol=1e-6) for mine, wanted in pairs)
    assert all(torch.equal(F.relu(p), f) and p.min() < 0 for p, f in zip(out.preacts, out.features, strict=True))
    assert torch.equal(net.classifier(out.embedding), out.logits)
    assert torch.equal(net.classify(out.features[-1]), out.logits)
    sum(x.square().mean() for x in [*out.preacts, out.logits]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_timms_contract_without_a_stem() -> None:
    model, x = build("mnist_lenet5", 10, in_chans=1, seed=0).model.eval(), digits(size=32)
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        early = model.forward_intermediates(x, indices=[0, 1], stop_early=True, intermediates_only=True)
    assert torch.equal(model(x), model.forward_head(final)) and torch.equal(final, maps[-1])
    assert [info["num_chs"] for info in model.feature_info] == [m.shape[1] for m in maps] == [6, 16, 120]
    assert all(torch.equal(a, b) for a, b in zip(early, maps[:2], strict=True)) and len(early) == 2
    model.reset_classifier(7)
    assert model(x).shape == (4, 7)
    model.reset_classifier(0)
    assert model(x).shape == (4, 120)


def test_lenet_needs_32_pixels_and_four_widths() -> None:
    with pytest.raises(ValueError, match="mnist_lenet5 does not work on 1x28x28 images"):
        build("mnist_lenet5", 10, in_chans=1, size=28)
    with pytest.raises(ValueError, match="must be four positive numbers"):
        build("mnist_lenet5", 10, in_chans=1, args={"widths": [6, 16]})
