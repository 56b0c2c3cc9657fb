"""What the tests of methods across modalities share."""

from __future__ import annotations

import numpy as np
import torch

from distill.config import DataSpec
from distill.content.readers import Arrays, Part
from distill.data.loading import from_arrays
from distill.models import build
from tests import tiny

CFG = {"name": "pairs", "in_chans": 3, "size": 8, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "pad": 2}


def data(**views):
    random = np.random.RandomState(0)
    parts = [Part(random.randint(256, size=(n, 8, 8, 3), dtype=np.uint8), np.arange(n) % 3) for n in (12, 6)]
    return from_arrays(Arrays(*parts, ["a", "b", "c"]), DataSpec.of({**CFG, "views": views}), torch.device("cpu"))


def method_on(name: str, viewed, *overrides: str):
    student, teacher = (
        build(model, 3, in_chans=chans, size=8, seed=seed)
        for model, chans, seed in (
            ("cifar_resnet8", viewed.info.in_chans, 1),
            ("cifar_resnet14", viewed.info.for_teacher.in_chans, 2)
        )
    )  # fmt: skip
    return tiny.make(name, student, teacher, viewed, *overrides)
