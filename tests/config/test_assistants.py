"""takd without a chain of teachers is told: it is kd by other weights."""

from __future__ import annotations

import pytest

from distill import config
from tests.compositions import composed


@pytest.mark.parametrize(("words", "told"), [
    ("method=takd teacher=resnet56", True),
    ("method=takd teacher=resnet56 teacher.chain=[resnet56]", False),
    ("method=takd teacher=resnet56 teacher.chain=[resnet56,resnet20]", False),
    ("method=kd teacher=resnet56", False),
    ("method=none", False),
])  # fmt: skip
def test_a_method_of_chains_without_one_is_told(words: str, told: bool) -> None:
    cautions = config.resolve(composed(*words.split())).cautions
    assert bool(cautions) is told
    assert not told or "resnet56 teaches by itself: teacher.chain=[resnet56,ASSISTANT]" in cautions[0]
