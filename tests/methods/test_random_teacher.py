"""random-teacher: Efficient Knowledge Distillation from an Ensemble of Teachers."""

from __future__ import annotations

import pytest

from tests import tiny


def test_random_teacher_asks_one_teacher_a_step_and_follows_the_seed() -> None:
    data = tiny.tiny_data()
    pair = ("cifar_resnet8", "cifar_resnet8")

    def drawn(*overrides: str) -> list[int]:
        method = tiny.seeded_method("random-teacher", data, pair, *overrides)
        asked: list[int] = []
        method.teach = lambda batch, teacher: asked.append([t is teacher for t in method.teachers].index(True))  # type: ignore
        for _ in range(60):
            method.teach_all(None)
        assert len(asked) == 60
        return asked

    assert drawn() == drawn() and set(drawn()) == {0, 1, 2}
    assert set(drawn("method.odds=[1,0,1]")) == {0, 2}
    with pytest.raises(ValueError, match=r"method\.odds"):
        drawn("method.odds=[1,1]")
