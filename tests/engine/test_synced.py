"""BatchNorm over all processes: of one process it is BatchNorm, whatever its kind. Of several: test_parallel."""

from __future__ import annotations

import copy
import inspect
from contextlib import nullcontext

import pytest
import torch
from timm.layers import BatchNormAct2d, EvoNorm2dB0
from torch import nn

from distill import parallel
from distill.engine import synced
from distill.methods.nas_kd import NASKD
from distill.parts.heads import BatchNorm
from tests import tiny

KINDS = {
    "maps": (nn.BatchNorm2d(6), (5, 6, 4, 3)),
    "vectors": (nn.BatchNorm1d(6), (5, 6)),
    "sequences": (nn.BatchNorm1d(6, momentum=None), (5, 6, 7)),
    "without weights": (nn.BatchNorm2d(6, affine=False), (5, 6, 4, 3)),
    "without statistics": (nn.BatchNorm2d(6, track_running_stats=False), (5, 6, 4, 3)),
    "timm's": (BatchNormAct2d(6), (5, 6, 4, 3)),
    "ours": (BatchNorm(6), (5, 6, 4, 3)),
}


class Own(nn.BatchNorm2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 1


def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process that takes itself for two, and what it exchanges for what all have."""
    monkeypatch.setattr(parallel, "world", lambda: 2)
    monkeypatch.setattr(synced, "_gathered", lambda row: row[None])
    monkeypatch.setattr(synced.dist, "all_reduce", lambda sums: None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_process_computes_is_batchnorm(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    several(monkeypatch)
    plain, shape = copy.deepcopy(KINDS[kind])
    torch.manual_seed(0)
    for parameter in plain.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    module, inputs = copy.deepcopy(plain), [torch.randn(shape, requires_grad=True) for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    module.__class__ = synced._synced(type(module))
    target = torch.randn(shape)
    for one, given in zip((plain, module), inputs, strict=True):
        (one(given) * target).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for (name, mine), (_, theirs) in zip(module.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)
    torch.testing.assert_close(module.state_dict(), plain.state_dict())
    torch.testing.assert_close(module.eval()(inputs[0]), plain.eval()(inputs[0]))
    assert isinstance(module, type(plain)) and type(module).__name__ == type(plain).__name__


def test_half_floats_are_summed_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    several(monkeypatch)
    module, half = nn.BatchNorm2d(6), torch.randn(5, 6, 4, 3).bfloat16()
    wanted = copy.deepcopy(module)(half.float())
    module.__class__ = synced._synced(type(module))
    found = module(half)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("module", [Own(3), EvoNorm2dB0(3)], ids=lambda module: type(module).__name__)
def test_statistics_of_batches_that_another_forward_takes_are_refused(module: nn.Module) -> None:
    method = tiny.make("kd", tiny.net("cifar_resnet8", 1), tiny.net("cifar_resnet8", 2), tiny.tiny_data())
    method.other = module
    with pytest.raises(ValueError, match=f"{type(module).__name__} has a forward of its own and cannot be sync"):
        synced.synchronize(method)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_of_a_teacher_they_are_refused_where_it_is_asked_in_train_mode(mode: str) -> None:
    teacher = tiny.net("cifar_resnet8", 2)
    teacher.model.other = EvoNorm2dB0(3)
    method = tiny.make("mgd", tiny.net("cifar_resnet8", 1), teacher, tiny.tiny_data(), f"method.teacher_mode={mode}")
    with nullcontext() if mode == "eval" else pytest.raises(ValueError, match="EvoNorm2dB0 has a forward of its own"):
        synced.synchronizable_norms(method)


def test_when_statistics_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    method = type("Plain", (), {"unsynced": None})
    assert not synced.wanted("auto", "auto", method)
    with pytest.raises(ValueError, match="one process, which sees whole batches"):
        synced.wanted("true", "auto", method)
    monkeypatch.setattr(parallel, "world", lambda: 2)
    assert synced.wanted("auto", "auto", method) and not synced.wanted("false", "auto", method)
    assert not synced.wanted("auto", "true", method) and not synced.wanted("auto", "auto", NASKD)
    with pytest.raises(ValueError, match="compile=true asks for it"):
        synced.wanted("true", "true", method)
    with pytest.raises(ValueError, match="nets of its own"):
        synced.wanted("true", "auto", NASKD)


def test_torchs_kernels_take_what_they_are_given() -> None:
    given = list(inspect.signature(synced.OnGpu.forward).parameters)[1:]
    assert given == ["input", "weight", "bias", "running_mean", "running_var", "eps", "momentum", "process_group",
                     "world_size"]  # fmt: skip
