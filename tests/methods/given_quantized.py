"""What the tests of quantised students share."""

from __future__ import annotations

import torch

from distill.engine.update import train_mode


def run_updates(method, phase, data, steps: int = 2) -> None:
    if phase.begin:
        phase.begin()
    train_mode(method, phase)
    parameters = [
        p for update in phase.updates for m in update.trains for p in m.parameters() if p.requires_grad
    ]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    for batch in list(data.source(batch_size=8, seed=3).epoch(1))[:steps]:
        for update in phase.updates:
            optimizer.zero_grad()
            sum(update.loss(batch).values()).backward()
            optimizer.step()
