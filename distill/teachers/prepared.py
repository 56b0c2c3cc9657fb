"""Faster ways of asking a frozen teacher than running it as it was loaded."""

from __future__ import annotations

import torch

from distill.batch import Batch
from distill.engine.compiling import fold_batchnorm, half_weights
from distill.method import Consult, consult
from distill.models import FeatureNet, Outputs


class Prepared:
    """Asks copies of the teachers whose BatchNorm is folded and, under bf16 or fp16, whose weights are cast once.

    The teachers themselves stay as they were, for methods that read their BatchNorms or send gradients through them,
    and answer where autocast is off, as in the preparation of a phase.
    """

    def __init__(self, teachers: list[FeatureNet], dtype: torch.dtype = torch.float32) -> None:
        self.copies = {id(net): fold_batchnorm(net) for net in teachers}
        self._originals = teachers  # keeps the ids from being given to others
        self.half = dtype is not torch.float32
        for copy in self.copies.values() if self.half else ():
            half_weights(copy, dtype)

    def __call__(self, teacher: FeatureNet, batch: Batch) -> Outputs:
        if self.half and not torch.is_autocast_enabled(batch.inputs.device.type):
            return consult(teacher, batch)
        return consult(self.copies.get(id(teacher), teacher), batch)


class Remembered:
    """Asks once for a batch that several runs share: the answer is kept until other images come, or are written."""

    def __init__(self, consult: Consult) -> None:
        self.consult = consult
        self._answers: dict[int, tuple[torch.Tensor, int, Outputs]] = {}

    def __call__(self, teacher: FeatureNet, batch: Batch) -> Outputs:
        images, version = batch.inputs, batch.inputs._version
        known = self._answers.get(id(teacher))
        if known is None or known[0] is not images or known[1] != version:
            self._answers[id(teacher)] = known = (images, version, self.consult(teacher, batch))
        return known[2]
