"""The cheaper reductions and products: values, gradients, and where gradients lie in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill.parts.products import Gram, MeanSquare, product, rows
from tests import tiny


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (64, 32, 200), (5, 300, 1)])
def test_a_product_is_that_of_float64_whatever_lies_transposed(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x, y, z = shape
    for a in (torch.randn(x, y), torch.randn(y, x).mT):
        for b in (torch.randn(y, z), torch.randn(z, y).mT):
            wanted = a.double() @ b.double()
            torch.testing.assert_close(product(a, b).double(), wanted, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(product(a.double(), b.double()), wanted)
            half = product(a, b.bfloat16())
            assert half.dtype is torch.float32
            assert (half.double() - wanted).norm() <= 2**-6 * a.double().norm() * b.double().norm()


def test_rows_are_a_view_of_channels_last_memory() -> None:
    maps = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert rows(maps).data_ptr() == maps.data_ptr() and rows(maps).is_contiguous()
    assert torch.equal(rows(maps)[1, 7], maps[1, :, 1, 2])


def test_gradients_of_gram_and_mean_square_are_those_of_differences() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Gram.apply(x) * torch.arange(16.0).view(4, 4), x)
    assert torch.autograd.gradcheck(lambda x: Gram.apply(x.mT) * torch.arange(9.0).view(3, 3), x)
    assert torch.autograd.gradcheck(MeanSquare.apply, x)
    torch.testing.assert_close(Gram.apply(x), x @ x.mT)
    torch.testing.assert_close(MeanSquare.apply(x), x.square().mean(-1))


def test_mean_square_of_half_precision_is_summed_in_fp32() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 64).bfloat16().requires_grad_()
    found = MeanSquare.apply(x)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), x.detach().double().square().mean(-1), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert gradient.dtype is torch.bfloat16 and torch.equal(gradient, (x.detach().double() / 32).bfloat16())


def leaves(maps: list[Tensor] | None) -> list[Tensor] | None:
    return None if maps is None else [x.detach().clone().requires_grad_() for x in maps]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["at", "nst", "sp", "afd-attention", "vid", "ickd", "irg", "semckd", "ofd", "mgd", "reviewkd"]
)
def test_gradients_of_maps_lie_as_the_maps_do(name: str, dtype: torch.dtype) -> None:
    """Others are copied, or added and multiplied several times more slowly, by all that comes before."""
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data).to(memory_format=torch.channels_last)
    batch = next(iter(data.source(batch_size=8, seed=3).epoch(1)))
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        student, teacher = method.student(batch.inputs), method.teach(batch)
        student = replace(student, features=leaves(student.features), preacts=leaves(student.preacts))
        loss = torch.stack(list(method.distill(student, teacher, batch).values())).sum()
    maps = [*student.features, *(student.preacts or [])]
    gradients = [g for g in torch.autograd.grad(loss, maps, allow_unused=True) if g is not None]
    assert gradients and all(g.is_contiguous(memory_format=torch.channels_last) for g in gradients)
