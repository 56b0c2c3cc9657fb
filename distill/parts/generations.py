"""Methods in which a net teaches a new copy of itself (BAN, Tf-KD)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models.quant import twin_of
from distill.parts.peers import Ensemble


class Generations(Method):
    """The student learns from labels; then, `generations` times, it starts anew and learns from what it was.

    One phase a generation, each of the schedule's length and with a new random initialisation, whose seeds
    are drawn when the method is made. Earlier generations are kept frozen in `past` and reported, with the
    ensemble of all; the test accuracy of the run is that of the last.
    """

    def __init__(self, *nets: *Nets, generations: int, **common: Any) -> None:
        student, _, data = nets
        super().__init__(student, (), data, **common)
        if generations < 1:
            raise ValueError(f"method.generations is {generations}: a net is born again at least once.")
        self.seeds: list[int] = torch.randint(2**31, (generations,)).tolist()
        self.past = nn.ModuleList(twin_of(student, seed) for seed in self.seeds).requires_grad_(False)

    def begin(self, generation: int) -> None:
        """Keep the student as the teacher of this generation, and start it from new random weights."""
        self.past[generation - 1].load_state_dict(self.student.state_dict())
        self.student.load_state_dict(twin_of(self.student, self.seeds[generation - 1]).state_dict())

    def next_loss(self, generation: int, batch: Batch) -> Losses:
        """Loss of a later generation."""
        logits = self.student(batch.inputs).logits
        with torch.no_grad():
            logits_t = self.past[generation - 1](batch.inputs).logits
        return self.supervised(logits, batch) | {"kd": self.kd * self.inherit(logits, logits_t, batch)}

    def inherit(self, logits: Tensor, logits_t: Tensor, batch: Batch) -> Tensor:
        """Return the unweighted loss between a generation's logits [B,K] and those of the one before."""
        return self.soft_targets(logits, logits_t)

    def phases(self) -> list[Phase]:
        first = Phase("generation_0", [Update("student", self.labels_alone, [self.student])], evaluates=False)
        last = len(self.past)
        return [first] + [
            Phase(
                f"generation_{g}",
                [Update("student", partial(self.next_loss, g), [self.student])],
                begin=partial(self.begin, g),
                evaluates=g == last,
            )
            for g in range(1, last + 1)
        ]

    def reported(self) -> dict[str, nn.Module]:
        past: dict[str, nn.Module] = {f"generation_{g}": net for g, net in enumerate(self.past)}
        return {**past, "ensemble": Ensemble([*self.past, self.student])}
