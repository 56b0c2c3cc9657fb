"""Attacks."""

from __future__ import annotations

from torch import Tensor, nn

from distill.methods.bss import support
from distill.models import Outputs
from tests.reference_cases import Reference, case


class Small(nn.Module):
    """The file's net: two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        convs = [nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 12, 3, 2, 1), nn.Tanh()]
        self.net = nn.Sequential(*convs, nn.Flatten(), nn.Linear(192, 10))

    def forward(self, images: Tensor) -> Outputs:
        logits = self.net(images)
        return Outputs(logits, [], logits)


@case("bss", value=1e-4, why="ten steps, each divided by a gradient's norm")
def bss(ref: Reference) -> None:
    small, hyper = Small(), ref.hyper
    ref.load(small, "")
    steps = {"steps": hyper["num_steps"], "rate": hyper["step_alpha"], "bound": 2.5}
    moved = support(small, ref.input("x"), ref.input("target"), **steps)
    ref.value("attacked", moved)
    ref.value("moved", (moved - ref.input("x")).abs().max())
