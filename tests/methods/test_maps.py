"""Methods on feature maps: what several methods share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.batch import Batch
from distill.engine.update import train_mode
from distill.parts.svd import align, leading_vectors
from tests import tiny
from tests.methods.given_maps import first_batch, made, random, run

MINE = ["at", "fsp", "ft", "ab", "ofd", "nst", "vid", "kdsvd", "mhgd"]


@pytest.mark.parametrize("name", ["fsp", "ab"])
def test_init_phase_leaves_the_classifier_and_the_second_phase_the_teacher(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made(name)
    init, distill = method.phases()
    assert not init.evaluates and init.epochs == 1 and distill.epochs is None
    changed = run(method, init)
    last = "student.model.fc"
    assert changed and not any(key.startswith(last) for key in changed)
    assert {key for key, _ in method.named_parameters() if not key.startswith(last)} == changed
    monkeypatch.setattr(method, "teach", lambda *_: pytest.fail("the second phase needs no teacher"))
    assert set(distill.updates[0].loss(first_batch())) == {"ce"}
    assert run(method, distill) == {key for key, _ in method.named_parameters() if key.startswith("student")}


@pytest.mark.parametrize("name", ["fsp", "ab"])
def test_weight_makes_it_joint_training(name: str) -> None:
    method = made(name, "method.weight=2", "method.init_epochs=0")
    (only,) = method.phases()
    assert set(only.updates[0].loss(first_batch())) == {"ce", name}
    with pytest.raises(ValueError, match="never be used"):
        made(name, "method.init_epochs=0")


@pytest.mark.parametrize("name, settings", [("ofd", []), ("ab", []), ("reviewkd", ["method.student_preact=true"])])
def test_maps_after_a_relu_do_not_stand_for_those_before_it(name: str, settings: list[str]) -> None:
    """timm's MobileNetV1 ends its stages in ReLU6 and does not show what comes before."""
    student, teacher = tiny.net("mobilenetv1_100", stages=3), tiny.net("cifar_resnet8")
    with pytest.raises(ValueError, match="mobilenetv1_100.*method="):
        tiny.make(name, student, teacher, tiny.tiny_data(), *settings)


@pytest.mark.parametrize("shape", [(3, 4, 6, 6), (3, 12, 2, 3)])
def test_leading_vectors_are_those_of_a_full_decomposition(shape: tuple[int, ...]) -> None:
    maps = random(*shape)
    values = torch.linalg.svdvals(maps.flatten(2).mT)
    found, sizes = leading_vectors(maps, 3)
    torch.testing.assert_close(sizes, values[:, :3])
    for n in range(shape[0]):
        matrix = maps[n].flatten(1).T
        for j in range(3):
            v = found[n, :, j]
            torch.testing.assert_close(matrix.T @ (matrix @ v), values[n, j] ** 2 * v)
            assert v.norm().item() == pytest.approx(1.0) and v.sum() >= 0


@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (1, 12, 2, 2)])
def test_leading_vectors_have_the_gradient_of_finite_differences(shape: tuple[int, ...]) -> None:
    b, c, h, w = shape
    u, v = torch.linalg.qr(random(h * w, 4, seed=1))[0], torch.linalg.qr(random(c, 4, seed=2))[0]
    maps = (u * torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64) @ v.T).T.reshape(shape).contiguous()
    weights = random(b, c, 2, seed=3)

    def value(x: Tensor) -> Tensor:
        return (leading_vectors(x, 2)[0] * weights).sum()

    leaf = maps.clone().requires_grad_()
    gradient = torch.autograd.grad(value(leaf), leaf)[0].flatten()
    for i in range(maps.numel()):
        step = torch.zeros(maps.numel(), dtype=torch.float64)
        step[i] = 1e-5
        step = step.reshape(shape)
        slope = (value(maps + step) - value(maps - step)) / 2e-5
        assert gradient[i].item() == pytest.approx(slope.item(), abs=1e-4)


def test_equal_singular_values_and_empty_maps_give_finite_gradients() -> None:
    for maps in (
        torch.eye(4).reshape(1, 4, 2, 2),
        torch.zeros(1, 4, 3, 3),
        torch.zeros(1, 6, 2, 2),
        torch.ones(1, 6, 2, 2),
    ):
        leaf = maps.clone().requires_grad_()
        found, _ = leading_vectors(leaf, 3)
        (found * torch.arange(3.0) * torch.arange(found.shape[1])[:, None]).sum().backward()
        assert leaf.grad is not None and leaf.grad.isfinite().all() and found.isfinite().all()


def test_align_picks_the_nearest_vector_and_turns_it() -> None:
    basis = torch.linalg.qr(random(1, 5, 5))[0]
    student = torch.stack([basis[..., 2], -basis[..., 0], basis[..., 1]], dim=2)
    torch.testing.assert_close(align(student, basis[..., :2]), basis[..., :2])


@pytest.mark.parametrize("name", MINE)
def test_a_last_batch_of_one_is_borne(name: str) -> None:
    method, batch = made(name), first_batch()
    one = Batch(batch.inputs[:1], batch.labels[:1], batch.index[:1])
    for phase in method.phases():
        if phase.begin:
            phase.begin()
        train_mode(method, phase)
        for update in phase.updates:
            assert all(loss.isfinite() for loss in update.loss(one).values())


@pytest.mark.parametrize(
    ("name", "pair", "words"),
    [
        ("at", ("cifar_vgg8", "cifar_resnet8"), ["4 of shapes", "3 of shapes", "method=crd"]),
        ("nst", ("cifar_resnet8", "cifar_MobileNetV2"), ["cifar_MobileNetV2", "cifar_resnet8", "method=crd"]),
        ("fsp", ("cifar_wrn_16_2", "cifar_wrn_16_1"), ["(16, 16, 16)", "(32, 16, 16)", "method=at"]),
        ("kdsvd", ("cifar_wrn_16_2", "cifar_wrn_16_1"), ["(64, 4, 4)", "(128, 4, 4)", "method=at"]),
        ("mhgd", ("cifar_wrn_16_2", "cifar_wrn_16_1"), ["(64, 4, 4)", "(128, 4, 4)", "method=at"]),
        ("ab", ("cifar_MobileNetV2", "cifar_vgg8"), ["before each stage's last ReLU", "method=at"]),
        ("ofd", ("cifar_MobileNetV2", "cifar_vgg8"), ["before each stage's last ReLU", "method=at"]),
        ("ofd", ("cifar_ShuffleV1", "cifar_resnet8"), ["BatchNorm", "cifar_ShuffleV1", "method=at"]),
    ],
)
def test_pairs_that_do_not_fit_are_refused_in_a_sentence(
    name: str, pair: tuple[str, str], words: list[str]
) -> None:
    with pytest.raises(ValueError) as refusal:
        made(name, pair=pair)
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["at", "ab", "ofd", "nst", "vid", "ft"])
def test_pairs_of_different_families_train(name: str) -> None:
    form = ["method.form=paper"] if name == "ft" else []
    method = made(name, *form, pair=("cifar_vgg8", "cifar_MobileNetV2"))
    assert all(run(method, phase, steps=1) for phase in method.phases())
