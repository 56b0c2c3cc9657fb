"""Learning task after task: what several methods share."""

from __future__ import annotations

import pytest
import torch

from distill.data.tasks import ClassSource, part_of
from tests import tiny


def test_a_task_sees_its_classes_alone() -> None:
    data = tiny.tiny_data()
    source = data.source(batch_size=4, seed=1)
    task = ClassSource(source, [2, 3])
    batches = list(task.epoch(1))
    index = torch.cat([batch.index for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    assert len(batches) == task.steps == 2 and sorted(index.tolist()) == [2, 3, 8, 9, 14, 15, 20, 21]
    assert torch.equal(data.info.labels[index], labels), "positions count in the whole training set"
    rest = next(task.epoch(1, start=1))
    assert torch.equal(rest.inputs, batches[1].inputs) and torch.equal(rest.index, batches[1].index)
    with pytest.raises(ValueError, match="no training image"):
        ClassSource(source, [17])
    assert len(part_of(data.train, torch.tensor([1, 5]))) == 2
